"""How a connection comes about where a host has several addresses, and what TLS does with what arrives."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
import pytest

from engine.registry import connection
from engine.registry.connection import Encrypted, Plain, connect
from tests.contract.test_registry_client_tls import Certificate, certificate, make_certificate

__all__ = ["certificate", "make_certificate"]

HOST = "many.invalid"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What looking up HOST finds."""
    found: list[tuple[Any, ...]] = []

    async def getaddrinfo(host: str, port: int, **_: object) -> Sequence[tuple[Any, ...]]:
        assert host == HOST
        return found

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    return found


def at(port: int, family: int = socket.AF_INET, host: str = "127.0.0.1") -> tuple[Any, ...]:
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


@pytest.fixture
def listener() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


async def test_an_address_that_refuses_is_passed_over(found: list[tuple[Any, ...]], listener: socket.socket) -> None:
    found += [at(1), at(1), at(port(listener))]
    with anyio.fail_after(5):
        made = await connect(HOST, 0)
        await made.send(b"x")
    with listener.accept()[0] as other:
        assert other.recv(1) == b"x"
    made.close()


async def test_where_all_refuse_so_does_the_host(found: list[tuple[Any, ...]]) -> None:
    found += [at(1), at(2)]
    with pytest.raises(ConnectionRefusedError):
        await connect(HOST, 0)


async def test_an_address_that_says_nothing_holds_up_the_next_one_for_a_moment_only(
        found: list[tuple[Any, ...]], listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    ended, attempt = anyio.Event(), connection._connect

    async def attempts(family: int, kind: int, protocol: int, address: Any) -> Plain:
        if address[1] == 1:
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()
        return await attempt(family, kind, protocol, address)

    monkeypatch.setattr(connection, "_connect", attempts)
    monkeypatch.setattr(connection, "_HEAD_START", 0.01)
    found += [at(1), at(port(listener))]
    with anyio.fail_after(5):
        made = await connect(HOST, 0)
    assert ended.is_set(), "the other attempt is over"
    made.close()


async def test_kinds_of_addresses_take_turns(found: list[tuple[Any, ...]]) -> None:
    found += [at(n, socket.AF_INET6, "::1") for n in (1, 2, 3)] + [at(4)]
    assert [address[3][1] for address in await connection._addresses(HOST, 0)] == [1, 4, 2, 3]


async def test_an_address_is_not_looked_up(found: list[tuple[Any, ...]]) -> None:
    assert [address[3][:2] for address in await connection._addresses("127.0.0.1", 80)] == [("127.0.0.1", 80)]
    assert [address[3][:2] for address in await connection._addresses("::1", 80)] == [("::1", 80)]


class Wire(Plain):
    """Gives what it is told, in pieces as they are, and then `BlockingIOError` or the end."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.sent = list(pieces), bytearray()

    def read(self, limit: int) -> bytes:
        if not self.pieces:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        return self.pieces.pop(0)

    async def readable(self) -> None:
        raise AssertionError("it waits")

    async def send(self, data: bytes) -> None:
        self.sent += data


class Other:
    """The other side of a `Wire`, which speaks TLS."""

    def __init__(self, certificate: Certificate) -> None:
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = certificate.context.wrap_bio(self.into, self.out, server_side=True)

    async def meet(self) -> tuple[Wire, Encrypted]:
        """A connection that has shaken hands with it."""
        wire = Wire()
        made = Encrypted(wire, ssl._create_unverified_context(), "other")

        async def readable() -> None:
            self.into.write(bytes(wire.sent))
            wire.sent.clear()
            with suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            wire.pieces.append(self.out.read())

        wire.readable = readable  # type: ignore[method-assign]
        await made.shake_hands()
        await readable()
        return wire, made

    def say(self, data: bytes) -> bytes:
        """Data, encrypted."""
        self.tls.write(data)
        return self.out.read()


async def test_records_that_are_here_are_read_together(certificate: Certificate) -> None:
    other = Other(certificate)
    wire, made = await other.meet()
    data = bytes(range(256)) * 400
    wire.pieces.append(other.say(data))
    assert made.read(1 << 20) == data, "records have 16 kB"
    wire.pieces.append(other.say(data))
    assert made.read(1000) == data[:1000]
    assert made.read(1 << 20) == data[1000:]
    with pytest.raises(BlockingIOError):
        made.read(1)


async def test_half_a_record_is_waited_for(certificate: Certificate) -> None:
    other = Other(certificate)
    wire, made = await other.meet()
    said = other.say(b"first") + other.say(b"second")
    wire.pieces.append(said[:-3])
    assert made.read(100) == b"first"
    with pytest.raises(BlockingIOError):
        made.read(100)
    wire.pieces.append(said[-3:])
    assert made.read(100) == b"second"


@pytest.mark.parametrize("polite", [True, False])
async def test_the_end_comes_after_what_was_said_before_it(certificate: Certificate, polite: bool) -> None:
    other = Other(certificate)
    wire, made = await other.meet()
    said = other.say(b"last")
    if polite:
        with pytest.raises(ssl.SSLWantReadError):
            other.tls.unwrap()
        said += other.out.read()
    wire.pieces += [said, b""]
    assert [made.read(100), made.read(100), made.read(100)] == [b"last", b"", b""]


async def test_what_was_changed_on_the_way_is_an_error(certificate: Certificate) -> None:
    other = Other(certificate)
    wire, made = await other.meet()
    said = bytearray(other.say(b"data"))
    said[-1] ^= 1
    wire.pieces.append(bytes(said))
    with pytest.raises(ssl.SSLError):
        made.read(100)


async def test_tickets_that_tls_sends_by_itself_do_not_make_a_connection_busy(certificate: Certificate) -> None:
    other = Other(certificate)
    wire, made = await other.meet()
    assert wire.pieces[0], "there are some"
    assert made.is_idle()
    wire.pieces.append(other.say(b"x"))
    assert not made.is_idle()
    wire.pieces.append(b"")
    assert not made.is_idle()


async def test_what_tls_has_to_say_by_itself_is_said_before_it_is_waited(certificate: Certificate) -> None:
    """A new key of the other side's, for example, has to be answered, or nothing more may come."""
    wire, made = await Other(certificate).meet()
    wire.pieces.clear()

    async def readable() -> None:
        assert wire.sent == b"reply"
        wire.pieces.append(b"")

    wire.readable = readable  # type: ignore[method-assign]
    made._leaving.write(b"reply")
    assert await made.receive(1) == b""
