"""The layers of a tree that have not been put together, asked one after the other.

To put the layers of a large image together takes longer than most steps that only want to know of a few paths in it: where to copy
to, who a user is, what was below a file that a command has written. So layers are gone through from the top for each path alone.
That is the same as long as no layer names anything through what is no directory in a lower one (a symlink, for the most part), or
has a hard link to a lower one's file. Where that is not so, and when very much is asked, the layers are put together after all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import Protocol

from engine.layer.columns import KINDS, NUMBERS
from engine.layer.entries import Entry, ancestors, join, parent
from engine.layer.index import Index

_DIR, _FILE, _HARDLINK = NUMBERS["dir"], NUMBERS["file"], NUMBERS["hardlink"]
_REMOVAL = (NUMBERS["whiteout"], NUMBERS["opaque"])


class Lower(Protocol):
    """What is below the layers: a tree that is put together."""

    def get(self, path: bytes) -> Entry | None:
        """As in `FileTree`."""

    def read(self, path: bytes) -> bytes:
        """As in `FileTree`."""

    def children(self, path: bytes) -> Sequence[bytes]:
        """As in `FileTree`."""

    def identity(self, path: bytes) -> object | None:
        """As in `FileTree`."""

    def locate(self, path: bytes) -> tuple[int, bytes]:
        """As in `Tree`."""


class UnclearError(Exception):
    """The layers have to be put together."""


class Stack:
    """Layers over a tree, lowest first. All methods say what the tree of all of them says, or raise `UnclearError`."""

    def __init__(self, lower: Lower, height: int, layers: Sequence[StackedLayer] | None = (), size: int = 0,
                 others: Sequence[set[bytes]] = ()) -> None:  # fmt: skip
        """`height` is the number of layers that `lower` is of, `size` that of the entries of `layers`, and `others` all of them
        that are no directories. With None for layers nothing can be told."""
        self.size = size
        self._lower, self._height, self._layers = lower, height, tuple(layers or ())
        self._others = others
        self._clear = layers is not None
        self._asked = 0

    def over(self, index: Index) -> Stack:
        """The stack with one layer more."""
        size = self.size + len(index.columns)
        if self._clear:
            layer = StackedLayer(index)
            if layer.is_whole and not self._leads_astray(layer):
                others, new = list(self._others), layer.others
                while others and len(others[-1]) <= len(new):  # so that there are few sets to look into, however many layers
                    new = new | others.pop()
                return Stack(self._lower, self._height, (*self._layers, layer), size, [*others, new])
        return Stack(self._lower, self._height, None, size)

    def get(self, path: bytes) -> Entry | None:
        """As in `FileTree`."""
        found = self._find(path)
        if found is None:
            return self._lower.get(path)
        return found[1]

    def read(self, path: bytes) -> bytes:
        """As in `FileTree`."""
        found = self._find(path)
        if found is None:
            return self._lower.read(path)
        if found[1] is None:
            raise KeyError(path)
        return self._layers[found[0]].index.files[path]

    def locate(self, path: bytes) -> tuple[int, bytes]:
        """As in `Tree`."""
        found = self._find(path)
        if found is None:
            return self._lower.locate(path)
        if found[1] is None:
            raise KeyError(path)
        return self._height + found[0], path

    def children(self, path: bytes) -> Sequence[bytes]:
        """As in `FileTree`."""
        self._require_clear()
        names = set(self._lower.children(path)).union(*(layer.names.get(path, ()) for layer in self._layers))
        known = self.known({join(path, name) for name in names})
        return sorted(name for name in names if join(path, name) in known)

    def identity(self, path: bytes) -> object | None:
        """As in `FileTree`."""
        found = self._find(path)
        if found is None:
            return self._lower.identity(path)
        first = self._layers[found[0]].linked.get(path)
        return None if first is None else (self._height + found[0], first)

    def known(self, paths: set[bytes]) -> set[bytes]:
        """As in `Tree`."""
        if len(paths) * len(self._layers) > self._room:
            raise UnclearError
        return {path for path in paths if self.get(path) is not None}

    @property
    def _room(self) -> int:
        """How many layers may be asked still. A question takes about as long as to put one entry where it belongs."""
        return self.size // 4 - self._asked

    def _require_clear(self) -> None:
        if not self._clear or self._room < 0:
            raise UnclearError

    def _find(self, path: bytes) -> tuple[int, Entry | None] | None:
        """Which layer has something at a path, and what; with no entry, it hides what lower ones have. None if only the lower tree
        can have something."""
        self._require_clear()
        self._asked += len(self._layers)
        implicit: int | None = None
        for number in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[number]
            entry = layer.get(path)
            if entry is not None:
                return number, entry
            if path in layer.makes:
                implicit = number
            if layer.hides(path):
                return (number, None) if implicit is None else (implicit, Entry(path, "dir", 0o755))
        if implicit is None or self._lower.get(path) is not None:
            return None
        return implicit, Entry(path, "dir", 0o755)

    def _leads_astray(self, layer: StackedLayer) -> bool:
        """Whether anything in a layer that is to come on top may lie elsewhere than its name says, or nowhere."""
        if not all(layer.heads.isdisjoint(others) for others in (*self._others, layer.others)):
            return True
        get = self._lower.get
        return any((found := get(head)) is not None and found.kind != "dir" for head in layer.heads)


class StackedLayer:
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
        self.others = {path for path, at in self._places.items() if kinds[at] != _DIR}
        """What is no directory."""
        self.makes = _above(self._places)
        """All directories that entries lie in, but for the root: they are there, even if nobody has said so."""
        self.heads = self.makes | self._opaque | _above(self._whiteouts | self._opaque)
        """All directories that names lead through, but for the root."""

    @cached_property
    def names(self) -> dict[bytes, set[bytes]]:
        """What the layer has in each directory."""
        found: dict[bytes, set[bytes]] = {}
        for path in chain(self._places, self.makes):
            head, _, tail = path.rpartition(b"/")
            try:
                found[head].add(tail)
            except KeyError:
                found[head] = {tail}
        found.setdefault(b"", set()).discard(b"")  # the root is in no directory
        return found

    @cached_property
    def linked(self) -> dict[bytes, bytes]:
        """The names of files that have several, each with the one that is the file's."""
        rows = self._rows
        links = {rows.paths[at]: link for at, link in rows.links.items() if rows.kinds[at] == _HARDLINK}
        return links | {link: link for link in links.values()}

    @property
    def is_whole(self) -> bool:
        """Whether all hard links are to files of the layer, which come before them: one that comes later is not what is meant."""
        places, kinds = self._places, self._rows.kinds
        for path, link in self.linked.items():
            at = places.get(link)
            if at is None or kinds[at] != _FILE or at > places[path]:
                return False
        return True

    def get(self, path: bytes) -> Entry | None:
        """The layer's entry at a path; that of a hard link is the file's."""
        at = self._places.get(path)
        if at is None:
            return None
        if self._rows.kinds[at] == _HARDLINK:
            return self._rows.row(self._places[self.linked[path]])._replace(path=path)
        return self._rows.row(at)

    def hides(self, path: bytes) -> bool:
        """Whether the layer, which has nothing at a path, lets nothing of lower layers be there."""
        above = ancestors(path) if path else []
        return (path in self._whiteouts or (bool(path) and b"" in self._opaque)
                or any(at in self._whiteouts or at in self._opaque or at in self.others for at in above))  # fmt: skip


def _above(paths: Iterable[bytes]) -> set[bytes]:
    """All directories above the paths, but for the root."""
    found = {path.rpartition(b"/")[0] for path in paths}
    for path in list(found):
        while (path := parent(path)) not in found:
            found.add(path)
    found.discard(b"")
    return found
