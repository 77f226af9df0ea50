"""The SQLite file behind the local cache: opened when first needed, shared by several processes, replaced when it is broken.

Reading happens in the event loop: in WAL mode a reader waits for nobody, and a look-up takes some microseconds. Writing may
have to wait for another process and therefore happens in a thread, on a connection of its own.

A broken file is never renamed or removed while it may be open somewhere, since SQLite finds the files beside it by name and
would delete those of its successor. It is left where it is, and all processes go on with the next number: `records-v1.0.db`,
`records-v1.1.db`. The version is in the name for the same reason: two versions of the engine can share a state directory.
A new file appears under its name with its tables in it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread

from engine.content import claims
from engine.content.faults import storing
from engine.errors import StorageError

if TYPE_CHECKING:
    from sqlite3 import Connection

T = TypeVar("T")
Row = tuple[Any, ...]

VERSION = 1
"""Of the tables below and of what is in them; to be raised when either changes."""

_READER_PATIENCE, _WRITER_PATIENCE = 2.0, 30.0
"""Seconds to wait for another process's lock."""

_SCHEMA = """
CREATE TABLE records (
  key TEXT PRIMARY KEY, step TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
  blob TEXT, size INTEGER NOT NULL DEFAULT 0, layer TEXT);
CREATE INDEX records_by_step ON records (step, created);
CREATE TABLE ingredients (key TEXT PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE origins (
  blob TEXT NOT NULL, registry TEXT NOT NULL, repository TEXT NOT NULL, seen REAL NOT NULL,
  PRIMARY KEY (blob, registry, repository)) WITHOUT ROWID;
CREATE TABLE bases (
  reference TEXT PRIMARY KEY, digest TEXT NOT NULL, seen REAL NOT NULL, used REAL NOT NULL, needs TEXT NOT NULL);
CREATE TABLE images (name TEXT PRIMARY KEY, digest TEXT NOT NULL, built REAL NOT NULL);
"""


class _Broken(Exception):
    """The file is no database, or not one of ours."""


class Database:
    """The database in a directory. Nothing is made there before something is written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lowest = 0
        self._reader: tuple[int, Connection] | None = None
        self._writer: tuple[int, Connection] | None = None
        self._writing = threading.Lock()

    def read(self, query: str, parameters: Sequence[Any] = (), *, needed: bool = False) -> list[Row]:
        """The rows of a query; none when there is no database, or a broken one. One that cannot be read just now, since the disk
        is full or another process has it, has no rows either, or raises `StorageError` if they are `needed`: a cache may do
        without, who decides about what is there may not. To be called in the event loop."""
        import sqlite3

        try:
            if self._reader is None or self._reader[0] < self._lowest:
                self._shut(self._reader)
                self._reader = self._open()
            return [] if self._reader is None else self._reader[1].execute(query, parameters).fetchall()
        except (sqlite3.DatabaseError, _Broken) as error:
            if _is_broken(error):
                self._give_up(self._reader)
                self._reader = None
            elif needed:
                raise _storage_error(error, self._directory, "read") from error
            return []

    async def write(self, job: Callable[[Connection], T]) -> T:
        """Runs a job in one transaction, in a thread; it may run again from its beginning. Raises `StorageError` when the
        database cannot be written."""
        return await anyio.to_thread.run_sync(self._write, job)

    async def execute(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """One statement for each of several rows, in one transaction."""
        values = list(rows)

        def job(connection: Connection) -> None:
            connection.executemany(statement, values)

        if values:
            await self.write(job)

    def close(self) -> None:
        """Closes the connections; the next use opens them again."""
        with self._writing:
            self._shut(self._writer)
            self._shut(self._reader)
            self._reader = self._writer = None

    def _write(self, job: Callable[[Connection], T]) -> T:
        import sqlite3

        with self._writing, storing(self._directory):
            for last in (False, False, True):
                try:
                    if self._writer is None or self._writer[0] < self._lowest:
                        self._shut(self._writer)
                        self._make()
                        self._writer = self._open(_WRITER_PATIENCE)
                    if self._writer is not None:
                        return _transact(self._writer[1], job)
                except (sqlite3.DatabaseError, _Broken) as error:
                    if last or not _is_broken(error):
                        raise _storage_error(error, self._directory) from error
                    self._give_up(self._writer)
                    self._writer = None
            raise StorageError(f"cannot make a database in {self._directory}")

    def _open(self, patience: float = _READER_PATIENCE) -> tuple[int, Connection] | None:
        """A connection to the newest file and its number; None when there is none."""
        import sqlite3

        number = self._newest()
        if number is None:
            return None
        connection = sqlite3.connect(self._file(number), timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous=NORMAL")
            if connection.execute("PRAGMA user_version").fetchone() != (VERSION,):
                raise _Broken(f"{self._file(number)} is empty")
        except BaseException as error:
            connection.close()
            if _is_broken(error):
                self._lowest = max(self._lowest, number + 1)
            raise
        return number, connection

    def _make(self) -> None:
        """Sees to it that there is a file."""
        if self._newest() is not None:
            return
        for path in self._directory.glob("new-*"):
            if path.name.endswith(("-wal", "-shm", "-journal")):
                continue
            with claims.abandoned(path) as dead:
                for part in (f"{path}-wal", f"{path}-shm", path) if dead else ():
                    Path(part).unlink(missing_ok=True)
        fd, draft = claims.new_file(self._directory, "new-")
        try:
            _lay_out(draft)
            with suppress(FileExistsError):  # made by another process meanwhile
                os.link(draft, self._file(self._lowest))
        finally:
            draft.unlink()
            os.close(fd)

    def _file(self, number: int) -> Path:
        return self._directory / f"records-v{VERSION}.{number}.db"

    def _newest(self) -> int | None:
        numbers = [path.name.split(".")[1] for path in self._directory.glob(f"records-v{VERSION}.*.db")]
        newest = max((int(number) for number in numbers if number.isdecimal()), default=-1)
        return newest if newest >= self._lowest else None

    def _give_up(self, connection: tuple[int, Connection] | None) -> None:
        """Closes a connection to a broken file; from now on only later files count."""
        if connection is not None:
            self._lowest = max(self._lowest, connection[0] + 1)
            self._shut(connection)

    @staticmethod
    def _shut(connection: tuple[int, Connection] | None) -> None:
        if connection is not None:
            with suppress(Exception):  # closing a broken database may say that it is broken
                connection[1].close()


def _transact(connection: Connection, job: Callable[[Connection], T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = job(connection)
        connection.execute("COMMIT")
        return result
    except BaseException:
        with suppress(Exception):  # an error of the rollback would hide its cause
            connection.execute("ROLLBACK")
        raise


def _lay_out(path: Path) -> None:
    """Makes the tables in a file that nobody else has yet. Nothing is waited for to be on the disk: of a file that a loss of power
    cuts short SQLite says that it is broken, or it has no version; and what is written later is waited for, with all before it."""
    import sqlite3

    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA journal_mode=OFF")
        connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={VERSION};COMMIT;")
        connection.execute("PRAGMA journal_mode=WAL")  # stays as it is where the filesystem cannot do it
    finally:
        connection.close()


def _is_broken(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, _Broken) or code in (11, 26)  # SQLITE_CORRUPT, SQLITE_NOTADB


def _storage_error(error: Exception, directory: Path, verb: str = "write") -> StorageError:
    hints = {13: "the disk is full: free some space, or prune the state directory",
             10: "the disk may be full, or broken",
             8: "this user may not write there: choose another directory with --state-dir",
             14: "this user may not write there: choose another directory with --state-dir",
             5: "another process holds the database; if it hangs, end it"}  # fmt: skip
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return StorageError(f"cannot {verb} the cache in {directory}: {error}", hint=hints.get(code))
