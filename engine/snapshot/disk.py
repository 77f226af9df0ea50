"""Looking at directories on disk: upper directories of overlays, and whole roots before and after a step. Jobs for workers, in
directories that nobody writes to meanwhile."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from engine.layer.entries import Entry, Kind
from engine.snapshot.compare import kept

_KINDS: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
                           stat.S_IFCHR: "char", stat.S_IFBLK: "block"}
_FORMAT = 0o170000


def entry_of(path: bytes, full: bytes, found: os.stat_result) -> Entry | None:
    """The entry for what is on disk at `full`; None for a socket, which no layer can hold."""
    mode = found.st_mode
    kind = _KINDS.get(mode & _FORMAT)
    if kind == "file":
        values = (path, kind, mode & 0o7777, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns, b"", "", 0, 0,
                  attributes(full))  # fmt: skip
        return tuple.__new__(Entry, values)  # most entries are files, and this is quicker than the constructor
    if kind is None:
        return None
    major = minor = 0
    link = b""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    permissions = mode & 0o7777
    if kind == "symlink":
        permissions, link = 0o777, os.readlink(full)
    else:
        xattrs = attributes(full)
        if kind in ("char", "block"):
            major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    return Entry(path, kind, permissions, found.st_uid, found.st_gid, 0, found.st_mtime_ns, link, "", major, minor, xattrs)


def attributes(full: bytes) -> tuple[tuple[str, bytes], ...]:
    """The extended attributes that layers know of."""
    try:
        names = os.listxattr(full, follow_symlinks=False)
    except OSError:
        return ()
    if not names:
        return ()
    out = []
    for name in names:
        if kept(name):
            with suppress(OSError):
                out.append((name, os.getxattr(full, name, follow_symlinks=False)))
    return tuple(sorted(out))


def below(root: bytes) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Everything in a directory as (path in it, full path, status), a directory before what is in it."""
    todo = [(b"", root)]
    while todo:
        path, full = todo.pop()
        with os.scandir(full) as listing:
            for each in listing:
                found = each.stat(follow_symlinks=False)
                child = path + b"/" + each.name if path else each.name
                yield child, each.path, found
                if stat.S_ISDIR(found.st_mode):
                    todo.append((child, each.path))


class Names:
    """Finds the several names of one file: the first, in the order of paths, is the file and the others are its hard links."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], list[bytes]] = {}

    def note(self, path: bytes, found: os.stat_result) -> None:
        """Takes note of a regular file."""
        if found.st_nlink > 1:
            self._names.setdefault((found.st_dev, found.st_ino), []).append(path)

    def link(self, entries: dict[bytes, Entry]) -> None:
        """Makes hard links of those entries that are."""
        for paths in self._names.values():
            first, *others = sorted(paths)
            for path in others:
                entries[path] = entries[path]._replace(kind="hardlink", link=first)


def same_content(one: bytes, other: bytes) -> bool:
    """Whether two files have the same bytes."""
    with open(one, "rb", buffering=0) as first, open(other, "rb", buffering=0) as second:
        while True:
            left, right = first.read(1 << 20), second.read(1 << 20)
            if left != right:
                return False
            if not left:
                return True
