"""A tar as a file tree and as a build context. Nothing is unpacked: files are read where they lie in the tar, or in the
uncompressed copy that was made of it. Only a bind mount needs them on disk.

Owners do not count, and names that look like whiteouts mean nothing: this is a context, not a layer.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from engine.context.faults import show
from engine.context.view import copy_visible, remove_tree
from engine.errors import ContextError
from engine.layer.archive import scan_archive
from engine.layer.entries import Change, Entry, join, name, parent
from engine.layer.hashing import EMPTY, hash_ranges
from engine.layer.resolve import follow, resolve

READ_LIMIT = 16 << 20
"""Bytes that `read` gives at most."""

_DOCKERFILES = (b"Dockerfile", b"dockerfile")


class ArchiveTree:
    """Implements `engine.layer.base.FileTree` over the members of an archive, the later ones over the earlier ones."""

    def __init__(self, members: Sequence[Change]) -> None:
        """`members` are in the archive's order. Raises `ContextError` for an archive that makes no sense."""
        self._entries: dict[bytes, Entry] = {b"": Entry(b"", "dir", 0o755)}
        self._names: dict[bytes, set[bytes]] = {b"": set()}
        self._places: dict[bytes, tuple[bytes, int]] = {}
        self._identities: dict[bytes, object] = {}
        for member in members:
            if member.entry.path and member.entry.kind not in ("whiteout", "opaque"):
                self._add(member)
        self._sorted: dict[bytes, list[bytes]] = {}

    def get(self, path: bytes) -> Entry | None:
        """See `FileTree`."""
        return self._entries.get(path)

    def children(self, path: bytes) -> Sequence[bytes]:
        """See `FileTree`."""
        names = self._sorted.get(path)
        if names is None:
            names = self._sorted[path] = sorted(self._names.get(path, ()))
        return names

    def source(self, path: bytes) -> tuple[bytes, int]:
        """See `FileTree`."""
        return self._places[path]

    def identity(self, path: bytes) -> object | None:
        """See `FileTree`."""
        return self._identities.get(path)

    def read(self, path: bytes) -> bytes:
        """See `FileTree`."""
        entry = self._entries.get(path)
        if entry is None or entry.kind != "file" or entry.size > READ_LIMIT:
            raise KeyError(path)
        place, offset = self._places[path]
        with open(place, "rb") as file:
            return os.pread(file.fileno(), entry.size, offset)

    def _add(self, member: Change) -> None:
        entry = member.entry
        directory = self._directory(parent(entry.path))
        path = join(directory, name(entry.path))
        there = self._entries.get(path)
        if there is not None and entry.kind == "dir":
            if there.kind == "symlink":
                path = self._directory(path)
                there = self._entries[path]
            if there.kind == "dir":
                self._entries[path] = _plain(entry, path)
                return
        if entry.kind == "hardlink":
            self._link(path, follow(entry.link, self._link_text, follow_last=False))
            return
        self._remove(path)
        self._put(_plain(entry, path))
        if entry.kind == "file":
            self._places[path] = member.source or b"/dev/null", member.offset

    def _put(self, entry: Entry) -> None:
        path = entry.path
        self._entries[path] = entry
        self._names[parent(path)].add(name(path))
        if entry.kind == "dir":
            self._names[path] = set()

    def _link(self, path: bytes, target: bytes) -> None:
        entry = self._entries.get(target)
        if entry is None or entry.kind == "dir":
            raise ContextError(f"invalid tar: the hard link {show(path)} leads to {show(target)}, which is no file before it")
        if path == target:
            return
        self._remove(path)
        self._put(entry._replace(path=path))
        if entry.kind == "file":
            self._places[path] = self._places[target]
            self._identities[path] = self._identities.setdefault(target, object())

    def _remove(self, path: bytes) -> None:
        todo = [path] if path in self._entries else []
        while todo:
            gone = todo.pop()
            todo += [gone + b"/" + child for child in self._names.pop(gone, ())]
            del self._entries[gone]
            self._places.pop(gone, None)
            self._identities.pop(gone, None)
        names = self._names.get(parent(path))
        if names is not None:
            names.discard(name(path))

    def _directory(self, path: bytes) -> bytes:
        """The real directory behind a path; what is missing of it is made."""
        if path in self._names:
            return path
        real = follow(path, self._link_text)
        parts = real.split(b"/") if real else []
        for end in range(1, len(parts) + 1):
            at = b"/".join(parts[:end])
            entry = self._entries.get(at)
            if entry is None:
                self._put(Entry(at, "dir", 0o755))
            elif entry.kind != "dir":
                raise ContextError(f"invalid tar: {show(path)} is below something that is no directory")
        return real

    def _link_text(self, path: bytes) -> bytes | None:
        entry = self._entries.get(path)
        return entry.link if entry is not None and entry.kind == "symlink" else None


def _plain(entry: Entry, path: bytes) -> Entry:
    return entry._replace(path=path, uid=0, gid=0, xattrs=())


class ArchiveContext:
    """Implements `engine.context.base.Context` over a tar. Ignore files are for local directories only."""

    rules = None

    def __init__(self, tree: ArchiveTree, scratch: Path, owned: Sequence[Path] = ()) -> None:
        """`owned` are directories to remove at the end."""
        self.tree = tree
        self._scratch = scratch
        self._owned = list(owned)
        self._views: dict[bytes, str] = {}
        self._lock = anyio.Lock()

    def dockerfile(self, path: str | None) -> tuple[str, bytes] | None:
        """See `Context`. A path is one inside of the archive."""
        for candidate in _DOCKERFILES if path is None else (os.fsencode(path),):
            try:
                return os.fsdecode(candidate), self.tree.read(resolve(self.tree, candidate))
            except KeyError:
                continue
        return None

    async def digests(self, paths: Sequence[bytes]) -> dict[bytes, str]:
        """See `Context`."""
        ranges: dict[bytes, tuple[bytes, int, int]] = {}
        out: dict[bytes, str] = {}
        for path in paths:
            entry = self.tree.get(path)
            if entry is None or entry.kind != "file":
                raise ContextError(f"{show(path)} is not in the build context")
            if entry.size:
                ranges[path] = (*self.tree.source(path), entry.size)
            else:
                out[path] = EMPTY.hex()
        try:
            digests = await anyio.to_thread.run_sync(hash_ranges, list(ranges.values()), abandon_on_cancel=True)
        except OSError as error:
            raise ContextError(f"cannot read the build context: {error}") from error
        return out | dict(zip(ranges, digests, strict=True))

    async def directory(self, path: bytes) -> str | None:
        """See `Context`."""
        async with self._lock:
            if path not in self._views:
                view = Path(tempfile.mkdtemp(prefix="context-", dir=self._scratch))
                self._owned.append(view)
                await anyio.to_thread.run_sync(copy_visible, self.tree, path, view)
                self._views[path] = str(view)
            return self._views[path]

    async def aclose(self) -> None:
        """See `Context`."""
        with anyio.CancelScope(shield=True):
            for path in self._owned:
                await anyio.to_thread.run_sync(remove_tree, path)
        self._owned.clear()


def open_archive(path: Path, spool: Path) -> ArchiveTree | None:
    """The tree of the tar at `path`; None if it is none. An uncompressed copy goes to the directory `spool`. Raises
    `ContextError`."""
    members = scan_archive(str(path), str(spool))
    return None if members is None else ArchiveTree(members)
