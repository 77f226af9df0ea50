"""Files as the bodies of requests: from the file to the socket by the kernel where nothing is encrypted, else in pieces."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint

from engine.registry.aio import aiohttp
from engine.registry.exchange import FilePart, GrowingPart, OpenFile

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_writer import StreamWriter

_TURNS = 8
"""Turns of the event loop in which a request's head has left, unless it is stuck."""


class FileBody(aiohttp.Payload):
    """Sends a part of a file, or one that is still growing; a server that takes nothing for `idle` seconds ends it."""

    _value: FilePart | GrowingPart

    def __init__(self, part: FilePart | GrowingPart, idle: float) -> None:
        super().__init__(part)
        self._size = part.length
        self._idle = idle

    async def write(self, writer: AbstractStreamWriter) -> None:
        # Else aiohttp sends the same again after a broken connection, and an upload session gets the bytes twice.
        self._consumed = True
        part, sent = self._value, 0
        file = part.open()
        way = await _way(cast("StreamWriter", writer), self._idle)
        while (there := await part.more(sent)) > sent:
            while sent < there:
                size = min(way.stretch, there - sent)
                await way.send(file, part.offset + sent, size)
                sent += size
                part.moved(sent)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a file part is not text")


class _Pieces:
    """Through the event loop, which encrypts what it sends. `stretch`: the bytes that are sent at once."""

    stretch = 1 << 20

    def __init__(self, writer: StreamWriter, idle: float) -> None:
        self._writer, self._idle = writer, idle

    async def send(self, file: OpenFile, offset: int, size: int) -> None:
        data = await to_thread.run_sync(_read, file, offset, size)
        with anyio.fail_after(self._idle):
            await self._writer.write(data)


class _Direct:
    """Past the event loop: the process never has the bytes, and spends a fraction of the time."""

    stretch = 4 << 20

    def __init__(self, connection: OpenFile, idle: float, chunked: bool) -> None:
        self._connection, self._idle, self._chunked = connection, idle, chunked

    async def send(self, file: OpenFile, offset: int, size: int) -> None:
        try:
            await to_thread.run_sync(partial(_send, self._connection, file, offset, size, self._idle, self._chunked))
        except BaseException:
            with suppress(OSError), socket.socket(fileno=os.dup(self._connection.number)) as connection:
                connection.shutdown(socket.SHUT_RDWR)  # so that the thread, which cannot be cancelled, ends
            raise


async def _way(writer: StreamWriter, idle: float) -> _Pieces | _Direct:
    """How a request's body gets to the other side, after its head."""
    transport = writer.transport
    if transport is not None and transport.get_extra_info("sslcontext") is None:
        writer.send_headers()
        for _ in range(_TURNS):
            if not transport.get_write_buffer_size():
                # A number of our own: the other one may be closed, and given anew, while a thread uses it
                return _Direct(OpenFile(os.dup(transport.get_extra_info("socket").fileno())), idle, writer.chunked)
            await checkpoint()
    return _Pieces(writer, idle)


def _read(file: OpenFile, offset: int, size: int) -> bytes:
    data = os.pread(file.number, size, offset)
    if len(data) < size:
        raise _shorter()
    return data


def _send(connection: OpenFile, file: OpenFile, offset: int, size: int, idle: float, chunked: bool) -> None:
    """Sends bytes of a file over a socket that does not block: as a chunk (RFC 9112, section 7.1), or as they are."""
    out, room = connection.number, select.poll()
    room.register(out, select.POLLOUT)

    def through(some: Callable[[int], int], count: int) -> None:
        done = 0
        while done < count:
            try:
                sent = some(done)
            except BlockingIOError:
                if not room.poll(idle * 1000):
                    raise TimeoutError from None
                continue
            if not sent:
                raise _shorter()
            done += sent

    def words(text: bytes) -> None:
        through(lambda done: os.write(out, text[done:]), len(text))

    if chunked:
        words(b"%x\r\n" % size)
    through(lambda done: os.sendfile(out, file.number, offset + done, size - done), size)
    if chunked:
        words(b"\r\n")


def _shorter() -> OSError:
    return OSError(errno.EIO, "the file became shorter while it was sent")
