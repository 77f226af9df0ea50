"""The event loop's end of a socket to one of our processes: see `wire`."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio

from engine.workers import wire


class Channel:
    """One socket, used by one task at a time. `other` is the end to give away; it is closed here once it has been sent."""

    def __init__(self, pair: tuple[socket.socket, socket.socket] | None = None) -> None:
        """`pair` is its own end and the other one (default: a new pair)."""
        self._socket, self.other = pair or socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)

    async def send(self, message: object, fds: Sequence[int] = ()) -> None:
        """Sends a message with descriptors; raises `EOFError` when the other side is gone."""
        view = memoryview(wire.encode(message))
        ancillary = wire.rights(fds)
        try:
            while view:
                try:
                    view = view[self._socket.sendmsg([view], ancillary):]
                    ancillary = []
                except BlockingIOError:
                    await anyio.wait_writable(self._socket)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EOFError from error

    async def receive(self) -> Any:
        """Waits for a message; raises `EOFError` when the other side is gone."""
        head = await self._exactly(wire.HEADER.size)
        return pickle.loads(await self._exactly(wire.HEADER.unpack(head)[0]))

    async def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self._socket.recv_into(view)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
                continue
            except ConnectionResetError as error:
                raise EOFError from error
            if not count:
                raise EOFError
            view = view[count:]
        return data

    async def ended(self) -> None:
        """Waits until the other side has closed, as the kernel does for a process that ends; drops what still comes."""
        while True:
            try:
                if not self._socket.recv(1 << 16):
                    return
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except ConnectionResetError:
                return

    def finish(self) -> None:
        """Says that nothing more will be sent."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes this side (and the other one, if it is still here)."""
        self._socket.close()
        self.other.close()
