"""The upper directory of an overlay as what is found on disk: whiteouts, opaque directories and the rest. Jobs for workers.

Source: Documentation/filesystems/overlayfs.rst, "Whiteouts and opaque directories".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engine.content.faults import storing
from engine.isolate.overlay import Xattrs
from engine.layer.entries import Entry, ancestors
from engine.layer.index import Index, collector_paused
from engine.snapshot.compare import Found
from engine.snapshot.disk import Names, entry_of, same_content


def read_upper(upper: str, xattrs: Xattrs) -> tuple[Index, list[bytes], frozenset[bytes]]:
    """What an upper directory holds, as the parts of a `Found`; its entries as an index, which travels well."""
    with collector_paused(), storing(Path(upper)):
        reading = _Reading(os.fsencode(upper), f"{xattrs}.overlay.opaque")
        reading.names.link(reading.entries)
        return (Index(entry for _, entry in sorted(reading.entries.items())), reading.removed, frozenset(reading.opaque))


class _Reading:
    """Goes through an upper directory. It works in one directory after the other, which spares the kernel, for every file, the
    whole way there from the root: a third of the time."""

    def __init__(self, upper: bytes, mark: str) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.removed: list[bytes] = []
        self.opaque: set[bytes] = set()
        self.names = Names()
        self._mark = mark
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            todo = [b""]
            while todo:
                path = todo.pop()
                os.chdir(upper + b"/" + path)
                todo += self._directory(path + b"/" if path else b"")
        finally:
            os.fchdir(before)
            os.close(before)

    def _directory(self, prefix: bytes) -> list[bytes]:
        """Takes what is in the working directory; returns the directories among it."""
        entries, below = self.entries, []
        with os.scandir(b".") as listing:
            for each in listing:
                name, found = each.name, each.stat(follow_symlinks=False)
                path, mode = prefix + name, found.st_mode
                if stat.S_ISCHR(mode) and found.st_rdev == 0:
                    self.removed.append(path)
                    continue
                entry = entry_of(path, name, found)
                if entry is None:
                    continue
                entries[path] = entry
                if entry.kind == "file":
                    self.names.note(path, found)
                elif entry.kind == "dir":
                    below.append(path)
                    with suppress(OSError):
                        if os.getxattr(name, self._mark, follow_symlinks=False) == b"y":
                            self.opaque.add(path)
        return below


def touches(upper: str, xattrs: Xattrs, paths: Sequence[bytes]) -> bool:
    """Whether an upper directory has something to say of one of the paths: there, or at a directory above that is not merged with
    what is below."""
    with storing(Path(upper)):
        return any(_touches(os.fsencode(upper), f"{xattrs}.overlay.opaque", path) for path in paths)


def _touches(upper: bytes, mark: str, path: bytes) -> bool:
    for directory in ancestors(path):
        full = os.path.join(upper, directory)
        try:
            if not stat.S_ISDIR(os.lstat(full).st_mode):
                return True
        except FileNotFoundError:
            return False
        with suppress(OSError):
            if os.getxattr(full, mark, follow_symlinks=False) == b"y":
                return True
    return os.path.lexists(os.path.join(upper, path))


def found_in(parts: tuple[Index, list[bytes], frozenset[bytes]]) -> Found:
    """The `Found` of `read_upper`'s result."""
    index, removed, opaque = parts
    return Found(index.entries, removed, opaque)


def same_as_below(upper: str, lower: Sequence[str], paths: Sequence[bytes]) -> list[bytes]:
    """Those of the paths at which upper and lower directories have the same bytes. All are regular files in the merged lowers."""
    out = []
    for path in paths:
        for directory in lower:
            full = os.path.join(os.fsencode(directory), path)
            try:
                found = os.lstat(full)
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and same_content(full, os.path.join(os.fsencode(upper), path)):
                out.append(path)
            break
    return out
