"""Content digests of files that were hashed before, kept between builds.

A file is known again by device, inode, size, mtime and ctime, as in git's index. As there, a digest is not kept when the file had
been changed so shortly before it was hashed that another change could leave the same times ("racily clean"). Only the ctime
counts for that: nobody can set it back.

The store is an aid: what cannot be read counts as unknown, what cannot be written is dropped, and a corrupt file is begun anew.
Several processes may use it at once.
"""

from __future__ import annotations

import contextlib
import json
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct, field

from engine.layer.index import collector_paused

if TYPE_CHECKING:
    from sqlite3 import Connection

_SCHEMA = """
create table if not exists digests (
    device integer not null, inode integer not null, size integer not null, mtime integer not null, ctime integer not null,
    digest blob not null, day integer not null, primary key (device, inode)) without rowid;
create table if not exists fingerprints (
    fingerprint blob not null primary key, digest blob not null, day integer not null) without rowid;
"""
_VERSION = 2
_DAY = 86400 * 10**9
_KEPT_DAYS = 60
_BUSY_SECONDS = 5.0

_SELECTED = 8192
"""Files that are looked up at a time: their rows are larger than what is kept of them."""

FINE_SLACK = 50_000_000
"""Nanoseconds that a file's ctime must lie back. The kernel's clock for file times ticks every 1 to 10 ms."""

COARSE_SLACK = 2_000_000_000
"""The same where a file system seems to keep whole seconds."""


class FileKey(NamedTuple):
    """What tells that a file is the same and unchanged. Times are nanoseconds since the epoch."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int

    def settled(self, now: int) -> bool:
        """Whether a change after `now` must change the key too."""
        slack = FINE_SLACK if self.ctime % 10**9 else COARSE_SLACK
        return self.ctime + slack < now


class Digests(Struct):
    """Digests of files by columns, for another process: to be filled with `add`. Devices, inodes and times are as in `FileKey`."""

    devices: array[int] = field(default_factory=lambda: array("Q"))
    inodes: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    mtimes: array[int] = field(default_factory=lambda: array("q"))
    ctimes: array[int] = field(default_factory=lambda: array("q"))
    digests: bytearray = field(default_factory=bytearray)

    def __len__(self) -> int:
        return len(self.inodes)

    def add(self, key: FileKey, digest: bytes) -> None:
        """One more file, and its digest."""
        device, inode, size, mtime, ctime = key
        self.devices.append(device)
        self.inodes.append(inode)
        self.sizes.append(size)
        self.mtimes.append(mtime)
        self.ctimes.append(ctime)
        self.digests += digest

    def pairs(self) -> Iterator[tuple[FileKey, bytes]]:
        """All files."""
        keys = map(FileKey._make, zip(self.devices, self.inodes, self.sizes, self.mtimes, self.ctimes, strict=True))
        digests = (bytes(self.digests[at : at + 32]) for at in range(0, len(self.digests), 32))
        return zip(keys, digests, strict=True)


def store_digests(path: str, digests: Digests, hashed_after: int) -> None:
    """Keeps digests in the store at `path`; see `DigestStore.store`. A job for a worker."""
    DigestStore(Path(path), time.time_ns).store_all(digests, hashed_after)


class DigestStore:
    """Digests (32 bytes) by file, and by the fingerprint of many, in an SQLite file. The methods block: call them from a thread."""

    def __init__(self, path: Path, clock: Callable[[], int]) -> None:
        """`clock` gives nanoseconds since the epoch (time.time_ns)."""
        self.path = path
        self._clock = clock

    def lookup(self, keys: Sequence[FileKey]) -> list[bytes | None]:
        """The digests of files, None for those that are not known."""
        out: list[bytes | None] = [None] * len(keys)
        if keys and self.path.exists():
            with collector_paused(), self._connection() as connection:
                if connection is not None:
                    for at in range(0, len(keys), _SELECTED):
                        out[at : at + _SELECTED] = self._select(connection, keys[at : at + _SELECTED])
        return out

    def store(self, digests: Iterable[tuple[FileKey, bytes]], hashed_after: int) -> None:
        """Keeps digests of files that were hashed after the time `hashed_after`, but for those that changed just before it."""
        today = self._clock() // _DAY
        self._insert(((_signed(key[0]), _signed(key[1]), *key[2:], digest, today)
                      for key, digest in digests if key.settled(hashed_after)), today)  # fmt: skip

    def store_all(self, digests: Digests, hashed_after: int) -> None:
        """As `store`."""
        if not len(digests) or max(digests.ctimes) + COARSE_SLACK >= hashed_after or max(digests.inodes) >> 63:
            return self.store(digests.pairs(), hashed_after)
        today = self._clock() // _DAY
        raw = bytes(digests.digests)
        self._insert(zip(map(_signed, digests.devices), digests.inodes, digests.sizes, digests.mtimes, digests.ctimes,
                         [raw[at : at + 32] for at in range(0, len(raw), 32)], repeat(today), strict=False), today)  # fmt: skip

    def _insert(self, rows: Iterable[tuple[object, ...]], today: int) -> None:
        ordered = sorted(rows)  # to insert them in the table's own order takes two thirds of the time
        if not ordered:
            return
        with self._connection() as connection:
            if connection is not None:
                connection.executemany("insert or replace into digests values (?, ?, ?, ?, ?, ?, ?)", ordered)
                connection.execute("delete from digests where day < ?", (today - _KEPT_DAYS,))
                connection.commit()

    def recall(self, fingerprint: bytes) -> bytes | None:
        """What was remembered for a fingerprint; None if nothing was."""
        today = self._clock() // _DAY
        with self._connection() as connection:
            if connection is not None:
                found = connection.execute("select digest, day from fingerprints where fingerprint = ?", (fingerprint,)).fetchone()
                if found is not None and found[1] < today - _KEPT_DAYS // 4:
                    connection.execute("update fingerprints set day = ? where fingerprint = ?", (today, fingerprint))
                    connection.commit()
                return found[0] if found is not None else None
        return None

    def remember(self, fingerprint: bytes, digest: bytes) -> None:
        """Keeps what follows from all that the fingerprint is of. Its maker sees to it that no change of that goes unnoticed."""
        today = self._clock() // _DAY
        with self._connection() as connection:
            if connection is not None:
                connection.execute("insert or replace into fingerprints values (?, ?, ?)", (fingerprint, digest, today))
                connection.execute("delete from fingerprints where day < ?", (today - _KEPT_DAYS,))
                connection.commit()

    def _select(self, connection: Connection, keys: Sequence[FileKey]) -> list[bytes | None]:
        """What is known, with one statement for each device; rows in use stay young."""
        out: list[bytes | None] = [None] * len(keys)
        places: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key[0], []).append(place)
        today = self._clock() // _DAY
        for device, at in places.items():
            wanted = json.dumps([_signed(keys[place][1]) for place in at])
            rows = connection.execute(
                "select d.inode, d.size, d.mtime, d.ctime, d.digest, d.day from json_each(?) j"
                " cross join digests d on d.device = ? and d.inode = j.value", (wanted, _signed(device))).fetchall()
            found = {row[0]: row for row in rows}
            for place in at:
                _, inode, size, mtime, ctime = keys[place]
                row = found.get(_signed(inode))
                if row is not None and row[2] == mtime and row[3] == ctime and row[1] == size:
                    out[place] = row[4]
            if any(row[5] < today - _KEPT_DAYS // 4 for row in rows):
                connection.execute("update digests set day = ? where device = ? and inode in (select value from json_each(?))",
                                   (today, _signed(device), wanted))
                connection.commit()
        return out

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
            connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS)
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


def _signed(number: int) -> int:
    """A device or inode number as SQLite's integer, which has a sign."""
    return number if number < 1 << 63 else number - (1 << 64)
