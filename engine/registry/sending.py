"""Files as the bodies of requests: from the file to the socket by the kernel where nothing is encrypted, else in pieces."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from functools import partial

import anyio
from anyio import to_thread

from engine.registry.connection import Connection
from engine.registry.exchange import FilePart, GrowingPart, OpenFile


async def send_body(connection: Connection, part: FilePart | GrowingPart, idle: float) -> None:
    """Sends a part of a file, or one that is still growing, this one in chunks. Raises `OSError`, which is `TimeoutError` when the
    other side takes nothing for `idle` seconds."""
    file, sent, chunked = part.open(), 0, part.length is None
    number = connection.descriptor()
    way = _Pieces(connection, idle, chunked) if number is None else _Kernel(OpenFile(number), idle, chunked)
    while (there := await part.more(sent)) > sent:
        while sent < there:
            size = min(way.stretch, there - sent)
            await way.send(file, part.offset + sent, size)
            sent += size
            part.moved(sent)
    if chunked:
        with anyio.fail_after(idle):
            await connection.send(b"0\r\n\r\n")


class _Pieces:
    """Through the event loop, which encrypts what it sends. `stretch`: the bytes that are sent at once."""

    stretch = 1 << 20

    def __init__(self, connection: Connection, idle: float, chunked: bool) -> None:
        self._connection, self._idle, self._chunked = connection, idle, chunked

    async def send(self, file: OpenFile, offset: int, size: int) -> None:
        data = await to_thread.run_sync(_read, file, offset, size)
        with anyio.fail_after(self._idle):
            await self._connection.send(b"%x\r\n%b\r\n" % (size, data) if self._chunked else data)


class _Kernel:
    """Past the event loop: the process never has the bytes, and spends a fraction of the time."""

    stretch = 4 << 20

    def __init__(self, out: OpenFile, idle: float, chunked: bool) -> None:
        self._out, self._idle, self._chunked = out, idle, chunked
        self._stop = OpenFile(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    async def send(self, file: OpenFile, offset: int, size: int) -> None:
        work = partial(_send, self._out, file, offset, size, self._idle, self._chunked, self._stop)
        try:
            await to_thread.run_sync(work, abandon_on_cancel=True)
        except BaseException:
            os.eventfd_write(self._stop.number, 1)  # the thread, which cannot be cancelled, ends by it
            raise


def _read(file: OpenFile, offset: int, size: int) -> bytes:
    data = os.pread(file.number, size, offset)
    if len(data) < size:
        raise _shorter()
    return data


def _send(connection: OpenFile, file: OpenFile, offset: int, size: int, idle: float, chunked: bool, stop: OpenFile) -> None:
    """Sends bytes of a file over a socket that does not block: as a chunk (RFC 9112, section 7.1), or as they are."""
    out, room = connection.number, select.poll()
    room.register(out, select.POLLOUT)
    room.register(stop.number, select.POLLIN)

    def through(some: Callable[[int], int], count: int) -> None:
        done = 0
        while done < count:
            try:
                sent = some(done)
            except BlockingIOError:
                ready = room.poll(idle * 1000)
                if not ready:
                    raise TimeoutError from None
                if any(number == stop.number for number, _ in ready):
                    raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)) from None
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
