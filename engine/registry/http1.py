"""The grammar of HTTP/1.1 (RFC 9112), as far as short requests and answers need it: what is sent, and how an answer is read,
without a connection. What a server says is hostile: everything is bounded, and what can be read in two ways is refused."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping

from engine.registry.rules import Headers

HEAD_LIMIT = 64 << 10
"""Bytes of an answer's status and headers, and of what follows a chunked body."""

_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: .*)?")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_UNSENDABLE = re.compile(r"[\0\r\n]")
_TARGET = re.compile(r"/[!-~]*")
_SENDS_BODIES = frozenset({"POST", "PUT", "PATCH"})


class NoHttpError(Exception):
    """What was received is no answer; the text says why."""


class EarlyEndError(Exception):
    """The connection ended inside an answer; `begun` is whether a byte of it had arrived."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__("the answer ended too early")
        self.begun = begun


def can_ask_for(target: str) -> bool:
    """Whether a path and query can be sent as they are."""
    return _TARGET.fullmatch(target) is not None


def head(method: str, target: str, host: str, headers: Mapping[str, str], length: int) -> bytes:
    """The bytes before a request's body of `length` bytes; raises `ValueError` for a header that would be two."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    for name, value in headers.items():
        if _UNSENDABLE.search(value):
            raise ValueError(f"the header {name} has a line break in it")
        lines.append(f"{name}: {value}")
    if length or method in _SENDS_BODIES:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


class Reader:
    """Reads one answer: first its `head`, then its `body`. `receive` gives the next bytes that have arrived, nothing at the end of
    the connection. Both raise `NoHttpError`, `EarlyEndError`, and what `receive` does."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        self._receive = receive
        self._buffer = bytearray()
        self._begun = False
        self._left = HEAD_LIMIT
        self._length: int | None = None
        self._chunked = False
        self._kept = False
        self.content = bytearray()
        """What there is of the body so far."""

    async def head(self, method: str) -> tuple[int, Headers]:
        """Status and headers of the answer to a method."""
        status, headers = await self._head()
        while status < 200:  # a promise of the answer to come
            if status == 101:
                raise NoHttpError("it changes to a protocol that was not asked for")
            status, headers = await self._head()
        codings, lengths = headers.all("transfer-encoding"), set(headers.all("content-length"))
        if codings and (lengths or [coding.lower() for coding in codings] != ["chunked"]):
            raise NoHttpError("how long its body is can be read in two ways")
        if len(lengths) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
            raise NoHttpError("its length is no number")
        if method == "HEAD" or status in (204, 304):
            self._length = 0
        elif codings:
            self._chunked = True
        elif lengths:
            self._length = int(lengths.pop())
        else:
            self._kept = False
        return status, headers

    async def body(self, most: int) -> bool:
        """Reads the body into `content`, up to `most` bytes and a few; returns whether the connection can carry another request."""
        if self._chunked:
            whole = await self._chunks(most)
        elif self._length is not None:
            whole = await self._bytes(self._length, most)
        else:
            whole = await self._rest(most)
        return whole and self._kept and not self._buffer

    async def _head(self) -> tuple[int, Headers]:
        line = await self._head_line()
        match = _STATUS.fullmatch(line)
        if match is None:
            raise NoHttpError(f"it begins with {_shown(line)}")
        pairs: list[tuple[str, str]] = []
        while line := await self._head_line():
            name, colon, value = line.partition(b":")
            if not colon or not _TOKEN.fullmatch(name):
                raise NoHttpError(f"a header of it is {_shown(line)}")
            pairs.append((name.decode("ascii"), value.strip(b" \t").decode("utf-8", "surrogateescape")))
        headers = Headers(pairs)
        self._kept = match[1] == b"1" and "close" not in ",".join(headers.all("connection")).lower()
        return int(match[2]), headers

    async def _head_line(self) -> bytes:
        """A line of what there may be `HEAD_LIMIT` bytes of in all, promises and trailers included."""
        line = await self._line(self._left)
        self._left -= len(line) + 1
        return line

    async def _chunks(self, most: int) -> bool:
        while True:
            line = await self._line(HEAD_LIMIT)
            match = _CHUNK.fullmatch(line)
            if match is None:
                raise NoHttpError(f"the length of a chunk is {_shown(line)}")
            length = int(match[1], 16)
            if not length:
                break
            if not await self._bytes(length, most):
                return False
            if await self._line(2):
                raise NoHttpError("a chunk is longer than it says")
        while await self._head_line():
            pass
        return True

    async def _bytes(self, length: int, most: int) -> bool:
        """Adds the next bytes to the body; False when they are more than are wanted."""
        while length:
            if not self._buffer:
                await self._more()
            part = self._buffer[:length]
            del self._buffer[:length]
            self.content += part
            length -= len(part)
            if len(self.content) > most:
                return False
        return True

    async def _rest(self, most: int) -> bool:
        while len(self.content) <= most:
            self.content += self._buffer
            self._buffer.clear()
            self._buffer += await self._receive()
            if not self._buffer:
                return True
        return False

    async def _line(self, limit: int) -> bytes:
        """The next line without its end, which may be a bare line feed."""
        looked = 0
        while (end := self._buffer.find(b"\n", looked)) < 0:
            looked = len(self._buffer)
            if looked > limit:
                raise NoHttpError("its headers are too long")
            await self._more()
        if end > limit:
            raise NoHttpError("its headers are too long")
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    async def _more(self) -> None:
        part = await self._receive()
        if not part:
            raise EarlyEndError(begun=self._begun)
        self._begun = True
        self._buffer += part


def _shown(line: bytes) -> str:
    return repr(line[:40].decode("ascii", "replace"))
