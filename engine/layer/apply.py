"""A layer, or a change set, applied to a root that is there: a plain directory, as the walk snapshots have it.

`unpack` and `scan`, which take a layer alone, are named here too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from engine.errors import ContentError, ContextError
from engine.isolate.base import IdMap
from engine.layer.contents import HARDLINK, clean, removal, show, to_entry
from engine.layer.disk import Disk, Style, failed
from engine.layer.entries import Change, Entry, Kind
from engine.layer.inflate import Inflated
from engine.layer.scan import Expected, Unpacked, scan
from engine.layer.tarcodec import WHITEOUT
from engine.layer.tarstream import Member, TarStream
from engine.layer.unpack import unpack

__all__ = ["Style", "Unpacked", "apply_changes", "apply_layer", "scan", "unpack"]

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
