"""What a mount holds, as a value and as bytes: every path, the chunks of every file, and where each chunk lies. Pure.

Entries are an index's (`engine.layer.index`), sorted by path; the rest is columns of numbers. A listing may come from a registry,
so `decode` accepts only what can be written below a directory without leaving it: every path below directories of the listing, no
devices, every chunk within its pack, and no more of anything than bounds say.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from engine.cache.carry.chunks import MOST
from engine.errors import ContentError
from engine.layer.entries import Entry, parent
from engine.layer.index import Index

MOST_ENTRIES = 1_000_000
MOST_BYTES = 256 << 20
"""Of an encoded listing. One of 100 000 files is about 10 MiB, before compression."""
MOST_PACK = 16 << 20
"""Bytes of a pack before compression. What is written here has at most `packing.FULL` and a chunk."""
MOST_PATH = 4000

_MAGIC = b"aniko-mount 1\n"
_KINDS = frozenset({"file", "dir", "symlink", "hardlink"})


class Chunk(NamedTuple):
    """A chunk: sha256 and size in bytes, the number of the pack it lies in, and its place in that, uncompressed."""

    digest: bytes
    size: int
    pack: int
    offset: int


class Listing(NamedTuple):
    """A mount's paths, and of each the numbers of its chunks in `table` (empty for what is no file, or empty)."""

    entries: tuple[Entry, ...]
    chunks: tuple[tuple[int, ...], ...]
    table: tuple[Chunk, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)

    @property
    def files(self) -> int:
        """How many files there are."""
        return sum(entry.kind == "file" for entry in self.entries)


def encode(listing: Listing) -> bytes:
    """A listing as bytes; equal listings give equal bytes."""
    digests, sizes, packs, offsets = zip(*listing.table, strict=True) if listing.table else ((), (), (), ())
    parts = [
        Index(listing.entries).to_bytes(), _pack([len(numbers) for numbers in listing.chunks]),
        _pack(_backwards(number for numbers in listing.chunks for number in numbers)),
        b"".join(digests), _pack(sizes), _pack(packs), _pack(offsets),
    ]  # fmt: skip
    return _MAGIC + b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def decode(data: bytes, packs: int) -> Listing:
    """The listing that `encode` made, whose chunks lie in so many packs; raises `ContentError` for anything else."""
    try:
        index, counts, numbers, digests, *columns = _parts(data)
        entries = Index.from_bytes(index).entries
        table = _table(digests, [_unpack(column) for column in columns], packs)
        chunks = _chunks(_unpack(counts), _forwards(_unpack(numbers)), len(table))
    except (ValueError, IndexError) as error:
        raise ContentError(f"the listing of a cache mount is corrupt: {error}") from error
    if len(entries) != len(chunks) or len(entries) > MOST_ENTRIES:
        raise ContentError(f"the listing of a cache mount has {len(entries)} entries and {len(chunks)} rows of chunks")
    _check(entries, chunks, table)
    return Listing(entries, chunks, table)


def _parts(data: bytes) -> list[bytes]:
    if not data.startswith(_MAGIC):
        raise ValueError("it is of another version")
    out, at = [], len(_MAGIC)
    while at < len(data):
        start = at + 8
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data):
            raise ValueError("it is cut short")
        out.append(data[start:at])
    if len(out) != 7:
        raise ValueError("missing columns")
    return out


def _table(digests: bytes, columns: Sequence[array[int]], packs: int) -> tuple[Chunk, ...]:
    names = [digests[at : at + 32] for at in range(0, len(digests), 32)]
    table = tuple(map(Chunk, names, *columns))
    if len(digests) != 32 * len(table) or any(len(column) != len(table) for column in columns):
        raise ValueError("missing rows of chunks")
    for chunk in table:
        if not 0 < chunk.size <= MOST or chunk.pack >= packs or chunk.offset + chunk.size > MOST_PACK:
            raise ValueError("a chunk that cannot be")
    return table


def _backwards(numbers: Iterable[int]) -> list[int]:
    """Numbers as how far they are behind the next one that was not there yet, so that they are the same after an insertion."""
    out, fresh = [], 0
    for number in numbers:
        out.append((fresh - number) & 0xFFFFFFFF)
        fresh = max(fresh, number + 1)
    return out


def _forwards(steps: Iterable[int]) -> list[int]:
    out, fresh = [], 0
    for step in steps:
        number = (fresh - step) & 0xFFFFFFFF
        out.append(number)
        fresh = max(fresh, number + 1)
    return out


def _chunks(counts: array[int], numbers: Sequence[int], known: int) -> tuple[tuple[int, ...], ...]:
    if sum(counts) != len(numbers) or any(number >= known for number in numbers):
        raise ValueError("chunks that are not there")
    out, at = [], 0
    for count in counts:
        out.append(tuple(numbers[at : at + count]) if count else ())
        at += count
    return tuple(out)


def _check(entries: Sequence[Entry], chunks: Sequence[tuple[int, ...]], table: Sequence[Chunk]) -> None:
    directories: set[bytes] = set()
    files: set[bytes] = set()
    before: bytes | None = None
    for entry, numbers in zip(entries, chunks, strict=True):
        path = entry.path
        if before is None and (path or entry.kind != "dir"):
            raise _wrong(path, "the first is not the mount's directory")
        if before is not None and (path <= before or parent(path) not in directories):
            raise _wrong(path, "out of place")
        if entry.kind not in _KINDS or len(path) > MOST_PATH or entry.mode & ~0o7777 or min(entry.uid, entry.gid, entry.mode) < 0:
            raise _wrong(path, f"a {entry.kind} that cannot be")
        if sum(table[number].size for number in numbers) != (entry.size if entry.kind == "file" else 0):
            raise _wrong(path, "its chunks are not as long as it is")
        if entry.kind == "dir":
            directories.add(path)
        elif entry.kind == "file":
            files.add(path)
        elif not entry.link or (entry.kind == "hardlink" and entry.link not in files):
            raise _wrong(path, "a link to nothing")
        before = path
    if before is None:
        raise ContentError("the listing of a cache mount is empty")


def _wrong(path: bytes, why: str) -> ContentError:
    return ContentError(f"the listing of a cache mount is wrong at {path.decode('utf-8', 'backslashreplace')!r}: {why}")


def _pack(numbers: Sequence[int]) -> bytes:
    column = array("I", numbers)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _unpack(part: bytes) -> array[int]:
    column = array("I")
    column.frombytes(part)
    if sys.byteorder == "big":
        column.byteswap()
    return column
