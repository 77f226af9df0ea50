"""A tar, member by member, as it comes out of a stream that cannot be trusted.

Read are v7, ustar, pax and GNU archives, with GNU's sparse files in all their forms. What Go's archive/tar makes of an archive is
what this makes of it, since that is what container runtimes go by: global pax headers apply to nothing, a type that is not known
is an error, one block of zeros at the end is enough, and so is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple
from zlib import adler32

from engine.errors import ContentError
from engine.layer import tarfields
from engine.layer.tarcodec import BLOCK

_ZERO = bytes(BLOCK)
_HOLE = memoryview(bytes(1 << 20))
_NAMED = frozenset(b"LK")
_EXTENDED = frozenset(b"xXg")
_KNOWN = frozenset(b"01234567S\0")
_WITH_CONTENT = frozenset(b"07S\0")


class Member(NamedTuple):
    """One member as the archive has it: the name is not cleaned, and `type` is ustar's letter (`0` for all regular files)."""

    name: bytes
    type: int
    mode: int
    uid: int
    gid: int
    size: int
    """Bytes of the file, with the holes of a sparse one."""
    mtime: int
    """Nanoseconds since the epoch."""
    link: bytes
    major: int
    minor: int
    xattrs: tuple[tuple[str, bytes], ...]
    offset: int
    """Where the content begins in the archive."""
    stored: int
    """Bytes of the content in the archive."""
    sparse: tuple[tuple[int, int], ...] | None = None
    """For a sparse file (offset, length) of what is stored; the rest is zeros."""


class TarStream:
    """The members of an archive that `chunk` gives piece by piece; an empty piece is its end.

    After `next` has returned a member its content can be read, once, with `pieces`; what is not read is skipped. All of it raises
    `ContentError` for a broken archive.
    """

    def __init__(self, chunk: Callable[[], bytes]) -> None:
        self._chunk = chunk
        self._buffer = b""
        self._view = memoryview(b"")
        self._at = 0
        self._base = 0  # the archive's offset of the buffer's first byte
        self._whose: dict[bytes, tuple[int, int, int]] = {}
        self._left = 0  # content and padding of the present member that have not been read
        self._padding = 0

    @property
    def offset(self) -> int:
        """How many bytes of the archive have been read."""
        return self._base + self._at

    def next(self) -> Member | None:
        """The next member; None at the end of the archive (there may be bytes after it)."""
        if self._left:
            at = self._at + self._left
            if at <= len(self._buffer):
                self._at = at
            else:
                self._skip(self._left)
            self._left = 0
        records: dict[bytes, bytes] = {}
        long_name = long_link = None
        while True:
            block = self._block()
            if block is None:
                if records or long_name is not None or long_link is not None:
                    raise ContentError("invalid tar: it ends after an extended header")
                return None
            kind = block[156]
            if kind in _EXTENDED:
                body = self._extension(block)
                if kind != 0x67:  # a global header is read to see that it is one, and applies to nothing
                    records = tarfields.records(body)
                else:
                    tarfields.records(body)
            elif kind in _NAMED:
                body = self._extension(block).split(b"\0", 1)[0]
                long_name, long_link = (body, long_link) if kind == 0x4C else (long_name, body)
            else:
                return self._member(block, kind, records, long_name, long_link)

    def pieces(self, member: Member) -> Iterator[memoryview]:
        """The member's stored bytes; the pieces are valid for as long as they are held."""
        left = member.stored
        while left:
            piece = self._view[self._at : self._at + left]
            size = len(piece)
            if not size:
                self._fill()
                continue
            left -= size
            self._at += size
            self._left -= size
            yield piece

    def content(self, member: Member) -> Iterator[memoryview]:
        """As `pieces`, with zeros for the holes of a sparse file."""
        if member.sparse is None:
            yield from self.pieces(member)
            return
        segments = iter(member.sparse)
        at = end = 0
        for piece in self.pieces(member):
            while piece:
                while at == end:
                    start, length = next(segments)
                    yield from _zeros(start - at)
                    at, end = start, start + length
                part = piece[: end - at]
                at += len(part)
                piece = piece[len(part) :]
                yield part
        yield from _zeros(member.size - at)

    def at_hand(self, size: int) -> memoryview | None:
        """The member's stored bytes when they are all in the buffer, else None. `size` is how many they are."""
        at = self._at
        if at + size > len(self._buffer):
            return None
        self._at = at + size
        self._left -= size
        return self._view[at : at + size]

    def drain(self) -> None:
        """Reads what comes after the end of the archive."""
        self._left = 0
        while self._buffer:
            self._base += len(self._buffer)
            self._buffer = self._chunk()
        self._view, self._at = memoryview(b""), 0

    def _block(self) -> bytes | None:
        """The next header block, checked; None at the archive's end."""
        at = self._at
        block = self._buffer[at : at + BLOCK]
        if len(block) == BLOCK:
            self._at = at + BLOCK
        else:
            block = self._read(BLOCK, may_end=True)
        if not block or block == _ZERO:
            if block and (after := self._read(BLOCK, may_end=True)) and after != _ZERO:
                raise ContentError(f"invalid tar: a block of zeros at {self.offset - 2 * BLOCK} that is not the end")
            return None
        field = block[148:156]
        try:
            told = tarfields.number(field) if field[6] or not field[:6].isdigit() else int(field[:6], 8)
        except (ContentError, ValueError):
            told = -1
        # See tarcodec for why adler32 can add up the bytes of a block that is ASCII.
        total = (adler32(block) - adler32(field)) & 0xFFFF if block.isascii() else sum(block) - sum(field)
        total += 256
        if told != total and told != total - 256 * sum(1 for byte in block if byte > 127):
            raise ContentError(f"invalid tar: the header at {self.offset - BLOCK} has a wrong checksum")
        return block

    def _extension(self, block: bytes) -> bytes:
        size = tarfields.number(block[124:136])
        if not 0 <= size <= tarfields.MOST_TEXT:
            raise ContentError(f"invalid tar: an extended header of {size} bytes")
        body = self._read(size)
        self._skip(-size % BLOCK)
        return body

    def _member(self, block: bytes, kind: int, records: dict[bytes, bytes], name: bytes | None, link: bytes | None) -> Member:
        fields = tarfields.header(block, self._whose)
        if name or link:
            fields = (name or fields[0], *fields[1:6], link or fields[6], *fields[7:])
        xattrs: tuple[tuple[str, bytes], ...] = ()
        if records:
            fields, xattrs = tarfields.amend(fields, records)
        path, mode, uid, gid, size, mtime, target, major, minor = fields
        if kind not in _KNOWN:
            raise ContentError(f"{_show(path)}: tar members of type {chr(kind)!r} are not supported")
        if kind == 0 and path.endswith(b"/"):
            kind = 0x35
        stored = size if kind in _WITH_CONTENT else 0
        if stored < 0:
            raise ContentError(f"{_show(path)}: a negative size in a tar")
        self._left = stored + -stored % BLOCK
        sparse = None
        if kind == 0x53:
            sparse, size = self._old_sparse(block)
        elif records and (b"GNU.sparse.major" in records or b"GNU.sparse.map" in records) and kind in _WITH_CONTENT:
            path = records.get(b"GNU.sparse.name", path)
            sparse, size, used = self._pax_sparse(records, stored, size)
            stored -= used
        if sparse is not None:
            tarfields.check_sparse(sparse, size, stored, path)
        if kind in _WITH_CONTENT:
            kind = 0x30
        else:
            size = 0
        values = (path, kind, mode, uid, gid, size, mtime, target, major, minor, xattrs, self._base + self._at, stored, sparse)
        return tuple.__new__(Member, values)  # quicker than its constructor

    def _old_sparse(self, block: bytes) -> tuple[tuple[tuple[int, int], ...], int]:
        """GNU's old form: the map is in the header, and in blocks after it."""
        size = tarfields.number(block[483:495])
        segments = tarfields.sparse_fields(block[386:482])
        more = block[482]
        while more:
            extension = self._read(BLOCK)
            segments += tarfields.sparse_fields(extension[:504])
            more = extension[504]
            if len(segments) > tarfields.MOST_SEGMENTS:
                raise ContentError("invalid tar: too many parts of a sparse file")
        return tuple(segments), size

    def _pax_sparse(self, records: dict[bytes, bytes], stored: int,
                    size: int) -> tuple[tuple[tuple[int, int], ...], int, int]:
        """GNU's pax forms: the map is in the records (0.0 and 0.1), or before the content (1.0). Third is what the map used."""
        real = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size") or b"%d" % size
        if b"GNU.sparse.major" not in records:
            numbers = tarfields.decimals(records[b"GNU.sparse.map"].split(b",")) if records[b"GNU.sparse.map"] else []
            return tarfields.pairs(numbers), tarfields.decimals([real])[0], 0
        if (records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor", b"0")) != (b"1", b"0"):
            raise ContentError("invalid tar: an unknown form of a sparse file")
        text, used = b"", 0
        while used < stored:
            text += self._read(BLOCK)
            used += BLOCK
            lines = text.split(b"\n")
            if len(lines) > 1:
                count = tarfields.decimals(lines[:1])[0]
                if count > tarfields.MOST_SEGMENTS:
                    raise ContentError("invalid tar: too many parts of a sparse file")
                if len(lines) > 1 + 2 * count:
                    self._left -= used
                    return tarfields.pairs(tarfields.decimals(lines[1 : 1 + 2 * count])), tarfields.decimals([real])[0], used
            if used > tarfields.MOST_TEXT:
                break
        raise ContentError("invalid tar: a broken map of a sparse file")

    def _read(self, size: int, *, may_end: bool = False) -> bytes:
        at = self._at
        out = self._buffer[at : at + size]
        self._at = at + len(out)
        if len(out) < size:
            parts = [out]
            missing = size - len(out)
            while missing:
                if not self._fill(may_end=may_end and missing == size):
                    return b""
                out = self._buffer[:missing]
                self._at = len(out)
                missing -= len(out)
                parts.append(out)
            out = b"".join(parts)
        return out

    def _skip(self, size: int) -> None:
        while size:
            step = min(size, len(self._buffer) - self._at)
            self._at += step
            size -= step
            if size:
                self._fill()

    def _fill(self, *, may_end: bool = False) -> bool:
        """Gets the next piece into the empty buffer; False at the end of the stream, where that is allowed."""
        self._base += len(self._buffer)
        self._buffer = self._chunk()
        self._view = memoryview(self._buffer)
        self._at = 0
        if not self._buffer and not may_end:
            raise ContentError("invalid tar: it is cut short (unexpected EOF)")
        return bool(self._buffer)


def _zeros(size: int) -> Iterator[memoryview]:
    while size:
        step = min(size, len(_HOLE))
        size -= step
        yield _HOLE[:step]


def _show(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
