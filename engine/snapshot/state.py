"""The state of a whole root as a walk sees it, and what has happened to it between two walks. Jobs for workers.

A state is a table from paths to (mode, uid, gid, size, mtime, ctime, inode, device numbers), kept in a file beside the root: the
state after a step is the state before the next one. A ctime cannot be set, so what is equal in all of these is the same file with
the same content. What differs is only a candidate: a `Found`.
"""

from __future__ import annotations

import marshal
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from engine.content.faults import storing
from engine.isolate.base import IdMap
from engine.layer.apply import apply_changes, apply_layer, scan
from engine.layer.entries import Change, Entry, ancestors, parent
from engine.layer.index import Index, collector_paused
from engine.snapshot.disk import Names, below, entry_of

ROOT, STATE, NEXT = "fs", "state", "state.next"
"""Names in a snapshot's directory: the root, its state before the step, and after."""

_Signature = tuple[int, int, int, int, int, int, int, int]


def build_root(directory: str, layers: Sequence[tuple[str, str]], root: Entry, ids: IdMap) -> None:
    """Applies layers (blob and diff id) to the root in a snapshot's directory, which is made if need be, and notes its state."""
    path = f"{directory}/{ROOT}"
    with storing(Path(directory)):
        owners = ids.kind != "none"
        new = not os.path.isdir(path)
        if new:
            os.mkdir(path, 0o755)
            apply_changes([Change(root)], path, owners=owners, ids=ids)
        for blob, diff_id in layers:
            apply_layer(blob, path, owners=owners, ids=ids, diff_id=diff_id)
        if new or layers or not os.path.exists(f"{directory}/{STATE}"):
            _store({found[0]: _signature(found[2]) for found in below(os.fsencode(path))}, f"{directory}/{STATE}")


def read_changes(directory: str) -> tuple[Index, list[bytes]]:
    """What may have changed in a root since its state was noted, as the parts of a `Found`; notes the state now as the next."""
    with collector_paused(), storing(Path(directory)):
        root = os.fsencode(f"{directory}/{ROOT}")
        with open(f"{directory}/{STATE}", "rb") as file:
            before: dict[bytes, _Signature] = marshal.load(file)
        after: dict[bytes, _Signature] = {}
        changed: dict[bytes, tuple[bytes, os.stat_result]] = {}
        for path, full, found in below(root):
            signature = after[path] = _signature(found)
            if before.pop(path, None) != signature:
                changed[path] = full, found
        removed = [path for path in before if stat.S_ISDIR(after.get(parent(path), (stat.S_IFDIR * (not parent(path)),))[0])]
        _store(after, f"{directory}/{NEXT}")
        return _index(root, changed, removed), removed


def keep_state(directory: str) -> None:
    """The state after the step is from now on the one before."""
    with suppress(FileNotFoundError):
        os.unlink(f"{directory}/{STATE}")
    with suppress(FileNotFoundError):
        os.rename(f"{directory}/{NEXT}", f"{directory}/{STATE}")


def digests(blob: str, paths: Sequence[bytes]) -> Mapping[bytes, str]:
    """Digests (hexadecimal) of regular files in a layer."""
    wanted = frozenset(paths)
    entries = {entry.path: entry for entry in scan(blob, hash_files=True).entries}
    out = {}
    for path in wanted & entries.keys():
        entry = entries[path]
        out[path] = (entries[entry.link] if entry.kind == "hardlink" and entry.link in entries else entry).digest
    return out


def _index(root: bytes, changed: dict[bytes, tuple[bytes, os.stat_result]], removed: Sequence[bytes]) -> Index:
    """The entries of what has changed and of the directories above it."""
    for path in [*changed, *removed]:
        for above in reversed(ancestors(path)):
            if above in changed:
                break
            full = root + b"/" + above
            changed[above] = full, os.lstat(full)
    entries: dict[bytes, Entry] = {}
    names = Names()
    for path, (full, found) in changed.items():
        entry = entry_of(path, full, found)
        if entry is not None:
            entries[path] = entry
            if entry.kind == "file":
                names.note(path, found)
    names.link(entries)
    return Index(entries[path] for path in sorted(entries))


def _signature(found: os.stat_result) -> _Signature:
    return (found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino,
            found.st_rdev)


def _store(state: dict[bytes, _Signature], path: str) -> None:
    with open(path, "wb") as file:
        marshal.dump(state, file)
