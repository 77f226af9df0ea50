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
from engine.layer.entries import Entry
from engine.layer.index import Index, collector_paused
from engine.snapshot.compare import Found
from engine.snapshot.disk import Names, below, entry_of, same_content


def read_upper(upper: str, xattrs: Xattrs) -> tuple[Index, list[bytes], frozenset[bytes]]:
    """What an upper directory holds, as the parts of a `Found`; its entries as an index, which travels well."""
    entries: dict[bytes, Entry] = {}
    removed: list[bytes] = []
    opaque: set[bytes] = set()
    names = Names()
    mark = f"{xattrs}.overlay.opaque"
    with collector_paused(), storing(Path(upper)):
        for path, full, found in below(os.fsencode(upper)):
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                removed.append(path)
                continue
            entry = entry_of(path, full, found)
            if entry is None:
                continue
            entries[path] = entry
            if entry.kind == "file":
                names.note(path, found)
            elif entry.kind == "dir":
                with suppress(OSError):
                    if os.getxattr(full, mark) == b"y":
                        opaque.add(path)
        names.link(entries)
        return Index(entries[path] for path in sorted(entries)), removed, frozenset(opaque)


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
