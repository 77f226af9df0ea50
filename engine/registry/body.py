"""Files as the bodies of requests: from the file to the socket by the kernel where nothing is encrypted, else in pieces."""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint

from engine.registry.aio import aiohttp
from engine.registry.exchange import FilePart

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_writer import StreamWriter

_TURNS = 8
"""Turns of the event loop in which a request's head has left, unless it is stuck."""


class FileBody(aiohttp.Payload):
    """Sends a part of a file; a server that takes nothing for `idle` seconds ends it."""

    _value: FilePart

    def __init__(self, part: FilePart, idle: float) -> None:
        super().__init__(part)
        self._size = part.length
        self._idle = idle

    async def write(self, writer: AbstractStreamWriter) -> None:
        # Else aiohttp sends the same again after a broken connection, and an upload session gets the bytes twice.
        self._consumed = True
        part, sent = self._value, 0
        file = _Descriptor(os.open(part.path, os.O_RDONLY | os.O_CLOEXEC))
        way = await _way(cast("StreamWriter", writer), self._idle)
        while sent < part.length:
            size = min(way.stretch, part.length - sent)
            await way.send(file, part.offset + sent, size)
            sent += size
            part.moved(sent)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a file part is not text")


class _Descriptor:
    """Closed when nobody has it any more: when a task is cancelled, the thread that works for it may still use what it was given,
    and must not find another file or socket under the number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class _Pieces:
    """Through the event loop, which encrypts what it sends. `stretch`: the bytes that are sent at once."""

    stretch = 1 << 20

    def __init__(self, writer: StreamWriter, idle: float) -> None:
        self._writer, self._idle = writer, idle

    async def send(self, file: _Descriptor, offset: int, size: int) -> None:
        data = await to_thread.run_sync(_read, file, offset, size)
        with anyio.fail_after(self._idle):
            await self._writer.write(data)


class _Direct:
    """Past the event loop: the process never has the bytes, and spends a fraction of the time."""

    stretch = 4 << 20

    def __init__(self, connection: _Descriptor, idle: float) -> None:
        self._connection, self._idle = connection, idle

    async def send(self, file: _Descriptor, offset: int, size: int) -> None:
        try:
            await to_thread.run_sync(partial(_send, self._connection, file, offset, size, self._idle))
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
                return _Direct(_Descriptor(os.dup(transport.get_extra_info("socket").fileno())), idle)
            await checkpoint()
    return _Pieces(writer, idle)


def _read(file: _Descriptor, offset: int, size: int) -> bytes:
    data = os.pread(file.number, size, offset)
    if len(data) < size:
        raise _shorter()
    return data


def _send(connection: _Descriptor, file: _Descriptor, offset: int, size: int, idle: float) -> None:
    """Sends bytes of a file over a socket that does not block."""
    end, room = offset + size, select.poll()
    room.register(connection.number, select.POLLOUT)
    while offset < end:
        try:
            sent = os.sendfile(connection.number, file.number, offset, end - offset)
        except BlockingIOError:
            if not room.poll(idle * 1000):
                raise TimeoutError from None
            continue
        if not sent:
            raise _shorter()
        offset += sent


def _shorter() -> OSError:
    return OSError(errno.EIO, "the file became shorter while it was sent")
