"""A layer's index: its entries and the few small files that instructions consult, as a value and as bytes on disk.

The form is by columns, since a column becomes Python values in one call: numbers in arrays, texts joined by NUL. It is versioned
and carries a checksum; whatever cannot be read is a `ContentError`, and the index can be made again from the layer.
"""

from __future__ import annotations

import gc
import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import get_args
from zlib import crc32

from engine.content.faults import storage_error
from engine.errors import ContentError
from engine.image.digest import Digest
from engine.layer.entries import Entry, Kind

CONSULTED = frozenset({b"etc/passwd", b"etc/group"})
"""The files whose content an index holds, when it is at most `MOST_CONSULTED` bytes."""
MOST_CONSULTED = 1 << 20

_MAGIC = b"aniko-index 1\n"
_KINDS: tuple[Kind, ...] = get_args(Kind)
_BAD = [a + component + b for component in (b"", b".", b"..") for a in (b"\0", b"/") for b in (b"\0", b"/")
        if (a, component, b) != (b"\0", b"", b"\0")]  # fmt: skip


class Index:
    """The entries of a layer and consulted files by path. A value; it is decoded when it is first looked into, and pickled as
    bytes."""

    __slots__ = ("_data", "_entries", "_files")

    def __init__(self, entries: Iterable[Entry], files: Mapping[bytes, bytes] | None = None) -> None:
        self._entries: tuple[Entry, ...] | None = tuple(entries)
        self._files: Mapping[bytes, bytes] | None = dict(files or {})
        self._data: bytes | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> Index:
        """The index that `to_bytes` made `data` of; only its checksum is looked at now. Raises `ContentError`."""
        index = cls.__new__(cls)
        _check(data)
        index._data, index._entries, index._files = data, None, None
        return index

    def to_bytes(self) -> bytes:
        """The index as bytes; equal indexes give equal bytes."""
        if self._data is None:
            self._data = encode(self.entries, self.files)
        return self._data

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The layer's entries. Of several for one path only the last, and a hard link after what it links to."""
        if self._entries is None:
            self._entries, self._files = _decode(self._data or b"")
        return self._entries

    @property
    def files(self) -> Mapping[bytes, bytes]:
        """Contents of consulted files."""
        if self._files is None:
            self._entries, self._files = _decode(self._data or b"")
        return self._files

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and self.entries == other.entries and self.files == other.files

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def __repr__(self) -> str:
        return f"Index({len(self.entries)} entries)"

    def __reduce__(self) -> tuple[object, ...]:
        return Index.from_bytes, (self.to_bytes(),)


def encode(entries: Sequence[Entry], files: Mapping[bytes, bytes] | None = None) -> bytes:
    """An index as bytes."""
    columns = list(zip(*entries, strict=True)) or [()] * len(Entry._fields)
    paths, kinds, mode, uid, gid, size, mtime, links, digests, major, minor, xattrs = columns
    kind_of = {kind: i for i, kind in enumerate(_KINDS)}
    parts = [b"\0".join(paths), bytes(map(kind_of.__getitem__, kinds))]
    parts += [_array("q", column) for column in (mode, uid, gid, size, mtime)]
    parts += [b"\0".join(links), bytes.fromhex("".join(digests)), bytes(map(bool, digests))]
    rare = [(i, major[i], minor[i], xattrs[i]) for i in range(len(paths)) if xattrs[i] or major[i] or minor[i]]
    parts.append(b"".join(_rare(*item) for item in rare))
    for path, content in sorted((files or {}).items()):
        parts += [path, content]
    body = b"".join(len(part).to_bytes(8, "little") + part for part in [len(paths).to_bytes(8, "little"), *parts])
    return _MAGIC + crc32(body).to_bytes(4, "little") + body


def decode(data: bytes) -> tuple[Entry, ...]:
    """The entries of an index; raises `ContentError` when it is none."""
    return Index.from_bytes(data).entries


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without the cyclic garbage collector, for work that makes very many values and no cycles: looking through all of them again
    and again would take several times as long as making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _array(code: str, column: Sequence[int]) -> bytes:
    numbers = array(code, column)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _rare(at: int, major: int, minor: int, xattrs: Sequence[tuple[str, bytes]]) -> bytes:
    fields = [b"%d %d %d" % (at, major, minor)]
    for name, value in xattrs:
        fields += [name.encode("utf-8", "surrogateescape"), value]
    record = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    return len(record).to_bytes(4, "little") + record


def _check(data: bytes) -> None:
    start = len(_MAGIC) + 4
    if not data.startswith(_MAGIC) or crc32(memoryview(data)[start:]) != int.from_bytes(data[len(_MAGIC) : start], "little"):
        raise ContentError("a layer's index is of another version, or corrupt")


def _decode(data: bytes) -> tuple[tuple[Entry, ...], dict[bytes, bytes]]:
    try:
        parts = _parts(data[len(_MAGIC) + 4 :], 8)
        count = int.from_bytes(parts[0], "little")
        if count != len(parts[2]):
            raise ValueError("missing rows")
        paths, kinds = _texts(parts[1], count), list(map(_KINDS.__getitem__, parts[2]))
        columns = [_numbers(part) for part in parts[3:8]]
        links = _texts(parts[8], count)
        major, minor = [0] * count, [0] * count
        xattrs: list[tuple[tuple[str, bytes], ...]] = [()] * count
        for record in _parts(parts[11], 4):
            head, *fields = _parts(record, 4)
            at, a, b = map(int, head.split())
            major[at], minor[at] = a, b
            names = [field.decode("utf-8", "surrogateescape") for field in fields[::2]]
            xattrs[at] = tuple(zip(names, fields[1::2], strict=True))
        _check_paths(parts[1])
        rows = zip(paths, kinds, *columns, links, _digests(parts[9], parts[10]), major, minor, xattrs, strict=True)
        with collector_paused():
            entries = tuple(map(partial(tuple.__new__, Entry), rows))
        return entries, dict(zip(parts[12::2], parts[13::2], strict=True))
    except (ValueError, IndexError, TypeError) as error:
        raise ContentError(f"a layer's index is corrupt: {error}") from error


def _parts(data: bytes, width: int) -> list[bytes]:
    out, at = [], 0
    while at < len(data):
        start = at + width
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data):
            raise ValueError("it is cut short")
        out.append(data[start:at])
    return out


def _texts(part: bytes, count: int) -> list[bytes]:
    return part.split(b"\0") if count else []


def _numbers(part: bytes) -> list[int]:
    numbers = array("q")
    numbers.frombytes(part)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _digests(digests: bytes, present: bytes) -> Iterable[str]:
    text = digests.hex()
    if len(text) != 64 * (len(present) - present.count(0)):
        raise ValueError("missing digests")
    if not text:
        return repeat("", len(present))
    each = iter([text[at : at + 64] for at in range(0, len(text), 64)])
    return [next(each) if there else "" for there in present]


def _check_paths(paths: bytes) -> None:
    """An index may come from elsewhere: no path of it may lead out of the root."""
    framed = b"\0" + paths + b"\0"
    if any(bad in framed for bad in _BAD):
        raise ValueError("a path that is none")


class IndexStore:
    """Indexes by diff id, in a directory that several processes share. What is there is whole, and the same whoever put it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, diff_id: Digest) -> Path:
        """Where the index lies, whether or not it is there."""
        return self.directory / diff_id.algorithm / diff_id.hex

    def get(self, diff_id: Digest) -> Index | None:
        """The index of a layer; None when it is not here. One that is corrupt is removed and counts as absent."""
        path = self.path(diff_id)
        try:
            return Index.from_bytes(path.read_bytes())
        except FileNotFoundError:
            return None
        except ContentError:
            path.unlink(missing_ok=True)
            return None

    def put(self, diff_id: Digest, index: Index) -> None:
        """Stores the index, by rename; raises `StorageError`."""
        path = self.path(diff_id)
        temporary = path.with_name(f".index-{os.urandom(8).hex()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(index.to_bytes())
            os.rename(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise storage_error(error, path) from error
