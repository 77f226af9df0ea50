"""The cache of one machine: records in a database, their layers in the content store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.cache import rows
from engine.cache.base import Record
from engine.cache.catalog import Catalog
from engine.cache.database import Database
from engine.content.base import ContentStore
from engine.image.digest import Digest

if TYPE_CHECKING:
    from sqlite3 import Connection

_AT_ONCE = 500  # SQLite takes 999 parameters where it was built long ago
_USE_PRECISION = 3600.0
"""Seconds by which a last use may be too early on record: so a build that finds everything writes nothing."""


class Usage(Struct, frozen=True):
    """A record as `du` and `ls` show it: its layer's size in bytes, times in seconds since the epoch."""

    key: Digest
    step: str
    blob: Digest | None
    diff_id: Digest | None
    size: int
    created: float
    used: float


class LocalCache:
    """Records in a directory that any number of processes share.

    A record is given out only if its blob is in the content store with the right size, or the catalog knows a registry that
    had it lately. One whose blob is gone is forgotten. `clock` gives seconds since the epoch.
    """

    def __init__(self, path: Path, content: ContentStore, *, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(path)
        self._content = content
        self._clock = clock
        self._used: dict[str, float] = {}
        self._gone: set[str] = set()
        self.catalog = Catalog(self._database, clock)

    async def get(self, key: Digest) -> Record | None:
        """The record, if there is one and its layer can be had."""
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Sequence[Digest]) -> dict[Digest, Record]:
        """The records there are for some keys."""
        found: dict[Digest, Record] = {}
        now = self._clock()
        for start in range(0, len(keys), _AT_ONCE):
            names = [str(key) for key in keys[start:start + _AT_ONCE]]
            marks = ",".join("?" * len(names))
            for row in self._database.read(f"SELECT {rows.COLUMNS}, used FROM records WHERE key IN ({marks})", names):
                record = rows.from_row(row[:-1], self._ingredients(row[0]))
                if record is None or not self._can_be_had(record):
                    self._gone.add(row[0])
                    continue
                found[record.key] = record
                if now - row[-1] > _USE_PRECISION:
                    self._used[row[0]] = now
        return found

    async def put(self, *records: Record, replace: bool = False) -> None:
        """Publishes records in one transaction; the first one under a key stays, unless its layer is gone or it is to be
        replaced. Raises `StorageError`."""
        now = self._clock()
        new = [(rows.to_row(record, now), rows.pack(record.ingredients)) for record in records]
        used, gone = self._take_notes()

        def job(connection: Connection) -> None:
            self._write_notes(connection, used, gone)
            for row, packed in new:
                if replace or not self._stays(connection, row):
                    connection.execute("REPLACE INTO records (key, step, created, blob, size, layer, used) "
                                       "VALUES (?,?,?,?,?,?,?)", row)
                    connection.execute("REPLACE INTO ingredients (key, packed) VALUES (?, ?)", (row[0], packed))

        await self._database.write(job)

    async def flush(self) -> None:
        """Writes down what was used and what was found gone since the last write; raises `StorageError`."""
        used, gone = self._take_notes()
        if used or gone:
            await self._database.write(lambda connection: self._write_notes(connection, used, gone))

    async def aclose(self) -> None:
        """Flushes and closes."""
        try:
            await self.flush()
        finally:
            self._database.close()

    def usage(self) -> Iterator[Usage]:
        """All records, least recently used first; raises `StorageError` when they cannot be read."""
        columns = f"SELECT {rows.COLUMNS}, used FROM records ORDER BY used"
        for row in self._database.read(columns, needed=True):
            record = rows.from_row(row[:-1], {})
            if record is not None:
                layer, used = record.layer, float(row[-1])
                yield Usage(record.key, record.step, layer.blob.digest if layer else None, layer.diff_id if layer else None,
                            layer.blob.size if layer else 0, record.created, max(used, self._used.get(row[0], used)))

    async def remove(self, keys: Iterable[Digest]) -> None:
        """Forgets records; raises `StorageError`."""
        names = [(str(key),) for key in keys]
        if names:
            await self._database.write(lambda connection: _delete(connection, names))

    def similar(self, step: str, limit: int = 5) -> list[Record]:
        """The latest records of an instruction, newest first: those with the same text, then those of the same sort (the first
        word). Whether their layers can be had does not matter."""
        same = self._database.read(
            f"SELECT {rows.COLUMNS} FROM records WHERE step = ? ORDER BY created DESC LIMIT ?", (step, limit))
        if len(same) < limit and step:
            word = step.split(" ", 1)[0]
            same += self._database.read(
                f"SELECT {rows.COLUMNS} FROM records WHERE step >= ? AND step < ? AND step != ? ORDER BY created DESC LIMIT ?",
                (f"{word} ", f"{word}!", step, limit - len(same)))
        records = (rows.from_row(row, self._ingredients(row[0])) for row in same)
        return [record for record in records if record is not None]

    def _ingredients(self, key: str) -> Mapping[str, str]:
        def load() -> Mapping[str, str]:
            found = self._database.read("SELECT packed FROM ingredients WHERE key = ?", (key,))
            return rows.unpack(found[0][0]) if found else {}

        return rows.LazyIngredients(load)

    def _stays(self, connection: Connection, row: tuple[Any, ...]) -> bool:
        """Whether what is stored under the key of a new row is to be kept."""
        stored = connection.execute(f"SELECT {rows.COLUMNS} FROM records WHERE key = ?", (row[0],)).fetchone()
        if stored is None:
            return False
        earlier = rows.from_row(stored, {})
        return bool(stored == row[:-1]) or (earlier is not None and self._is_here(earlier))

    def _is_here(self, record: Record) -> bool:
        return record.layer is None or self._content.size(record.layer.blob.digest) == record.layer.blob.size

    def _can_be_had(self, record: Record) -> bool:
        return self._is_here(record) or (record.layer is not None and self.catalog.is_elsewhere(record.layer.blob.digest))

    def _take_notes(self) -> tuple[dict[str, float], set[str]]:
        notes = self._used, self._gone
        self._used, self._gone = {}, set()
        return notes

    def _write_notes(self, connection: Connection, used: Mapping[str, float], gone: Iterable[str]) -> None:
        connection.executemany("UPDATE records SET used = max(used, ?) WHERE key = ?", [(t, key) for key, t in used.items()])
        for name in gone:  # looked at again, for another process may have made it meanwhile
            row: Any = connection.execute(f"SELECT {rows.COLUMNS} FROM records WHERE key = ?", (name,)).fetchone()
            record = rows.from_row(row, {}) if row else None
            if row and (record is None or not self._is_here(record)):
                _delete(connection, [(name,)])


def _delete(connection: Connection, names: Sequence[tuple[str]]) -> None:
    connection.executemany("DELETE FROM records WHERE key = ?", names)
    connection.executemany("DELETE FROM ingredients WHERE key = ?", names)
