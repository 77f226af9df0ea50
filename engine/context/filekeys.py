"""By what a file is known again, and columns of that: of files as they are now, and as they were stored. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

from msgspec import Struct

FINE_SLACK = 50_000_000
"""Nanoseconds that a file's ctime must lie back. The kernel's clock for file times ticks every 1 to 10 ms."""

COARSE_SLACK = 2_000_000_000
"""The same where a file system seems to keep whole seconds."""

SIZE = 32
"""Bytes of a digest."""

_NONE = bytes(SIZE)
_LATE = 1 << 62


class FileKey(NamedTuple):
    """What tells that a file is the same and unchanged. Times are nanoseconds since the epoch."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int

    def settled(self, now: int) -> bool:
        """Whether a change after `now` must change the key too."""
        return is_settled(self.ctime, now)


_FIELDS = len(FileKey._fields)
_INODE, _CTIME = FileKey._fields.index("inode"), FileKey._fields.index("ctime")


def is_settled(ctime: int, now: int) -> bool:
    """Whether a change after `now` must change this ctime (nanoseconds since the epoch)."""
    return ctime + (FINE_SLACK if ctime % 10**9 else COARSE_SLACK) < now


class DirectoryFiles(Struct, frozen=True):
    """Some files of one directory, by columns."""

    device: int
    inode: int
    """The directory's own."""
    keys: bytes
    """The fields of `FileKey` one after the other, each a column of eight bytes for each file."""
    digests: bytes = b""
    """32 bytes for each file, 0 where none is known."""

    @property
    def place(self) -> tuple[int, int]:
        """The directory's device and inode."""
        return self.device, self.inode

    def settled(self, now: int = _LATE) -> DirectoryFiles:
        """Those of the files that have a digest, and whose keys tell of every change after `now` (nanoseconds since the epoch)."""
        columns = _columns(self.keys)
        ctimes = columns[_CTIME]
        if len(ctimes) and max(ctimes) + COARSE_SLACK < now and _NONE not in self.digests:
            return self
        places = [at for at, ctime in enumerate(ctimes)
                  if is_settled(ctime, now) and self.digests[at * SIZE : at * SIZE + SIZE] not in (_NONE, b"")]  # fmt: skip
        return DirectoryFiles(self.device, self.inode, *_rows(columns, self.digests, places))


class StoredFiles(Struct, frozen=True):
    """Files of one directory as they were when they were hashed, by columns."""

    keys: bytes
    digests: bytes
    """As in `DirectoryFiles`, and all are known."""
    days: bytes
    """When each was last asked for, in days since the epoch: a column of eight bytes for each."""

    @classmethod
    def of(cls, files: DirectoryFiles, day: int) -> StoredFiles:
        """Files all of whose digests are known."""
        return cls(files.keys, files.digests, array("q", [day]).tobytes() * (len(files.digests) // SIZE))

    @property
    def whole(self) -> bool:
        """Whether the columns are as long as each other."""
        count, rest = divmod(len(self.days), 8)
        return not rest and len(self.keys) == 8 * _FIELDS * count and len(self.digests) == SIZE * count

    def find(self, keys: bytes) -> tuple[bytes, int]:
        """The digests of files with these keys (see `DirectoryFiles`), 0 for those that are not known; and the earliest day of
        those that are, or a day to come."""
        if keys == self.keys:
            return self.digests, min(memoryview(self.days).cast("q"), default=_LATE)
        wanted, columns, days = _columns(keys), _columns(self.keys), memoryview(self.days).cast("q")
        inodes = set(wanted[_INODE])
        places = list(compress(range(len(days)), map(inodes.__contains__, columns[_INODE])))  # a large directory has few of them
        there = {tuple([column[at] for column in columns]): at for at in places}
        found = [there.get(key, -1) for key in zip(*wanted, strict=True)]
        digests = b"".join([self.digests[at * SIZE : at * SIZE + SIZE] if at >= 0 else _NONE for at in found])
        return digests, min((days[at] for at in found if at >= 0), default=_LATE)

    def over(self, before: StoredFiles, since: int) -> StoredFiles:
        """These files, and of those `before` the ones that are none of these and were asked for since a day. The larger part keeps
        its order: as that of a whole directory it is found again the fastest."""
        mine, old, days = _columns(self.keys), _columns(before.keys), memoryview(before.days).cast("q")
        inodes = set(mine[_INODE])
        same = {at: (old[0][at], old[_INODE][at]) for at in compress(range(len(days)), map(inodes.__contains__, old[_INODE]))}
        own = list(zip(mine[0], mine[_INODE], strict=True))
        if len(self.days) < len(before.days) and min(days) >= since:
            there = {file: at for at, file in same.items()}
            return before._with(self, [there.get(file, -1) for file in own])
        names = set(own)
        gone = {at for at, file in same.items() if file in names} | {at for at, day in enumerate(days) if day < since}
        left = [at for at in range(len(days)) if at not in gone]
        keys, digests = _rows(old, before.digests, left)
        joined = b"".join([part for pair in zip(mine, _columns(keys), strict=True) for part in pair])
        return StoredFiles(joined, self.digests + digests, self.days + array("q", [days[at] for at in left]).tobytes())

    def _with(self, files: StoredFiles, places: Sequence[int]) -> StoredFiles:
        """The same with some files at the given places, or at the end."""
        columns = [array("q", column) for column in (*_columns(self.keys), memoryview(self.days).cast("q"))]
        digests = bytearray(self.digests)
        for at, (place, row) in enumerate(zip(places, zip(*_columns(files.keys), memoryview(files.days).cast("q"), strict=True),
                                              strict=True)):  # fmt: skip
            digest = files.digests[at * SIZE : at * SIZE + SIZE]
            if place < 0:
                digests += digest
                for column, number in zip(columns, row, strict=True):
                    column.append(number)
            else:
                digests[place * SIZE : place * SIZE + SIZE] = digest
                for column, number in zip(columns, row, strict=True):
                    column[place] = number
        *keys, days = [column.tobytes() for column in columns]
        return StoredFiles(b"".join(keys), bytes(digests), days)


def _columns(keys: bytes) -> list[memoryview]:
    """The columns, all as numbers with a sign: devices and inodes are only compared with each other."""
    numbers = memoryview(keys).cast("q")
    count = len(numbers) // _FIELDS
    return [numbers[at : at + count] for at in range(0, count * _FIELDS, count)] if count else [numbers] * _FIELDS


def _rows(columns: Sequence[memoryview], digests: bytes, places: Sequence[int]) -> tuple[bytes, bytes]:
    """The keys and the digests at some places."""
    keys = b"".join([array("q", [column[at] for at in places]).tobytes() for column in columns])
    return keys, b"".join([digests[at * SIZE : at * SIZE + SIZE] for at in places])
