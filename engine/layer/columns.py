"""Entries by columns: numbers in arrays, texts in lists. A fraction of the entries' own size in memory, and quick to make bytes of.

The bytes are those of a layer's index and of what is sent to a worker to be packed. They are versioned and carry a checksum; what
cannot be read is a `ContentError`.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import NamedTuple, get_args
from zlib import crc32

from msgspec import Struct

from engine.errors import ContentError
from engine.layer.entries import Entry, Kind

KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds by their number."""

NUMBERS: Mapping[Kind, int] = {kind: number for number, kind in enumerate(KINDS)}

Extra = tuple[int, int, tuple[tuple[str, bytes], ...]]
"""What few entries have: device numbers and extended attributes."""

_NO_EXTRA: Extra = (0, 0, ())
_MAGIC = b"aniko-index 2\n"
_MODES = 0o7777
_BAD = re.compile(rb"/\.{0,2}[/\0]"), re.compile(rb"\0(?:\.{0,2}/|\.\.?\0)")
"""Components of paths joined by NUL that are none (the root's alone may be empty), as what begins with a letter: that is quick."""


class Numbers(NamedTuple):
    """The fields of entries that are numbers."""

    mode: array[int]
    uid: array[int]
    gid: array[int]
    size: array[int]
    mtime: array[int]


class Columns(Struct):
    """As many rows as there are paths. What few rows have is by row: links (of symlinks and hard links) and `Extra`s. The digest of
    a row counts if it is `known`."""

    paths: list[bytes]
    kinds: bytes
    numbers: Numbers
    links: dict[int, bytes]
    digests: bytes
    """Of contents (see `hashing`), 32 bytes for each row."""
    known: bytes
    """1 for each row that has a digest, else 0."""
    extras: dict[int, Extra]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Columns:
        """The columns of some entries."""
        columns = list(zip(*entries, strict=True)) or [()] * len(Entry._fields)
        paths, kinds, mode, uid, gid, size, mtime, links, digests, major, minor, xattrs = columns
        rare = {i: (major[i], minor[i], xattrs[i]) for i in range(len(paths)) if xattrs[i] or major[i] or minor[i]}
        none = bytes(32)
        raw = b"".join([bytes.fromhex(digest) or none for digest in digests]) if any(digests) else none * len(paths)
        return cls(list(paths), bytes(map(NUMBERS.__getitem__, kinds)),
                   Numbers(*(array("q", column) for column in (mode, uid, gid, size, mtime))),
                   {i: link for i, link in enumerate(links) if link}, raw, bytes(map(bool, digests)), rare)  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def entries(self) -> Iterator[Entry]:
        """The rows as entries, made one after the other."""
        return map(partial(tuple.__new__, Entry), self._rows())

    def row(self, at: int) -> Entry:
        """One row as an entry."""
        digest = self.digests[at * 32 : at * 32 + 32].hex() if self.known[at] else ""
        mode, uid, gid, size, mtime = (column[at] for column in self.numbers)
        return Entry(self.paths[at], KINDS[self.kinds[at]], mode, uid, gid, size, mtime, self.links.get(at, b""), digest,
                     *self.extras.get(at, _NO_EXTRA))

    def _rows(self) -> Iterator[tuple[object, ...]]:
        count, extras = len(self.paths), self.extras
        links = map(self.links.get, range(count), repeat(b"")) if self.links else repeat(b"", count)
        digests: Iterable[str] = repeat("", count)
        if any(self.known):
            digests = (self.digests[at * 32 : at * 32 + 32].hex() if known else "" for at, known in enumerate(self.known))
        rare: Iterable[Iterable[object]] = repeat(0, count), repeat(0, count), repeat((), count)
        if extras:
            rare = zip(*(extras.get(at, _NO_EXTRA) for at in range(count)), strict=True)
        return zip(self.paths, map(KINDS.__getitem__, self.kinds), *self.numbers, links, digests, *rare, strict=True)

    def extend(self, other: Columns) -> None:
        """Adds another's rows at the end."""
        start = len(self.paths)
        self.paths += other.paths
        self.kinds += other.kinds
        for mine, more in zip(self.numbers, other.numbers, strict=True):
            mine.extend(more)
        self.links.update((start + at, link) for at, link in other.links.items())
        self.digests += other.digests
        self.known += other.known
        self.extras.update((start + at, extra) for at, extra in other.extras.items())


def encode(columns: Columns, files: Mapping[bytes, bytes] | None = None) -> bytes:
    """An index of these entries, with the contents of some files, as bytes."""
    count, links, known = len(columns), columns.links, columns.known
    texts = b"\0".join([links.get(at, b"") for at in range(count)]) if links else bytes(max(count - 1, 0))
    digests = columns.digests if all(known) else b"".join([columns.digests[at * 32 : at * 32 + 32]
                                                           for at, there in enumerate(known) if there])  # fmt: skip
    parts = [b"\0".join(columns.paths), columns.kinds]
    parts += [little(column) for column in columns.numbers]
    parts += [texts, digests, known, b"".join(_extra(at, *columns.extras[at]) for at in sorted(columns.extras))]
    for path, content in sorted((files or {}).items()):
        parts += [path, content]
    framed = [piece for part in [count.to_bytes(8, "little"), *parts] for piece in (len(part).to_bytes(8, "little"), part)]
    sum_ = 0
    for piece in framed:
        sum_ = crc32(piece, sum_)
    return b"".join([_MAGIC, sum_.to_bytes(4, "little"), *framed])


def check(data: bytes) -> None:
    """Raises `ContentError` for what `encode` of this version has not made."""
    start = len(_MAGIC) + 4
    if not data.startswith(_MAGIC) or crc32(memoryview(data)[start:]) != int.from_bytes(data[len(_MAGIC) : start], "little"):
        raise ContentError("a layer's index is of another version, or corrupt")


def decode(data: bytes) -> tuple[Columns, dict[bytes, bytes]]:
    """What `encode` was given; raises `ContentError` for what makes no sense. The checksum is not looked at: see `check`."""
    try:
        parts = _parts(memoryview(data)[len(_MAGIC) + 4 :], 8)
        count = int.from_bytes(parts[0], "little")
        kinds = bytes(parts[2])
        if count != len(kinds) or (kinds and max(kinds) >= len(KINDS)):
            raise ValueError("missing rows")
        joined = bytes(parts[1])
        _check_paths(joined)
        paths = joined.split(b"\0") if count else []
        numbers = [_numbers(part) for part in parts[3:8]]
        links = _links(bytes(parts[8]), count)
        known = bytes(parts[10])
        extras = dict(map(_read_extra, _parts(parts[11], 4)))
        if {len(paths), len(known), *map(len, numbers)} != {count} or any(not 0 <= at < count for at in extras):
            raise ValueError("missing rows")
        if count and not 0 <= min(numbers[0]) <= max(numbers[0]) <= _MODES:
            raise ValueError("a mode that is none")
        columns = Columns(paths, kinds, Numbers(*numbers), links, _digests(bytes(parts[9]), known), bytes(map(bool, known)), extras)
        files = [bytes(part) for part in parts[12:]]
        return columns, dict(zip(files[::2], files[1::2], strict=True))
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise ContentError(f"a layer's index is corrupt: {error}") from error


def little(column: array[int]) -> bytes:
    """A column as bytes that are the same on all machines."""
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


def _extra(at: int, major: int, minor: int, xattrs: Sequence[tuple[str, bytes]]) -> bytes:
    fields = [b"%d %d %d" % (at, major, minor)]
    for name, value in xattrs:
        fields += [name.encode("utf-8", "surrogateescape"), value]
    record = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    return len(record).to_bytes(4, "little") + record


def _read_extra(record: memoryview) -> tuple[int, Extra]:
    head, *fields = [bytes(part) for part in _parts(record, 4)]
    at, major, minor = map(int, head.split())
    names = [field.decode("utf-8", "surrogateescape") for field in fields[::2]]
    return at, (major, minor, tuple(zip(names, fields[1::2], strict=True)))


def _parts(data: memoryview, width: int) -> list[memoryview]:
    out, at = [], 0
    while at < len(data):
        start = at + width
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data):
            raise ValueError("it is cut short")
        out.append(data[start:at])
    return out


def _links(joined: bytes, count: int) -> dict[int, bytes]:
    if joined.count(b"\0") != max(count - 1, 0):
        raise ValueError("missing links")
    if len(joined) == joined.count(b"\0"):
        return {}
    return {at: link for at, link in enumerate(joined.split(b"\0")) if link}


def _numbers(part: memoryview) -> array[int]:
    numbers = array("q")
    numbers.frombytes(part)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _digests(digests: bytes, known: bytes) -> bytes:
    present = len(known) - known.count(0)
    if len(digests) != 32 * present:
        raise ValueError("missing digests")
    if present in (0, len(known)):
        return digests or bytes(32 * len(known))
    each = iter([digests[at : at + 32] for at in range(0, len(digests), 32)])
    none = bytes(32)
    return b"".join([next(each) if there else none for there in known])


def _check_paths(paths: bytes) -> None:
    """An index may come from elsewhere: no path of it may lead out of the root."""
    framed = b"\0" + paths + b"\0"
    if any(bad.search(framed) for bad in _BAD):
        raise ValueError("a path that is none")
