"""Connections to registries, plain or encrypted, over sockets that do not block.

They are sockets and not streams of the event loop, so that a large part is received in one go, a thread can send a file through
them, and they are closed without waiting.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint

ENDED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What says that a connection ended without TLS's own word for it; which one depends on the version of Python."""

_HEAD_START = 0.25
"""Seconds that an address is given before the next one of the same host is tried beside it (RFC 8305)."""
_ENCRYPTED = 256 << 10
"""Bytes that are taken from the network to be decrypted at once."""

_RECORD = 16 << 10
"""Bytes that TLS gives at once, at most (RFC 8446, section 5.1)."""


class Connection(Protocol):
    """A connection, which fails with `OSError` (`ssl.SSLError` is one). One task may receive while another sends."""

    async def receive(self, limit: int) -> bytes:
        """The next bytes, at most `limit`; nothing at the end."""
        while True:
            try:
                data = self.read(limit)
            except BlockingIOError:
                await self.readable()
            else:
                await checkpoint()  # who sends fast must not keep everybody else waiting
                return data

    def read(self, limit: int) -> bytes:
        """As `receive`, but raises `BlockingIOError` when nothing is there now."""

    async def readable(self) -> None:
        """Waits until there may be something to `read`."""

    async def send(self, data: bytes) -> None:
        """Sends all of it."""

    def descriptor(self) -> int | None:
        """A descriptor that others may write to in place of `send`, theirs to close; None where it has to be encrypted."""

    def close(self) -> None:
        """Ends it, at once. May be called again."""

    def is_idle(self) -> bool:
        """Whether the other side has neither ended it nor said anything unasked."""
        try:
            self.read(1)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False


class Plain(Connection):
    """What is said to the socket is what goes over the network."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def read(self, limit: int) -> bytes:
        """See `Connection.read`."""
        return self._end.recv(limit)

    async def readable(self) -> None:
        """See `Connection.readable`."""
        await anyio.wait_readable(self._end)

    async def send(self, data: bytes) -> None:
        """See `Connection.send`."""
        left = memoryview(data)
        while left:
            try:
                left = left[self._end.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._end)

    def descriptor(self) -> int | None:
        """See `Connection.descriptor`."""
        return os.dup(self._end.fileno())

    def close(self) -> None:
        """See `Connection.close`."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)  # a thread that sends, or an error that is remembered, may have its `descriptor`
        self._end.close()


class Encrypted(Connection):
    """TLS over another connection. The other side's word that it ends is not waited for: lengths and digests tell whether
    something is missing."""

    def __init__(self, inner: Connection, context: ssl.SSLContext, host: str) -> None:
        self._inner = inner
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname=host)
        self._flushing = anyio.Lock()
        self._ended = False

    async def shake_hands(self) -> None:
        """Agrees on how to encrypt, and looks at the certificate; to be done once, first."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                try:
                    self._feed()
                except BlockingIOError:
                    await self._inner.readable()
            else:
                return await self._flush()

    def read(self, limit: int) -> bytes:
        """See `Connection.read`."""
        parts: list[bytes] = []
        size = 0
        while size < limit and not self._ended:
            try:
                part = self._tls.read(min(limit - size, _RECORD))
            except ssl.SSLWantReadError:
                if parts:
                    break
                self._feed()
                continue
            except ENDED:
                part = b""
            self._ended = not part
            size += len(part)
            parts.append(part)
        return b"".join(parts)

    async def readable(self) -> None:
        """See `Connection.readable`."""
        await self._flush()  # what TLS has to say by itself, to a new key for example
        await self._inner.readable()

    async def send(self, data: bytes) -> None:
        """See `Connection.send`."""
        self._tls.write(data)
        await self._flush()

    def descriptor(self) -> int | None:
        """See `Connection.descriptor`."""
        return None

    def close(self) -> None:
        """See `Connection.close`."""
        self._inner.close()

    def _feed(self) -> None:
        data = self._inner.read(_ENCRYPTED)
        self._arrived.write(data) if data else self._arrived.write_eof()

    async def _flush(self) -> None:
        if self._leaving.pending:
            async with self._flushing:
                while data := self._leaving.read():
                    await self._inner.send(data)


async def connect(host: str, port: int) -> Plain:
    """A connection to a host by name or address; raises `OSError`, the last address's if there are several."""
    addresses = await _addresses(host, port)
    if len(addresses) == 1:
        return await _connect(*addresses[0])
    won: list[Plain] = []
    failures: list[OSError] = []

    async def attempt(address: Any, failed: anyio.Event) -> None:
        try:
            made = await _connect(*address)
        except OSError as error:
            failures.append(error)
            failed.set()
        else:
            won.append(made)
            tasks.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                failed = anyio.Event()
                tasks.start_soon(attempt, address, failed)
                with anyio.move_on_after(_HEAD_START):
                    await failed.wait()
    except BaseException:
        for each in won:
            each.close()
        raise
    for each in won[1:]:
        each.close()
    if not won:
        raise failures[-1]
    return won[0]


_Address = tuple[int, int, int, Any]
"""Family, kind and protocol of a socket, and where it is to be connected to."""


async def _addresses(host: str, port: int) -> Sequence[_Address]:
    """All addresses of a host, the kinds of them in turns."""
    try:
        found: Sequence[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    kinds = [[each for each in found if (each[0] == found[0][0]) == same] for same in (True, False)]
    return [(each[0], each[1], each[2], each[4]) for each in chain.from_iterable(zip_longest(*kinds)) if each]


async def _connect(family: int, kind: int, protocol: int, address: Any) -> Plain:
    end = socket.socket(family, kind, protocol)
    try:
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            end.connect(address)
        except BlockingIOError:
            await anyio.wait_writable(end)
            if failure := end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(failure, os.strerror(failure)) from None
    except BaseException:
        end.close()
        raise
    return Plain(end)
