"""Bodies of requests, and answers that do not wait for them: a server that refuses what it is being sent has to be heard."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream

from engine.registry.exchange import FilePart, GrowingPart
from engine.registry.retry import TransientError
from engine.registry.session import SHORT
from tests.contract.registry_fixtures.growing import PIECE, Writing
from tests.contract.registry_fixtures.wire import Server, anyio_backend, ask, end, linger, reset, running, whole
from tests.contract.test_registry_client_tls import Certificate, certificate, make_certificate

__all__ = ["anyio_backend", "certificate", "make_certificate"]

SIZE = 16 << 20
"""Bytes of a body: more than the buffers of both sides take."""
REFUSED = b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nno"
WAYS = ["file", "file-tls", "growing", "growing-tls", "bytes", "bytes-tls"]

pytestmark = pytest.mark.parametrize("way", WAYS)


@asynccontextmanager
async def body(way: str, folder: Path, *, ended: bool) -> AsyncIterator[bytes | FilePart | GrowingPart]:
    """A large body of a kind. The growing one has more in it than buffers take; `ended` is whether it has come to its end."""
    if way.startswith("bytes"):
        yield bytes(SIZE)
    elif way.startswith("file"):
        (folder / "blob").touch()
        os.truncate(folder / "blob", SIZE)
        yield FilePart(folder / "blob", 0, SIZE)
    else:
        with Writing(folder, pieces=SIZE // PIECE) as writing:
            writing.write(SIZE)
            part = GrowingPart(writing.departure)
            if ended:
                writing.end()
            yield part


async def sent(way: str, folder: Path, certificate: Certificate, *deeds: Callable[[ByteStream], Awaitable[object]] | bytes,
               idle: float = 5.0, answer: float = 5.0, ended: bool = False) -> tuple[int, bytes]:
    """What comes of a large upload to a server that does these deeds; it does not read more than the head by itself."""
    server = Server(*deeds, patient=False)
    async with running(server, idle, answer=answer, tls=certificate.context if way.endswith("tls") else None) as session:
        with anyio.fail_after(20):
            async with body(way, folder, ended=ended) as part:
                got = await whole(session, ask(server, "PUT", part))
                assert not session._kept, "the connection has half a body in it"
    return got


@pytest.mark.parametrize("status", [401, 413, 500])
async def test_an_answer_that_comes_first_is_heard(certificate: Certificate, tmp_path: Path, way: str, status: int) -> None:
    async def refuse(stream: ByteStream) -> None:
        await stream.send(REFUSED % status)
        await anyio.sleep_forever()

    assert await sent(way, tmp_path, certificate, refuse) == (status, b"no")


async def test_an_answer_after_which_the_connection_ends_is_heard(certificate: Certificate, tmp_path: Path, way: str) -> None:
    async def refuse(stream: ByteStream) -> None:
        await stream.send(REFUSED % 413)

    assert await sent(way, tmp_path, certificate, refuse) == (413, b"no")


async def test_an_answer_that_comes_when_some_has_been_read_is_heard(certificate: Certificate, tmp_path: Path, way: str) -> None:
    async def refuse(stream: ByteStream) -> None:
        for _ in range(20):
            await stream.receive()
        await stream.send(REFUSED[:20] % 413)
        await stream.receive()
        await stream.send(REFUSED[20:])
        await anyio.sleep_forever()

    assert await sent(way, tmp_path, certificate, refuse) == (413, b"no")


@pytest.mark.parametrize("last", [end, reset], ids=["closed", "reset"])
async def test_a_connection_that_ends_without_an_answer_is_broken(certificate: Certificate, tmp_path: Path, way: str,
                                                                  last: Callable[[ByteStream], Awaitable[object]]) -> None:
    async def take(stream: ByteStream) -> None:
        await stream.receive()
        await last(stream)

    with pytest.raises(TransientError, match=r"broke: (connection reset by peer|broken pipe|closed by the other side)"):
        await sent(way, tmp_path, certificate, take)


async def test_a_server_that_takes_nothing_is_given_up(certificate: Certificate, tmp_path: Path, way: str) -> None:
    with pytest.raises(TransientError, match="broke: no data in time"):
        await sent(way, tmp_path, certificate, linger, idle=0.2)


async def test_a_promise_is_no_answer(certificate: Certificate, tmp_path: Path, way: str) -> None:
    """Sending goes on after it."""
    read = 0

    async def promise(stream: ByteStream) -> None:
        nonlocal read
        await stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while read < SIZE - SHORT:
            read += len(await stream.receive(1 << 20))
        await stream.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await anyio.sleep_forever()

    assert await sent(way, tmp_path, certificate, promise, ended=True) == (201, b"")
    assert read > SIZE // 2


async def test_a_server_that_has_all_and_says_nothing_is_waited_for_as_long_as_for_an_answer(
        certificate: Certificate, tmp_path: Path, way: str) -> None:  # fmt: skip
    async def swallow(stream: ByteStream) -> None:
        while True:
            await stream.receive(1 << 20)

    with pytest.raises(TransientError, match="broke: no data in time"):
        await sent(way, tmp_path, certificate, swallow, answer=0.1, ended=True)


async def test_an_upload_may_take_longer_than_an_answer(certificate: Certificate, tmp_path: Path, way: str) -> None:
    """Nobody waits for an answer while there is something to send, or to wait for."""

    async def slow(stream: ByteStream) -> None:
        await anyio.sleep(0.4)  # this is what it is about
        read = 0
        while read < SIZE - SHORT:
            read += len(await stream.receive(1 << 20))
        await stream.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await anyio.sleep_forever()

    assert await sent(way, tmp_path, certificate, slow, answer=0.2, ended=True) == (201, b"")


async def test_a_connection_that_was_given_up_has_ended(certificate: Certificate, tmp_path: Path, way: str) -> None:
    """Also for as long as the error is remembered, and with it what was done: else two uploads would be under way."""
    given_up, ended = anyio.Event(), anyio.Event()

    async def wait(stream: ByteStream) -> None:
        await given_up.wait()
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await stream.receive()
        ended.set()

    server = Server(wait, patient=False)
    async with running(server, 0.2, tls=certificate.context if way.endswith("tls") else None) as session:
        async with body(way, tmp_path, ended=False) as part:
            with pytest.raises(TransientError, match="broke: no data in time") as raised:
                await whole(session, ask(server, "PUT", part))
        given_up.set()
        with anyio.fail_after(5):
            await ended.wait()
    assert raised.value.__cause__
