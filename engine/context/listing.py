"""What is in a directory of a context, by columns: a fraction of what entries take, and quick to go through.

The digests of files lie beside the names, as soon as they are known. What is below a directory is several listings: see `subtree`.
"""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import compress
from operator import attrgetter
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG

from engine.context.filekeys import COARSE_SLACK, DirectoryFiles, FileKey, is_settled
from engine.layer.columns import KINDS, NUMBERS
from engine.layer.entries import Entry, Kind

FILE, DIRECTORY, SYMLINK = NUMBERS["file"], NUMBERS["dir"], NUMBERS["symlink"]

_TYPE = 0o170000
_KINDS: dict[int, Kind] = {S_IFREG: "file", S_IFDIR: "dir", S_IFLNK: "symlink", S_IFIFO: "fifo", S_IFCHR: "char", S_IFBLK: "block"}
_NUMBERS = {kind: NUMBERS[name] for kind, name in _KINDS.items()}
_UNKNOWN = bytes(32)

_fields = attrgetter("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev", "st_nlink")

Row = tuple[bytes, os.stat_result, bytes]
"""A name, what `lstat` says of it, and a symlink's text."""


class Listing:
    """The children of a directory, sorted by name."""

    __slots__ = ("_device", "_devices", "_itself", "ctimes", "digests", "inodes", "kinds", "linked", "links", "modes", "mtimes",
                 "names", "odd", "sizes")  # fmt: skip

    def __init__(self, rows: list[Row], itself: tuple[int, int] = (0, 0)) -> None:
        """`itself` is the directory's own device and inode."""
        rows.sort(key=_name)
        self._itself = itself
        self.names: list[bytes] = [row[0] for row in rows]
        found = [row[1] for row in rows]
        modes, sizes, mtimes, ctimes, inodes, devices, names = zip(*map(_fields, found), strict=True) if found else ((),) * 7
        self.kinds = bytes([_NUMBERS.get(mode & _TYPE, FILE) for mode in modes])
        self.modes = array("H", [mode & 0o7777 for mode in modes])
        self.sizes, self.mtimes, self.ctimes = array("q", sizes), array("q", mtimes), array("q", ctimes)
        self.inodes: array[int] = array("Q", inodes)
        self._device: int = devices[0] if devices else 0
        self._devices = None if devices.count(self._device) == len(devices) else array("Q", devices)
        self.links: dict[int, bytes] = {}
        self.odd: dict[int, tuple[int, int]] = {}
        """Devices by place, with their numbers, and sockets."""
        self.linked: list[int] = []
        """The places of files with several names."""
        for at, mode in enumerate(modes):
            kind = mode & _TYPE
            if kind == S_IFREG:
                if names[at] > 1:
                    self.linked.append(at)
                continue
            self.sizes[at] = 0
            if kind == S_IFLNK:
                self.modes[at] = 0o777
                self.links[at] = rows[at][2]
            elif kind not in (S_IFDIR, S_IFIFO):
                device = found[at].st_rdev
                self.odd[at] = (os.major(device), os.minor(device)) if kind in (S_IFCHR, S_IFBLK) else (0, 0)
        self.digests: bytearray | None = None
        """Digests of what is in the files, 32 bytes for each child; None as long as none is known."""

    def __len__(self) -> int:
        return len(self.names)

    def place(self, name: bytes) -> int:
        """Where a name is; -1 when it is not there."""
        at = bisect_left(self.names, name)
        return at if at < len(self.names) and self.names[at] == name else -1

    def directories(self) -> Iterator[bytes]:
        """The names of directories."""
        return (name for name, kind in zip(self.names, self.kinds, strict=True) if kind == DIRECTORY)

    def entry(self, at: int, path: bytes) -> Entry:
        """The child at a place as an entry at `path`, which is root's."""
        major, minor = self.odd.get(at, (0, 0))
        return Entry(path, KINDS[self.kinds[at]], self.modes[at], 0, 0, self.sizes[at], self.mtimes[at], self.links.get(at, b""),
                     "", major, minor)  # fmt: skip

    def is_file(self, at: int) -> bool:
        """Whether the child is a regular file, and not a socket that counts as an empty one."""
        return self.kinds[at] == FILE and at not in self.odd

    def key(self, at: int) -> FileKey:
        """What tells the state of the file at a place."""
        return FileKey(self._device_of(at), self.inodes[at], self.sizes[at], self.mtimes[at], self.ctimes[at])

    def identity(self, at: int) -> int:
        """Which file is at a place, whatever its name."""
        return self._device_of(at) << 64 | self.inodes[at]

    def identities(self) -> list[int]:
        """`identity` of all files that have several names."""
        if self._devices is not None:
            return [self.identity(at) for at in self.linked]
        device = self._device << 64
        return [device | self.inodes[at] for at in self.linked]

    def settled(self, now: int) -> bool:
        """Whether every change of a file's content after `now` changes its key."""
        if not self.names or max(self.ctimes) + COARSE_SLACK < now:
            return True
        return all(is_settled(ctime, now) for at, ctime in enumerate(self.ctimes) if self.is_file(at))

    def has_other_names(self, at: int) -> bool:
        """Whether the file at a place has several names."""
        found = bisect_left(self.linked, at)
        return found < len(self.linked) and self.linked[found] == at

    def _device_of(self, at: int) -> int:
        return self._device if self._devices is None else self._devices[at]

    def digest(self, at: int) -> bytes | None:
        """The digest of the file at a place, if it is known."""
        known = bytes(self.digests[at * 32 : at * 32 + 32]) if self.digests is not None else _UNKNOWN
        return known if known != _UNKNOWN else None

    def learn(self, at: int, digest: bytes) -> None:
        """Takes up the digest of the file at a place."""
        if self.digests is None:
            self.digests = bytearray(32 * len(self.names))
        self.digests[at * 32 : at * 32 + 32] = digest

    def learn_all(self, places: Sequence[int], digests: bytes) -> None:
        """Takes up digests of the files at some places (or a range that is all of them), 32 bytes for each, 0 for those that are
        not known."""
        if isinstance(places, range) and self.digests is None:
            self.digests = bytearray(digests)
            return
        for n, at in enumerate(places):
            digest = digests[n * 32 : n * 32 + 32]
            if digest != _UNKNOWN:
                self.learn(at, digest)

    def unknown(self) -> Sequence[int]:
        """The places of regular files whose digests are not known, but for empty ones; a range if they are all there is."""
        count = len(self.names)
        if self.digests is None:
            return range(count) if all(self.sizes) else array("L", compress(range(count), self.sizes))
        if _UNKNOWN not in self.digests:
            return ()
        return array("L", [at for at in compress(range(count), self.sizes) if self.digest(at) is None])

    def known(self) -> Sequence[int]:
        """The places of regular files whose digests are known, but for empty ones; a range if they are all there is."""
        count = len(self.names)
        if self.digests is None:
            return ()
        if _UNKNOWN not in self.digests and all(self.sizes):
            return range(count)
        return array("L", [at for at in compress(range(count), self.sizes) if self.digest(at) is not None])

    def files(self, places: Sequence[int]) -> DirectoryFiles:
        """The files at some places (or a range that is all of them), with the digests that are known."""
        count, device, digests = len(places), self._device.to_bytes(8, sys.byteorder), self.digests
        columns = (self.inodes, self.sizes, self.mtimes, self.ctimes)
        if isinstance(places, range):
            devices = device * count if self._devices is None else self._devices.tobytes()
            keys, known = [column.tobytes() for column in columns], bytes(digests or b"")
        else:
            devices = device * count if self._devices is None else _at(self._devices, places)
            keys = [_at(column, places) for column in columns]
            known = b"".join([digests[at * 32 : at * 32 + 32] for at in places]) if digests is not None else b""
        return DirectoryFiles(*self._itself, b"".join([devices, *keys]), known)

    def describe(self) -> list[bytes]:
        """Bytes that are different ones when anything about the children is."""
        columns = [column.tobytes() for column in (self.modes, self.sizes, self.mtimes, self.ctimes, self.inodes)]
        devices = self._device.to_bytes(8, "little") if self._devices is None else self._devices.tobytes()
        links = b"".join([b"%d %d %b" % (at, len(link), link) for at, link in sorted(self.links.items())])
        return [b"\0".join(self.names), self.kinds, *columns, devices, links]

    def without(self, names: Sequence[bytes]) -> Listing:
        """The listing without some names, none of whose digests are known yet."""
        gone = set(names)
        kept = [at for at, name in enumerate(self.names) if name not in gone]
        place = {old: new for new, old in enumerate(kept)}
        out = Listing([])
        out.names = [self.names[at] for at in kept]
        out.kinds = bytes([self.kinds[at] for at in kept])
        out.modes = array("H", [self.modes[at] for at in kept])
        for column in ("sizes", "mtimes", "ctimes"):
            setattr(out, column, array("q", [getattr(self, column)[at] for at in kept]))
        out.inodes = array("Q", [self.inodes[at] for at in kept])
        out._itself = self._itself
        out._device = self._device
        out._devices = None if self._devices is None else array("Q", [self._devices[at] for at in kept])
        out.links = {place[at]: link for at, link in self.links.items() if at in place}
        out.odd = {place[at]: numbers for at, numbers in self.odd.items() if at in place}
        out.linked = [place[at] for at in self.linked if at in place]
        return out


def _name(row: Row) -> bytes:
    return row[0]


def _at(column: array[int], places: Sequence[int]) -> bytes:
    return array(column.typecode, map(column.__getitem__, places)).tobytes()
