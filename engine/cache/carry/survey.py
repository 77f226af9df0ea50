"""A job of worker processes: what a mount's instance holds now, and what of it is as it was."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from engine.cache.carry import record
from engine.cache.carry.below import Below
from engine.cache.carry.listing import MOST_ENTRIES, MOST_PATH
from engine.cache.carry.record import UNKNOWN, Look
from engine.errors import ContentError
from engine.layer.entries import Entry
from engine.layer.index import Index, collector_paused

_COARSE = 5
"""CLOCK_REALTIME_COARSE of clock_gettime(2): the clock that files' times are taken from."""


class Survey(NamedTuple):
    """An instance as it was found. `entries` are sorted by path; `looks` and `known` belong to them, row by row: `known` is the
    row of the record that a file is the same as, -1 for what is no file, or has to be read."""

    entries: Index
    looks: list[Look]
    known: list[int]
    same: bool
    """Whether all is as the record says."""
    odd: int
    """Sockets, devices and the like, which are not carried."""
    began: int
    """When the walk began, in nanoseconds: what is changed while it lasts has a later change time than that."""

    def lasting(self) -> list[Look]:
        """The looks by which files can be known again."""
        return [look if look[1] <= self.began else UNKNOWN for look in self.looks]


def survey(path: str) -> Survey:
    """Walks an instance and compares it with its record. Raises `OSError`, and `ContentError` when there is too much."""
    began = _now()
    before = record.load(path)
    with collector_paused():
        rows, odd = _walk(path)
        entries = tuple(entry for entry, _ in rows)
        known = [-1] * len(entries)
        same = before is not None and before.listing.entries == entries
        if before is not None:
            where = {entry.path: n for n, entry in enumerate(before.listing.entries) if entry.kind == "file"}
            for n, (entry, look) in enumerate(rows):
                old = where.get(entry.path, -1) if entry.kind == "file" else -1
                if old >= 0 and look == before.looks[old] and _alike(before.listing.entries[old], entry):
                    known[n] = old
                elif entry.kind == "file" and entry.size:
                    same = False
        return Survey(Index(entries), [look for _, look in rows], known, same, odd, began)


def is_empty(path: str) -> bool:
    """Whether there is nothing in an instance."""
    with os.scandir(path) as found:
        return next(found, None) is None


def _alike(old: Entry, new: Entry) -> bool:
    return old.size == new.size and old.mtime == new.mtime


def _now() -> int:
    """The time, once the clock of files' times is past it (a few milliseconds)."""
    now = time.time_ns()
    while time.clock_gettime_ns(_COARSE) <= now <= time.time_ns():
        time.sleep(0.001)
    return now


def _walk(path: str) -> tuple[list[tuple[Entry, Look]], int]:
    links: dict[tuple[int, int], list[int]] = {}
    rows: list[tuple[Entry, Look]] = []
    odd = 0
    with Below(path) as below:
        for name, found, where in _paths(below):
            entry = _entry(name, found, where)
            if entry is None:
                odd += 1
                continue
            if entry.kind == "file" and found.st_nlink > 1:
                links.setdefault((found.st_dev, found.st_ino), []).append(len(rows))
            rows.append((entry, (found.st_ino, found.st_ctime_ns)))
            if len(rows) > MOST_ENTRIES:
                raise ContentError(f"there are more than {MOST_ENTRIES} files in a cache mount")
    for numbers in links.values():
        first, *others = sorted(numbers, key=lambda n: rows[n][0].path)
        for n in others:
            entry, look = rows[n]
            rows[n] = entry._replace(kind="hardlink", link=rows[first][0].path, size=0, xattrs=()), look
    return sorted(rows, key=lambda row: row[0].path), odd


def _paths(below: Below) -> Iterator[tuple[bytes, os.stat_result, bytes]]:
    """Every path with its status, and a path that leads to it right now. What vanishes meanwhile is left out."""
    root = below.directory(b"")
    yield b"", os.fstat(root), b"/proc/self/fd/%d/." % root
    todo = [b""]
    while todo:
        directory = todo.pop()
        with suppress(OSError):
            fd = below.directory(directory)
            here = b"/proc/self/fd/%d/" % fd
            with os.scandir(fd) as found:
                names = [os.fsencode(each.name) for each in found]
            inner = []
            for name in names:
                path = directory + b"/" + name if directory else name
                with suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        inner.append(path)
                    yield path, status, here + name
            todo += sorted(inner, reverse=True)


def _entry(path: bytes, found: os.stat_result, where: bytes) -> Entry | None:
    mode = found.st_mode
    size, link, kind = 0, b"", "dir"
    if stat.S_ISREG(mode):
        size, kind = found.st_size, "file"
    elif stat.S_ISLNK(mode):
        kind = "symlink"
        with suppress(OSError):
            link = os.readlink(where)
    elif not stat.S_ISDIR(mode):
        return None
    if len(path) > MOST_PATH or (kind == "symlink" and not link):
        return None
    return Entry(path, kind, stat.S_IMODE(mode), found.st_uid, found.st_gid, size, found.st_mtime_ns, link,  # type: ignore[arg-type]
                 xattrs=_attributes(where) if kind != "symlink" else ())  # fmt: skip


def _attributes(path: bytes) -> tuple[tuple[str, bytes], ...]:
    """The attributes that are carried: a user's own, and access lists. Capabilities and overlayfs' marks are not."""
    out = []
    with suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            if carried(name):
                out.append((name, os.getxattr(path, name, follow_symlinks=False)))
    return tuple(sorted(out))


def carried(attribute: str) -> bool:
    """Whether an extended attribute is carried."""
    return attribute.startswith(("user.", "system.posix_acl_")) and not attribute.startswith("user.overlay.")
