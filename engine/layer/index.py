"""A layer's index: its entries and the few small files that instructions consult, as a value and as bytes on disk (see `columns`).
An index that cannot be read can be made again from the layer."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.content.faults import storage_error
from engine.errors import ContentError
from engine.image.digest import Digest
from engine.layer import columns
from engine.layer.columns import Columns
from engine.layer.entries import Entry

CONSULTED = frozenset({b"etc/passwd", b"etc/group"})
"""The files whose content an index holds, when it is at most `MOST_CONSULTED` bytes."""
MOST_CONSULTED = 1 << 20
_VERY_MANY = 50_000


class Index:
    """The entries of a layer and consulted files by path. A value; it is decoded when it is first looked into, and pickled as
    bytes."""

    __slots__ = ("_data", "_entries", "_files", "_rows")

    def __init__(self, entries: Iterable[Entry], files: Mapping[bytes, bytes] | None = None) -> None:
        self._entries: tuple[Entry, ...] | None = tuple(entries)
        self._files: Mapping[bytes, bytes] | None = dict(files or {})
        self._data: bytes | None = None
        self._rows: Columns | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> Index:
        """The index that `to_bytes` made `data` of; only its checksum is looked at now. Raises `ContentError`."""
        index = cls.__new__(cls)
        columns.check(data)
        index._data, index._entries, index._files, index._rows = data, None, None, None
        return index

    @classmethod
    def of(cls, entries: Columns, files: Mapping[bytes, bytes]) -> Index:
        """The index of entries by columns."""
        return cls.from_bytes(columns.encode(entries, files))

    def to_bytes(self) -> bytes:
        """The index as bytes; equal indexes give equal bytes."""
        if self._data is None:
            self._data = columns.encode(Columns.of(self.entries), self.files)
        return self._data

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The layer's entries. Of several for one path only the last; a hard link is to what comes before it, or is below."""
        if self._entries is None:
            self._decode()
        return self._entries or ()

    @property
    def files(self) -> Mapping[bytes, bytes]:
        """Contents of consulted files."""
        if self._files is None:
            self._decode()
        return self._files or {}

    @property
    def columns(self) -> Columns:
        """The entries by columns, for reading only. They are kept until the entries are asked for."""
        rows = self._rows
        if rows is None:
            rows, self._files = columns.decode(self.to_bytes())
            self._rows = rows
        return rows

    def _decode(self) -> None:
        rows = self.columns
        with collector_paused():
            self._entries = tuple(rows.entries())
        self._rows = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and self.entries == other.entries and self.files == other.files

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def __repr__(self) -> str:
        return f"Index({len(self.entries)} entries)"

    def __reduce__(self) -> tuple[object, ...]:
        return Index.from_bytes, (self.to_bytes(),)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without the cyclic garbage collector, for work that makes very many values and no cycles: looking through all of them again
    and again would take several times as long as making them. Nor are they looked through as soon as it is over: if they are very
    many, all that there is by then counts as old."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if gc.get_count()[0] > _VERY_MANY and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()  # into the oldest generation, without a look at anything
            gc.enable()


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
