"""A few paths of a tree whose layers have not been put together yet.

To put the layers of a large image together takes longer than to begin a command, for which no more has to be known than the root
directory and two files of accounts. So layers are gone through from the top for each path alone; which is the same as long as no
layer names anything through a symlink of a lower one. Where one does, or a hard link is met, the tree is asked after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.layer.base import FileTree
from engine.layer.columns import KINDS, NUMBERS
from engine.layer.entries import Entry, ancestors, parent
from engine.layer.index import Index

_REMOVAL = (NUMBERS["whiteout"], NUMBERS["opaque"])


class Lower(Protocol):
    """What is below the layers: a tree that is put together."""

    def get(self, path: bytes) -> Entry | None:
        """As in `FileTree`."""

    def read(self, path: bytes) -> bytes:
        """As in `FileTree`."""


class _UnclearError(Exception):
    """Only the whole tree knows."""


class Glance:
    """Implements `FileTree` for few lookups with `get` and `read`: what `tree` says, without putting it together if that can be
    helped. What makes no sense in a layer may go unnoticed here."""

    def __init__(self, tree: FileTree, lower: Lower, indexes: Sequence[Index]) -> None:
        """`indexes` are those of the tree's layers above `lower`, lowest first."""
        self._tree, self._lower = tree, lower
        self._layers = [_Layer(index) for index in indexes]
        self._clear = all(not self._leads_astray(layer, self._layers[: number + 1]) for number, layer in enumerate(self._layers))
        self._layers.reverse()

    def get(self, path: bytes) -> Entry | None:
        """As in `FileTree`."""
        try:
            found = self._find(path)
        except _UnclearError:
            return self._tree.get(path)
        if found is None:
            return None
        return found.entry(path) if isinstance(found, _Layer) else found.get(path)

    def read(self, path: bytes) -> bytes:
        """As in `FileTree`."""
        try:
            found = self._find(path)
        except _UnclearError:
            return self._tree.read(path)
        if found is None:
            raise KeyError(path)
        return found.index.files[path] if isinstance(found, _Layer) else found.read(path)

    def children(self, path: bytes) -> Sequence[bytes]:
        """As in `FileTree`."""
        return self._tree.children(path)

    def identity(self, path: bytes) -> object | None:
        """As in `FileTree`."""
        return self._tree.identity(path)

    def source(self, path: bytes) -> tuple[bytes, int]:
        """As in `FileTree`."""
        return self._tree.source(path)

    def _find(self, path: bytes) -> _Layer | Lower | None:
        """Who has what is at a path."""
        if not self._clear:
            raise _UnclearError
        for layer in self._layers:
            if layer.has(path):
                return layer
            if layer.hides(path):
                return None
        return self._lower

    def _leads_astray(self, layer: _Layer, layers: Sequence[_Layer]) -> bool:
        """Whether anything in a layer may lie elsewhere than its name says, after a link of one of these."""
        if any(not layer.heads.isdisjoint(other.links) for other in layers):
            return True
        get = self._lower.get
        return any((found := get(path)) is not None and found.kind == "symlink" for path in layer.heads)


class _Layer:
    """A layer by itself."""

    def __init__(self, index: Index) -> None:
        self.index = index
        rows = self._rows = index.columns
        paths, kinds = rows.paths, rows.kinds
        self._places = dict(zip(paths, range(len(paths)), strict=True))
        self._whiteouts: set[bytes] = set()
        self._opaque: set[bytes] = set()
        if any(number in kinds for number in _REMOVAL):
            removals = [at for at, number in enumerate(kinds) if number in _REMOVAL]
            for at in removals:
                (self._opaque if KINDS[kinds[at]] == "opaque" else self._whiteouts).add(paths[at])
            self._places = {path: at for at, path in enumerate(paths) if kinds[at] not in _REMOVAL}
        self.links = {paths[at] for at in rows.links}
        """Symlinks, and hard links, which may be names of some."""
        self.heads = self._opaque | {path.rpartition(b"/")[0] for path in paths}
        """All directories that names lead through."""
        for path in list(self.heads):
            while (path := parent(path)) not in self.heads:
                self.heads.add(path)

    def has(self, path: bytes) -> bool:
        """Whether the layer provides what is at a path, with an entry."""
        at = self._places.get(path)
        if (at is None and path and path in self.heads) or (at is not None and KINDS[self._rows.kinds[at]] == "hardlink"):
            raise _UnclearError
        return at is not None

    def entry(self, path: bytes) -> Entry:
        """The entry at a path that the layer has."""
        return self._rows.row(self._places[path])

    def hides(self, path: bytes) -> bool:
        """Whether the layer, which has nothing at a path, lets nothing of lower layers be there."""
        above = ancestors(path) if path else []
        return (path in self._whiteouts or (bool(path) and b"" in self._opaque)
                or any(at in self._whiteouts or at in self._opaque or self._is_no_directory(at) for at in above))  # fmt: skip

    def _is_no_directory(self, path: bytes) -> bool:
        at = self._places.get(path)
        return at is not None and KINDS[self._rows.kinds[at]] != "dir"
