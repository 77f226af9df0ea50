"""A layer, from its blob or unpacked, or a change set, applied to a root that is there: a plain directory, as the walk snapshots
have it.

`unpack` and `scan`, which take a layer alone, are named here too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from engine.errors import ContentError, ContextError
from engine.isolate.base import IdMap
from engine.layer.columns import NUMBERS, Columns
from engine.layer.contents import HARDLINK, clean, removal, show, to_entry
from engine.layer.disk import Disk, Style, failed
from engine.layer.entries import Change, Entry, Kind, ancestors, join, parent
from engine.layer.index import Index
from engine.layer.inflate import Inflated
from engine.layer.scan import Expected, Unpacked, scan
from engine.layer.tarcodec import WHITEOUT
from engine.layer.tarstream import Member, TarStream
from engine.layer.unpack import unpack

__all__ = ["Style", "Unpacked", "apply_changes", "apply_layer", "apply_unpacked", "scan", "unpack"]

_PIECE = 1 << 20


def apply_layer(blob_path: str, root: str, *, owners: bool = True, ids: IdMap | None = None, diff_id: str = "") -> str:
    """Applies a layer to a root (OCI image spec, layer.md, "Applying Changesets"); returns its diff id in hexadecimal.

    Whiteouts are about what was there before, wherever in the layer they are. Symlinks on the way are followed inside the root.
    Raises as `unpack` does; the root is not to be used then.
    """
    expected = Expected(diff_id)
    with Inflated(blob_path, algorithm=expected.algorithm) as tar, Disk(root, owners=owners, ids=ids) as disk:
        stream = TarStream(tar.chunk)
        written: set[bytes] = set()
        path = b""
        try:
            while member := stream.next():
                path = member.name
                _member(member, stream, disk, written)
            disk.finish()
        except OSError as error:
            raise failed(path, error) from error
        stream.drain()
        expected.verify(tar.diff_id())
        return tar.diff_id()


def apply_unpacked(directory: str, index: Index, root: str, *, owners: bool = True, ids: IdMap | None = None) -> bool:
    """Does to a root what `apply_layer` does, with a layer that lies unpacked, in the style `plain`, on the same file system. What
    is in its directory is moved, a whole tree at once where the root has nothing of the name; the rest is the caller's to remove.

    False, and the root is as it was, if that would not do: where a symlink has to be followed, or the directory does not have all
    that the layer has (hard links to files of lower layers, devices that the machine refuses). Raises as `apply_layer` does; the
    root is not to be used then.
    """
    rows, source = index.columns, os.fsencode(directory)
    described = {rows.paths[at]: rows.row(at) for at in _rows_of(rows, "dir")}
    removals = [rows.row(at) for at in _rows_of(rows, "whiteout", "opaque")]
    with Disk(root, owners=owners, ids=ids) as disk:
        path = b""
        try:
            if not _is_whole(rows, source) or not all(_is_direct(disk, entry) for entry in removals):
                return False
            for entry in removals:
                _remove_empty(source, entry.path, described)
            plan = _plan_moves(disk, source, described)
            if plan is None:
                return False
            for entry in removals:
                path = entry.path
                _remove(disk, entry.kind, _place(disk, path), set())
            for path in plan.shared:
                if path in described:
                    disk.directory(described[path])
                disk.enter(path)
            for path, is_replacing in plan.moved:
                if is_replacing:
                    disk.remove(path)
                os.rename(join(source, path), path, dst_dir_fd=disk.root)
            disk.finish()
        except OSError as error:
            raise failed(path, error) from error
    return True


def apply_changes(changes: Sequence[Change], root: str, *, owners: bool = True, ids: IdMap | None = None) -> None:
    """Makes changes in a root: first what removes, then the others in their order, a hard link after what it links to. Raises
    `ContextError` when a file is not as long as its entry says, and `StorageError`."""
    with Disk(root, owners=owners, ids=ids) as disk:
        path = b""
        try:
            for change in changes:
                path, kind = change.entry.path, change.entry.kind
                if kind in ("whiteout", "opaque"):
                    _remove(disk, kind, _place(disk, path), set())
            for change in changes:
                entry = change.entry
                if entry.kind not in ("whiteout", "opaque"):
                    path = entry.path
                    link = _place(disk, entry.link) if entry.kind == "hardlink" else entry.link
                    _write(disk, entry._replace(path=_place(disk, path, make=True), link=link), _pieces(change))
            disk.finish()
        except OSError as error:
            raise failed(path, error) from error


def _rows_of(rows: Columns, *kinds: Kind) -> list[int]:
    """The numbers of the rows of some kinds."""
    numbers = {NUMBERS[kind] for kind in kinds}
    return [at for at, number in enumerate(rows.kinds) if number in numbers]


def _is_whole(rows: Columns, source: bytes) -> bool:
    """Whether a layer's own directory has all that is in the layer."""
    links = _rows_of(rows, "hardlink")
    if links:
        removals = {NUMBERS["whiteout"], NUMBERS["opaque"]}
        first = {path: at for at, path in enumerate(rows.paths) if rows.kinds[at] not in removals}
        if any(first.get(rows.links[at], at) >= at for at in links):
            return False
    return all(os.path.lexists(join(source, rows.paths[at])) for at in _rows_of(rows, "char", "block"))


def _is_direct(disk: Disk, removal: Entry) -> bool:
    """Whether what a whiteout or opaque mark is about lies in the root under just its name."""
    for directory in (*ancestors(removal.path), *((removal.path,) if removal.kind == "opaque" else ())):
        mode = disk.mode(directory)
        if mode is None:
            return True
        if not stat.S_ISDIR(mode):
            return False
    return True


def _remove_empty(source: bytes, path: bytes, described: Mapping[bytes, Entry]) -> None:
    """Removes from a layer's directory the directories that are only there since a whiteout lay in them: empty ones, at the path or
    above it, of which the layer says nothing."""
    for at in (path, *reversed(ancestors(path))):
        if at and at not in described:
            above = join(source, parent(at))
            with suppress(FileNotFoundError, NotADirectoryError):
                found = os.lstat(above)
                try:
                    os.rmdir(join(source, at))
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
                    return
                os.utime(above, ns=(found.st_atime_ns, found.st_mtime_ns))


class _Moves(NamedTuple):
    """The directories that both a layer and a root have, parents first; and what else the layer has in these, by its path, and
    whether there is something of that name in the root."""

    shared: list[bytes]
    moved: list[tuple[bytes, bool]]


def _plan_moves(disk: Disk, source: bytes, described: Mapping[bytes, Entry]) -> _Moves | None:
    """How a layer's directory gets into a root; None if that cannot be done without following a symlink, or with paths as long as
    they are in the layer's directory."""
    plan = _Moves([b""], [])
    try:
        for directory in plan.shared:  # which grows meanwhile
            for name, is_directory in _names(join(source, directory)):
                path = join(directory, name)
                there = disk.mode(path)
                if is_directory and there is not None and stat.S_ISDIR(there):
                    plan.shared.append(path)
                elif is_directory and there is not None and path not in described:
                    return None
                else:
                    os.lstat(join(source, path))
                    plan.moved.append((path, there is not None))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return None
    return plan


def _names(directory: bytes) -> list[tuple[bytes, bool]]:
    """What is in a directory, and whether it is one itself."""
    with os.scandir(directory) as listing:
        return sorted((each.name, each.is_dir(follow_symlinks=False)) for each in listing)


def _member(member: Member, stream: TarStream, disk: Disk, written: set[bytes]) -> None:
    """One member of a layer onto a root."""
    name = clean(member.name)
    head, _, tail = name.rpartition(b"/")
    if tail.startswith(WHITEOUT):
        what = removal(disk.find(head), tail)
        if what:
            _remove(disk, *what, written)
        return
    path = _place(disk, name, make=True)
    link = _place(disk, clean(member.link)) if member.type == HARDLINK else member.link
    if member.type == HARDLINK and link == path:
        return
    entry = to_entry(member, path, link)
    if entry.kind == "file" and member.sparse is not None:
        disk.file(entry, stream.pieces(member), member.sparse)
    else:
        _write(disk, entry, stream.pieces(member))
    written.add(path)


def _place(disk: Disk, path: bytes, *, make: bool = False) -> bytes:
    """The path with real directories before its last component."""
    head, _, tail = path.rpartition(b"/")
    real = disk.enter(head) if make else disk.find(head)
    return real + b"/" + tail if real else tail


def _write(disk: Disk, entry: Entry, pieces: Iterable[bytes | memoryview]) -> None:
    kind = entry.kind
    if kind == "file":
        disk.file(entry, pieces)
    elif kind == "dir":
        disk.directory(entry)
    elif kind == "symlink":
        disk.symlink(entry)
    elif kind == "hardlink":
        if not disk.hardlink(entry):
            raise ContentError(f"{show(entry.path)} is a hard link to {show(entry.link)}, which is not there")
    else:
        disk.node(entry)


def _remove(disk: Disk, kind: Kind, path: bytes, written: set[bytes]) -> None:
    """Removes a path, or all that is in it, but for what this layer has `written`."""
    if kind == "opaque" or path in disk.holding:
        if kind == "whiteout" and path not in written:  # what is in it now is the layer's, but not what it is itself
            disk.directory(Entry(path, "dir", 0o755))
        disk.find(path)  # whose time stays as it is
        for name in disk.names(path):
            _remove(disk, "whiteout", path + b"/" + name if path else name, written)
    elif path in written:
        for name in disk.names(path):  # a directory: its entry stays, what was in it goes
            _remove(disk, "whiteout", path + b"/" + name, written)
    else:
        disk.remove(path)


def _pieces(change: Change) -> Iterable[bytes]:
    """The bytes of a changed file, from where they lie."""
    entry, source, offset = change
    if entry.kind != "file" or not entry.size:
        return
    if source is None:
        raise ContextError(f"{show(entry.path)}: there is nothing to copy")
    try:
        file = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ContextError(f"cannot read {show(source)}: {error.strerror}") from error
    try:
        left = entry.size
        while left:
            piece = os.pread(file, min(left, _PIECE), offset)
            if not piece:
                raise ContextError(f"{show(source)} changed while it was read")
            left -= len(piece)
            offset += len(piece)
            yield piece
    finally:
        os.close(file)
