"""The state of a whole root as a walk sees it, and what has happened to it between two walks. Jobs for workers.

A state is a table from directories to what is in them, by name: (mode, uid, gid, size, mtime, ctime, inode, device numbers). It is
kept in files beside the root, one for each share of it (see `shares`): the state after a step is the state before the next one. A
ctime cannot be set, so what is equal in all of these is the same file with the same content. What differs is only a candidate: a
`Found`.
"""

from __future__ import annotations

import marshal
import os
import stat
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path

from msgspec import Struct

from engine.content.faults import storing
from engine.image.digest import Digest
from engine.isolate.base import IdMap
from engine.isolate.copies import remove_tree
from engine.layer.apply import apply_changes, apply_layer, apply_unpacked, scan
from engine.layer.entries import Change, Entry, ancestors, join
from engine.layer.index import Index, IndexStore, collector_paused
from engine.snapshot.disk import Names, entry_of
from engine.snapshot.shares import divide

ROOT, STATE, NEXT, TAKEN = "fs", "state", "state.next", "taken"
"""Names in a snapshot's directory: the root, its state before the step, and after (directories, with a file for each share), and
an unpacked layer that is on its way into the root."""

_FEW = 5000
"""Files. A share of fewer is not worth another worker."""

_Signature = tuple[int, int, int, int, int, int, int, int]
_State = dict[str, dict[str, _Signature]]
"""Paths are strings as `os.fsdecode` makes them: that is what listing a directory by its descriptor gives."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_signature = attrgetter("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_rdev")


class LayerSource(Struct, frozen=True):
    """Where a layer can be had from: its blob, and the directory that it lies unpacked in, unless somebody has taken that."""

    diff_id: Digest
    blob: str
    unpacked: str


def build_root(directory: str, layers: Sequence[LayerSource], index_dir: str, root: Entry, ids: IdMap, most: int) -> int:
    """Applies layers to the root in a snapshot's directory, which is made if need be, and notes its state. The directories of
    unpacked layers are taken. `index_dir` is an `IndexStore`'s. Returns in how many shares, at `most`, the root is to be looked
    through."""
    path = f"{directory}/{ROOT}"
    with storing(Path(directory)):
        owners = ids.kind != "none"
        new = not os.path.isdir(path)
        if new:
            os.mkdir(path, 0o755)
            apply_changes([Change(root)], path, owners=owners, ids=ids)
        for layer in layers:
            index = IndexStore(Path(index_dir)).get(layer.diff_id)
            moved = False
            if index and _taken(layer.unpacked, taken := f"{directory}/{TAKEN}"):
                moved = apply_unpacked(taken, index, path, owners=owners, ids=ids)
                remove_tree(taken)
            if not moved:
                apply_layer(layer.blob, path, owners=owners, ids=ids, diff_id=str(layer.diff_id))
        if new or layers or not os.path.isdir(f"{directory}/{STATE}"):
            remove_tree(f"{directory}/{STATE}")
            _note(_look(os.fsencode(path), [""], []), f"{directory}/{STATE}", most)
        return len(os.listdir(f"{directory}/{STATE}"))


def _taken(directory: str, to: str) -> bool:
    """Whether a directory could be had: of several who want it only one gets it."""
    try:
        os.rename(directory, to)
    except FileNotFoundError:
        return False
    return True


def compare(directory: str, share: int) -> tuple[list[bytes], list[bytes]]:
    """What is not as it was when a root's state was noted, of one share of it: what may have changed, and what is gone while its
    directory is not. Notes the state now as the next."""
    with collector_paused(), storing(Path(directory)):
        heads, others, before = marshal.loads(Path(directory, STATE, str(share)).read_bytes())
        now: _State = _look(os.fsencode(f"{directory}/{ROOT}"), heads, others)
        os.makedirs(f"{directory}/{NEXT}", exist_ok=True)
        _store((heads, others, now), f"{directory}/{NEXT}/{share}")
        changed: list[str] = []
        removed: list[str] = []
        for path, names in now.items():
            was = before.get(path, {})
            if was != names:
                changed += [_join(path, name) for name, signature in names.items() if was.get(name) != signature]
                removed += [_join(path, name) for name in was if name not in names]
        return list(map(os.fsencode, changed)), list(map(os.fsencode, removed))


def read_entries(directory: str, changed: Sequence[bytes], removed: Sequence[bytes]) -> Index:
    """What has changed in a root as entries, and the directories above it and above what was removed."""
    with collector_paused(), storing(Path(directory)):
        root = os.fsencode(f"{directory}/{ROOT}")
        paths = {*changed, *(above for path in (*changed, *removed) for above in ancestors(path))}
        entries: dict[bytes, Entry] = {}
        names = Names()
        for path in paths:
            full = join(root, path)
            found = os.lstat(full)
            entry = entry_of(path, full, found)
            if entry is not None:
                entries[path] = entry
                if entry.kind == "file":
                    names.note(path, found)
        names.link(entries)
        return Index(entries[path] for path in sorted(entries))


def keep_state(directory: str) -> None:
    """The state after the step is from now on the one before."""
    if os.path.isdir(f"{directory}/{NEXT}"):
        remove_tree(f"{directory}/{STATE}")
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


def _look(root: bytes, heads: Sequence[str], others: Sequence[str]) -> _State:
    """The state of what is below some directories of a root, as far as they are there, but not below `others`. Everything is
    reached through a descriptor of its directory, which is a quarter quicker than by whole paths."""
    state: _State = {}
    elsewhere = frozenset(others)
    top = os.open(root, _DIRECTORY)
    try:
        todo = [path for path in heads if _is_directory(path, top)]
        while todo:
            path = todo.pop()
            here = os.open(path or ".", _DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            try:
                with os.scandir(here) as listing:
                    names = state[path] = {entry.name: _signature(entry.stat(follow_symlinks=False)) for entry in listing}
            finally:
                os.close(here)
            below = [_join(path, name) for name, signature in names.items() if stat.S_ISDIR(signature[0])]
            todo += [each for each in below if each not in elsewhere] if elsewhere else below
    finally:
        os.close(top)
    return state


def _is_directory(path: str, top: int) -> bool:
    """Whether there is a directory, and nothing but directories above it."""
    parts = path.split("/") if path else []
    try:
        return all(stat.S_ISDIR(os.stat("/".join(parts[:depth]), dir_fd=top, follow_symlinks=False).st_mode)
                   for depth in range(1, len(parts) + 1))
    except FileNotFoundError:
        return False


def _note(state: _State, directory: str, most: int) -> None:
    """Writes down a state, in shares."""
    counts = {path: len(names) for path, names in state.items()}
    divided = divide(counts, max(1, min(most, sum(counts.values()) // _FEW)))
    owner = {head: share for share, heads in enumerate(divided) for head in heads}
    shares: list[_State] = [{} for _ in divided]
    for path in sorted(state):
        if path not in owner:
            owner[path] = owner[path.rpartition("/")[0]]
        shares[owner[path]][path] = state[path]
    os.mkdir(directory)
    for number, heads in enumerate(divided):
        others = [head for share, theirs in enumerate(divided) for head in theirs if share != number]
        _store((heads, others, shares[number]), f"{directory}/{number}")


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _store(share: tuple[list[str], list[str], _State], path: str) -> None:
    with open(path, "wb") as file:
        file.write(marshal.dumps(share))
