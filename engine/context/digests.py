"""Content digests of files that were hashed before, kept between builds.

A file is known again by device, inode, size, mtime and ctime, as in git's index. As there, a digest is not kept when the file had
been changed so shortly before it was hashed that another change could leave the same times ("racily clean"). Only the ctime
counts for that: nobody can set it back.

There is one row for each directory, with columns of its files: to write and to read forty thousand rows takes longer than all
else that is done with them. The row is found by the directory's own device and inode, but nothing follows from these: where they
are others' by now, no file is known again, and that is all.

The store is an aid: what cannot be read counts as unknown, what cannot be written is dropped, and a corrupt file is begun anew.
Several processes may use it at once.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.context.filekeys import DirectoryFiles, StoredFiles
from engine.layer.index import collector_paused

if TYPE_CHECKING:
    from sqlite3 import Connection

_SCHEMA = """
create table if not exists directories (
    device integer not null, inode integer not null, day integer not null, keys blob not null, digests blob not null,
    days blob not null, primary key (device, inode));
create table if not exists fingerprints (
    fingerprint blob not null primary key, digest blob not null, day integer not null) without rowid;
"""
_VERSION = 3
_DAY = 86400 * 10**9
_KEPT_DAYS = 60
_BUSY_SECONDS = 5.0

_BATCH = 1000
"""Directories that are read or written at a time."""


class DigestStore:
    """Digests of files (32 bytes), and sha256 by the fingerprint of many, in one SQLite file. The methods block: call them from a
    thread."""

    def __init__(self, path: Path, clock: Callable[[], int]) -> None:
        """`clock` gives nanoseconds since the epoch (time.time_ns)."""
        self.path = path
        self._clock = clock

    @property
    def is_new(self) -> bool:
        """Whether nothing has been asked or kept yet."""
        return not self.path.exists()

    def lookup(self, directories: Iterable[DirectoryFiles]) -> list[bytes]:
        """For each directory, in their order, the digests of its files, 32 bytes for each, 0 for those that are not known; no bytes
        when none is. What could not be looked up is missing at the end."""
        out: list[bytes] = []
        if self.path.exists():
            with collector_paused(), self._connection() as connection:
                if connection is not None and connection.execute("select 1 from directories limit 1").fetchone():
                    for batch in _batches(directories):
                        out += self._find(connection, batch)
        return out

    def _find(self, connection: Connection, directories: Sequence[DirectoryFiles]) -> list[bytes]:
        today = self._clock() // _DAY
        rows = _select(connection, directories)
        out: list[bytes] = []
        aged: list[DirectoryFiles] = []
        for files in directories:
            row = rows.get(files.place)
            digests, used = row.find(files.keys) if row is not None else (b"", today)
            out.append(digests)
            if used < today - _KEPT_DAYS // 4:
                aged.append(replace(files, digests=digests).settled())
        if aged:  # what is in use stays young
            _merge(connection, aged, today)
        return out

    def store(self, directories: Iterable[DirectoryFiles], hashed_after: int) -> None:
        """Keeps digests of files that were hashed after the time `hashed_after`, but for those that changed just before it."""
        known = [found for files in directories if (found := files.settled(hashed_after)).digests]
        if not known:
            return
        today = self._clock() // _DAY
        with collector_paused(), self._connection() as connection:
            if connection is not None:
                for batch in _batches(known):
                    _merge(connection, batch, today)
                connection.execute("delete from directories where day < ?", (today - _KEPT_DAYS,))

    def recall(self, fingerprint: bytes) -> bytes | None:
        """What was remembered for a fingerprint; None if nothing was."""
        today = self._clock() // _DAY
        with self._connection() as connection:
            if connection is not None:
                found = connection.execute("select digest, day from fingerprints where fingerprint = ?", (fingerprint,)).fetchone()
                if found is not None and found[1] < today - _KEPT_DAYS // 4:
                    connection.execute("update fingerprints set day = ? where fingerprint = ?", (today, fingerprint))
                return found[0] if found is not None else None
        return None

    def remember(self, fingerprint: bytes, digest: bytes) -> None:
        """Keeps what follows from all that the fingerprint is of. Its maker sees to it that no change of that goes unnoticed."""
        today = self._clock() // _DAY
        with self._connection() as connection:
            if connection is not None:
                connection.execute("insert or replace into fingerprints values (?, ?, ?)", (fingerprint, digest, today))
                connection.execute("delete from fingerprints where day < ?", (today - _KEPT_DAYS,))

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection | None]:
        """A connection for one operation; None where there can be none. Whatever SQLite finds wrong ends the operation."""
        import sqlite3  # here: many builds never hash a file, and it takes 5 ms

        connection: Connection | None = None
        try:
            with contextlib.suppress(sqlite3.Error, OSError):
                connection = self._open()
            try:
                yield connection
            except sqlite3.OperationalError:
                pass
            except sqlite3.DatabaseError:
                self._begin_anew()
        finally:
            if connection is not None:
                connection.close()

    def _open(self) -> Connection:
        import sqlite3

        self.path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in (1, 2):
            connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                (version,) = connection.execute("pragma user_version").fetchone()
                if version == _VERSION:
                    connection.execute("pragma synchronous = off")
                    return connection
                if version != 0:
                    raise sqlite3.DatabaseError("another version")
                connection.execute("pragma synchronous = off")
                with contextlib.suppress(sqlite3.OperationalError):  # another process is doing it
                    connection.execute("pragma journal_mode = wal")
                connection.executescript(_SCHEMA + f"pragma user_version = {_VERSION};")
                return connection
            except sqlite3.OperationalError:
                connection.close()
                raise
            except sqlite3.DatabaseError:
                connection.close()
                if attempt == 2:
                    raise
                self._begin_anew()
        raise AssertionError

    def _begin_anew(self) -> None:
        """Removes a file that is no database of ours. Who has it open keeps working with what is no longer there."""
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                self.path.with_name(self.path.name + suffix).unlink()


def _batches(directories: Iterable[DirectoryFiles]) -> Iterator[list[DirectoryFiles]]:
    left = iter(directories)
    while batch := list(islice(left, _BATCH)):
        yield batch


def _select(connection: Connection, directories: Sequence[DirectoryFiles]) -> dict[tuple[int, int], StoredFiles]:
    """What there is of some directories, with one statement for each device. A row that makes no sense is not there."""
    wanted: dict[int, list[int]] = {}
    for files in directories:
        wanted.setdefault(files.device, []).append(files.inode)
    out: dict[tuple[int, int], StoredFiles] = {}
    for device, inodes in wanted.items():
        numbers = json.dumps(list(map(_signed, inodes)))
        rows = connection.execute("select d.inode, d.keys, d.digests, d.days from json_each(?) j"
                                  " cross join directories d on d.device = ? and d.inode = j.value", (numbers, _signed(device)))
        for inode, *columns in rows:
            row = StoredFiles(*columns)
            if row.whole:
                out[device, inode if inode >= 0 else inode + (1 << 64)] = row
    return out


def _merge(connection: Connection, directories: Sequence[DirectoryFiles], today: int) -> None:
    """Writes digests over what is there. Who else writes the same directories does so before or after."""
    connection.execute("begin immediate")
    rows = _select(connection, directories)
    changed: dict[tuple[int, int], StoredFiles] = {}
    for files in directories:
        place, own = files.place, StoredFiles.of(files, today)
        before = changed.get(place) or rows.get(place)
        changed[place] = own if before is None else own.over(before, today - _KEPT_DAYS)
    connection.executemany("insert or replace into directories values (?, ?, ?, ?, ?, ?)", [
        (_signed(device), _signed(inode), today, row.keys, row.digests, row.days) for (device, inode), row in changed.items()])
    connection.execute("commit")


def _signed(number: int) -> int:
    """A device or inode number as SQLite's integer, which has a sign."""
    return number if number < 1 << 63 else number - (1 << 64)
