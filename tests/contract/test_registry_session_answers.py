"""Answers whose bodies are read as they come: in all framings, cut off everywhere, slow, and left alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import cast

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSStream

from engine.errors import RegistryError
from engine.registry.retry import TransientError
from engine.registry.session import PART
from tests.contract.registry_fixtures.wire import Server, anyio_backend, ask, read, running, whole
from tests.contract.test_registry_client_tls import Certificate, certificate, make_certificate

__all__ = ["anyio_backend", "certificate", "make_certificate"]

DATA = random.Random(1).randbytes(3 * PART + 7)


def chunked(data: bytes, size: int) -> bytes:
    """Data in chunks of a size."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nTrailer: x\r\n\r\n"


def answer(data: bytes, framing: str) -> bytes:
    """An answer with a body in a framing: its length, chunks of a size, or up to the end."""
    if framing == "length":
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    if framing == "end":
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + data
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(data, int(framing))


def saying(*pieces: bytes) -> Callable[[ByteStream], object]:
    """Says pieces one after the other, and then the connection ends."""

    async def say(stream: ByteStream) -> None:
        for piece in pieces:
            await stream.send(piece)
            await checkpoint()

    return say


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("framing", ["length", "end", "100", "4096", "100000", "2000000"])
async def test_a_large_body_comes_whole_in_parts_that_are_not_too_large(certificate: Certificate, framing: str,
                                                                        encrypted: bool) -> None:  # fmt: skip
    said = answer(DATA, framing)
    server = Server(said) if framing != "end" else Server(cast("bytes", saying(said)))
    async with running(server, tls=certificate.context if encrypted else None) as session:
        response = await session.send(ask(server))
        parts = [part async for part in response.parts()]
        response.close()
    assert b"".join(parts) == DATA
    assert all(0 < len(part) <= PART for part in parts)


async def test_a_body_that_is_all_there_comes_in_few_parts() -> None:
    """Nothing that is done for each part is to be done for each packet."""
    data, sent = DATA[:60_000], anyio.Event()

    async def say(stream: ByteStream) -> None:
        await stream.send(answer(data, "length"))
        sent.set()
        await stream.receive()

    server = Server(say)
    async with running(server) as session:
        response = await session.send(ask(server))
        await sent.wait()
        parts = [part async for part in response.parts()]
        response.close()
    assert b"".join(parts) == data
    assert len(parts) <= 2


@pytest.mark.parametrize("framing", ["length", "end", "3"])
async def test_an_answer_that_is_cut_off_anywhere_is_known_to_be(framing: str) -> None:
    said = answer(b"0123456789", framing)
    begin = said.index(b"\r\n\r\n") + 4
    cuts = [saying(said[:n]) for n in range(len(said))]
    server = Server(*cast("list[bytes]", cuts))
    async with running(server) as session:
        for n in range(len(said)):
            if framing == "end" and n >= begin:
                assert await whole(session, ask(server)) == (200, said[begin:n])
                continue
            with pytest.raises(TransientError, match="ended too early" if n >= begin else "closed by the other side") as raised:
                await whole(session, ask(server))
            assert raised.value.reached
    assert server.connections == len(said)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("framing", ["length", "end", "3"])
async def test_an_answer_that_comes_byte_by_byte(certificate: Certificate, framing: str, encrypted: bool) -> None:
    said = answer(b"0123456789", framing)
    server = Server(cast("bytes", saying(*(said[n : n + 1] for n in range(len(said))))))
    async with running(server, tls=certificate.context if encrypted else None) as session:
        assert await whole(session, ask(server)) == (200, b"0123456789")


@pytest.mark.parametrize("framing", ["length", "end", "50"])
async def test_a_body_that_stands_still_is_given_up(framing: str) -> None:
    said = answer(bytes(100), framing)

    async def stall(stream: ByteStream) -> None:
        await stream.send(said[:-40])
        await anyio.sleep_forever()

    server = Server(stall)
    with anyio.fail_after(5):
        async with running(server, idle=0.1) as session:
            response = await session.send(ask(server))
            with pytest.raises(TransientError, match="broke: no data in time"):
                await read(response)
            response.close()


async def test_a_body_that_is_slow_is_waited_for_as_long_as_something_comes() -> None:
    """Each part may take as long as a part may take, not all of them together."""
    taken = anyio.Event()

    async def say(stream: ByteStream) -> None:
        nonlocal taken
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            await anyio.sleep(0.05)  # this is what it is about
            await stream.send(b"x")

    server = Server(say)
    async with running(server, idle=0.2) as session:
        assert await whole(session, ask(server)) == (200, b"x" * 8)


async def test_a_body_that_was_not_read_to_its_end_closes_the_connection() -> None:
    server = Server(answer(DATA, "length"), answer(b"second", "length"))
    with anyio.fail_after(5):
        async with running(server) as session:
            response = await session.send(ask(server))
            async for _ in response.parts():
                break
            response.close()
            while server.open:
                await checkpoint()
            assert await whole(session, ask(server)) == (200, b"second")
    assert server.connections == 2


@pytest.mark.parametrize("framing", ["length", "2000"])
async def test_a_body_that_was_read_to_its_end_gives_the_connection_back(framing: str) -> None:
    server = Server(answer(DATA, framing), answer(DATA, framing))
    async with running(server) as session:
        for _ in range(2):
            response = await session.send(ask(server))
            assert await read(response) == DATA
            response.close()
    assert server.connections == 1


async def test_a_small_body_that_nobody_reads_does_not_cost_the_connection() -> None:
    """So it is with redirects."""
    server = Server(b"HTTP/1.1 307 There\r\nContent-Length: 5\r\n\r\nthere", answer(b"x", "length"))
    async with running(server) as session:
        (await session.send(ask(server))).close()
        assert await whole(session, ask(server)) == (200, b"x")
    assert server.connections == 1


async def test_two_answers_at_a_time_come_over_two_connections() -> None:
    server = Server(*[answer(DATA, "length")] * 2)
    async with running(server) as session:
        first, second = await session.send(ask(server)), await session.send(ask(server))
        assert await read(second) == DATA
        assert await read(first) == DATA
        first.close()
        second.close()
    assert server.connections == 2


@pytest.mark.parametrize("body", [b"5\r\nhello!\r\n", b"5\r\nhelloworld", b"-1\r\n", b"5\r\nhello\r\nx\r\n"])
async def test_chunks_that_make_no_sense_are_no_passing_failure(body: bytes) -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    async with running(server) as session:
        with pytest.raises(RegistryError, match="does not speak HTTP") as raised:
            await whole(session, ask(server))
    assert not isinstance(raised.value, TransientError)


async def test_what_was_changed_on_the_way_may_come_right_the_next_time(certificate: Certificate) -> None:
    async def garble(stream: ByteStream) -> None:
        assert isinstance(stream, TLSStream)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        await stream.transport_stream.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        await stream.receive()

    server = Server(garble)
    async with running(server, tls=certificate.context) as session:
        with pytest.raises(TransientError, match="broke: decryption failed or bad record mac"):
            await whole(session, ask(server))
