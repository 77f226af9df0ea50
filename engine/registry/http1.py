"""The grammar of HTTP/1.1 (RFC 9112), as far as registries need it: what is sent, and how an answer is read, without a connection.
What a server says is hostile: everything is bounded, and what can be read in two ways is refused."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote

from engine.registry.rules import Headers

HEAD_LIMIT = 64 << 10
"""Bytes of an answer's status and headers, and of what follows a chunked body."""

_HEAD_SIZE = 16 << 10
"""Bytes of an answer that are received at once before it is known how long it is."""
_LARGE_CHUNK = 64 << 10
"""Bytes of a chunk from which on it is received by itself, and not with those that follow."""

_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: .*)?")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_UNSENDABLE = re.compile(r"[\0\r\n]")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_SENDS_BODIES = frozenset({"POST", "PUT", "PATCH"})


class NoHttpError(Exception):
    """What was received is no answer; the text says why."""


class EarlyEndError(Exception):
    """The connection ended inside an answer; `begun` is whether a byte of it had arrived."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__("the answer ended too early")
        self.begun = begun


def head(method: str, target: str, host: str, headers: Mapping[str, str], length: int | None) -> bytes:
    """The bytes before a request's body of `length` bytes, or one in chunks; what of a target cannot be sent is quoted. Raises
    `ValueError` for a header that would be two."""
    lines = [f"{method} {quote(target, safe=_PRINTABLE, errors='surrogateescape')} HTTP/1.1"]
    for name, value in {"Host": host, **headers}.items():
        if _UNSENDABLE.search(value):
            raise ValueError(f"the header {name} has a line break in it")
        lines.append(f"{name}: {value}")
    if length is None:
        lines.append("Transfer-Encoding: chunked")
    elif length or method in _SENDS_BODIES:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


class Reader:
    """Reads one answer: first its `head`, then the `part`s of its body. `receive` gives the next bytes that have arrived, at most
    as many as it is asked for, nothing at the end of the connection. Both raise `NoHttpError`, `EarlyEndError`, and what `receive`
    does."""

    def __init__(self, receive: Callable[[int], Awaitable[bytes]]) -> None:
        self._receive = receive
        self._buffer = bytearray()
        self._begun = False
        self._room = HEAD_LIMIT
        self._kept = False
        self._chunked = False
        self._in_chunk = False
        self._left: int | None = 0
        """Bytes to come of the body, or of the chunk; None where it goes on to the end of the connection."""
        self._over = False

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
        if method == "HEAD" or status in (204, 304) or (method == "CONNECT" and status < 300):
            self._over = True
        elif codings:
            self._chunked = True
        elif lengths:
            self._left = int(lengths.pop())
            self._over = not self._left
        else:
            self._left, self._kept = None, False
        return status, headers

    async def part(self, most: int) -> bytes:
        """The next bytes of the body, at most `most`; nothing at its end."""
        if self._over:
            return b""
        if self._chunked:
            return await self._from_chunks(most)
        if self._left is None:
            part = self._buffered(most) or await self._receive(most)
            self._over = not part
            return part
        part = self._buffered(min(self._left, most)) or await self._some(min(self._left, most))
        self._left -= len(part)
        self._over = not self._left
        return part

    def is_whole(self) -> bool:
        """Whether the body has been read, or the rest of it is here, and the connection can carry another request."""
        if self._left and not self._chunked and self._left <= len(self._buffer):
            del self._buffer[: self._left]
            self._over = True
        return self._over and self._kept and not self._buffer

    def is_empty(self) -> bool:
        """Whether nothing has been received beyond what was read."""
        return not self._buffer

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
        line = await self._line(self._room)
        self._room -= len(line) + 1
        return line

    async def _from_chunks(self, most: int) -> bytes:
        """What has arrived of chunks, at most `most` bytes of them; nothing after the last one."""
        found = bytearray()
        while len(found) < most:
            if not self._left:
                if found and b"\n" not in self._buffer:
                    break  # what is there need not wait for what is to come
                if not await self._begin_chunk():
                    break
            elif not self._buffer:
                if found:
                    break
                if self._left >= _LARGE_CHUNK:
                    part = await self._some(min(self._left, most))
                    self._left -= len(part)
                    return part
                self._buffer += await self._some(most)
            else:
                part = self._buffered(min(self._left, most - len(found)))
                self._left -= len(part)
                found += part
        return bytes(found)

    async def _begin_chunk(self) -> bool:
        """The line between two chunks, or the length of the next one; False when that was the last one."""
        if self._in_chunk:
            self._in_chunk = False
            if await self._line(2):
                raise NoHttpError("a chunk is longer than it says")
            return True
        line = await self._line(HEAD_LIMIT)
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise NoHttpError(f"the length of a chunk is {_shown(line)}")
        self._left = int(match[1], 16)
        self._in_chunk = self._left > 0
        if not self._in_chunk:
            while await self._head_line():
                pass
            self._over = True
        return self._in_chunk

    def _buffered(self, most: int) -> bytes:
        part = bytes(self._buffer[:most])
        del self._buffer[:most]
        return part

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
        self._buffer += await self._some(_HEAD_SIZE)

    async def _some(self, most: int) -> bytes:
        part = await self._receive(most)
        if not part:
            raise EarlyEndError(begun=self._begun)
        self._begun = True
        return part


def _shown(line: bytes) -> str:
    return repr(line[:40].decode("ascii", "replace"))
