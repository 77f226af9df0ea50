"""The merged view of a chain of layers, from their indexes alone.

A tree is a value: `extended` gives a new one and costs nothing until somebody looks into it. A few paths are told by the layers one
after the other (`Stack`). For more than that they are put together: only the new layer's entries are gone through then. Inside, a
tree that is put together is a large table that many trees share and a small one of what has changed since; when the small one has
grown, a new large one is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import repeat
from threading import Lock
from typing import NamedTuple

from engine.errors import ContentError
from engine.layer.base import FileTree, Layer
from engine.layer.contents import inside, show
from engine.layer.entries import Entry, name, parent
from engine.layer.index import Index, collector_paused
from engine.layer.stack import Stack, UnclearError

_ROOT = Entry(b"", "dir", 0o755)
_SMALL = 4096
_LARGE = 4096
"""Entries, of which to put fewer together takes no longer than to look at them otherwise."""


class _Node(NamedTuple):
    entry: Entry
    layer: int
    """Which layer of the chain has the content."""
    identity: tuple[int, bytes] | None = None
    """The same for all names of a file that has several."""
    at: bytes | None = None
    """The path in that layer, where it is not the entry's."""


class Tree:
    """The files of a root filesystem state. Implements `FileTree`, but for `source`: where a layer's bytes lie is not known here.

    What makes no sense in a layer (a hard link to nothing, a file in something that is no directory) raises `ContentError` at the
    first look. Trees may be looked into by several threads: builds share them, and plan in threads.
    """

    __slots__ = ("_files", "_growing", "_index", "_layers", "_parent", "_stack", "_table")

    def __init__(self, table: _Table | None, parent: Tree | None, index: Index | None, layers: int) -> None:
        """Not for callers: `Tree.empty` and `extended` make trees."""
        self._table, self._parent, self._index, self._layers = table, parent, index, layers
        self._growing: Lock = parent._growing if parent else Lock()  # one for all that grow from each other
        self._files: dict[tuple[int, bytes], bytes] = {}
        self._stack: Stack | None = None

    @classmethod
    def empty(cls) -> Tree:
        """The tree of `FROM scratch`: a root directory."""
        return cls(_Table(_Base({b"": _Node(_ROOT, 0)}), {}, {}), None, None, 0)

    def extended(self, layer: Layer, index: Index) -> Tree:
        """The tree with one more layer, whose index this is."""
        return Tree(None, self, index, self._layers + 1)

    def grow(self) -> None:
        """Puts the layers together now, and not at the first look."""
        self._look()

    def get(self, path: bytes) -> Entry | None:
        """As in `FileTree`."""
        if stack := self._unmerged():
            with suppress(UnclearError):
                return stack.get(path)
        node = self._look().get(path)
        return node.entry if node else None

    def known(self, paths: Iterable[bytes]) -> set[bytes]:
        """Those of the paths at which there is something."""
        wanted = set(paths)
        if stack := self._unmerged():
            with suppress(UnclearError):
                return stack.known(wanted)
        return self._look().known(wanted)

    def children(self, path: bytes) -> Sequence[bytes]:
        """As in `FileTree`."""
        if stack := self._unmerged():
            with suppress(UnclearError):
                return stack.children(path)
        return sorted(self._look().names(path))

    def identity(self, path: bytes) -> object | None:
        """As in `FileTree`."""
        if stack := self._unmerged():
            with suppress(UnclearError):
                return stack.identity(path)
        node = self._look().get(path)
        return node.identity if node else None

    def source(self, path: bytes) -> tuple[bytes, int]:
        """Raises `KeyError`: a snapshotter knows (`Snapshotter.files`)."""
        raise KeyError(path)

    def read(self, path: bytes) -> bytes:
        """As in `FileTree`: what a layer's index holds."""
        if stack := self._unmerged():
            with suppress(UnclearError):
                return stack.read(path)
        layer, at = self.locate(path)
        return self._files[layer, at]

    def owner_layer(self, path: bytes) -> int:
        """Which layer of the chain (0 is the lowest) provides what is at a path; raises `KeyError` when there is nothing."""
        return self.locate(path)[0]

    def locate(self, path: bytes) -> tuple[int, bytes]:
        """Which layer of the chain provides what is at a path, and as what path of its own: a layer may name a file through a
        symlink of a lower one, and a hard link to a lower layer's file is that file. Raises `KeyError` when there is nothing."""
        if stack := self._unmerged():
            with suppress(UnclearError):
                return stack.locate(path)
        node = self._look().get(path)
        if node is None:
            raise KeyError(path)
        return node.layer, path if node.at is None else node.at

    def __repr__(self) -> str:
        return f"Tree({self._layers} layers)"

    def _unmerged(self) -> Stack | None:
        """What can be asked without putting the layers together, if that would take long."""
        if self._table is not None:
            return None
        stack = self._stack
        if stack is None:
            above: list[Index] = []
            with self._growing:
                at = self
                while at._table is None and at._stack is None:
                    assert at._parent is not None and at._index is not None
                    above.append(at._index)
                    at = at._parent
                stack = at._stack or Stack(at, at._layers)
            for index in reversed(above):
                stack = stack.over(index)
            with self._growing:
                if self._table is None:  # else somebody has put them together meanwhile
                    self._stack = stack
        return stack if stack.size > _LARGE else None

    def _look(self) -> _Table:
        if self._table is None:
            with self._growing:
                pending: list[Tree] = [self] if self._table is None else []
                while pending and (below := pending[-1]._parent) is not None and below._table is None:
                    pending.append(below)
                for tree in reversed(pending):
                    tree._grow()
        assert self._table is not None
        return self._table

    def _grow(self) -> None:
        below, index = self._parent, self._index
        assert below is not None and below._table is not None and index is not None
        number = below._layers
        with collector_paused():
            table = below._table.grown(index.entries, number)
        self._files = below._files
        if index.files:
            self._files = {**below._files, **{(number, path): data for path, data in index.files.items()}}
        self._table = table  # from here on others look into it
        self._parent = self._index = self._stack = None


class _Base:
    """The large table: complete, and never changed."""

    def __init__(self, nodes: dict[bytes, _Node]) -> None:
        self.nodes = nodes
        self._children: dict[bytes, list[bytes]] | None = None

    @property
    def children(self) -> dict[bytes, list[bytes]]:
        if self._children is None:
            children: dict[bytes, list[bytes]] = {}
            for path in self.nodes:
                head, _, tail = path.rpartition(b"/")
                try:
                    children[head].append(tail)
                except KeyError:
                    children[head] = [tail]
            children[b""].remove(b"")  # the root is in no directory
            self._children = children
        return self._children


class _Table:
    """Nodes and directories by path. Every node's directory is a node that is a directory."""

    def __init__(self, base: _Base, nodes: dict[bytes, _Node | None], names: dict[bytes, set[bytes]]) -> None:
        self._base, self._nodes, self._names = base, nodes, names
        self._own: set[bytes] = set()  # directories whose set of names this table may change

    def get(self, path: bytes) -> _Node | None:
        try:
            return self._nodes[path]
        except KeyError:
            return self._base.nodes.get(path)

    def known(self, paths: set[bytes]) -> set[bytes]:
        changed = self._nodes.keys() & paths
        return ((self._base.nodes.keys() & paths) - changed) | {path for path in changed if self._nodes[path] is not None}

    def names(self, path: bytes) -> Iterable[bytes]:
        found = self._names.get(path)
        return self._base.children.get(path, ()) if found is None else found

    def grown(self, entries: Sequence[Entry], layer: int) -> _Table:
        """The table with a layer's entries."""
        empty = len(self._base.nodes) == 1 and not self._nodes and self._base.nodes[b""].entry == _ROOT
        if empty and (nodes := _alone(entries, layer)):
            return _Table(_Base(nodes), {}, {})
        table = _Table(self._base, dict(self._nodes), dict(self._names))
        table._apply(entries, layer)
        table._own = set()  # from here on nothing changes
        if len(table._nodes) > _SMALL + len(self._base.nodes) // 8:
            both = self._base.nodes | table._nodes
            return _Table(_Base({path: node for path, node in both.items() if node is not None}), {}, {})
        return table

    def _apply(self, entries: Sequence[Entry], layer: int) -> None:
        real: dict[bytes, bytes] = {}
        # Removals are about what is below the layer, so they come before all else, and none changes the way to another.
        hidden = [self._through(entry.path) for entry in entries if entry.kind == "whiteout"]
        emptied = [inside(entry.path, self._link) for entry in entries if entry.kind == "opaque"]
        for path in hidden:
            self._drop(path)
        for path in emptied:
            self._empty(path)
        nodes, below, make = self._nodes, self._base.nodes, tuple.__new__
        last, at, siblings = None, b"", None
        for entry in entries:
            path, kind = entry.path, entry.kind
            if kind in ("whiteout", "opaque"):
                continue
            head, _, tail = path.rpartition(b"/")
            if head != last:  # the entries of a directory often follow each other
                known = real.get(head)
                at = real[head] = self._directory(head, layer) if known is None else known
                last, siblings = head, None
            place = path if at == head else at + b"/" + tail if at else tail
            if kind == "hardlink":
                self._hardlink(entry, place, layer)
                last = None
                continue
            moved = place != path
            node = make(_Node, (entry._replace(path=place) if moved else entry, layer, None, path if moved else None))
            old = nodes[place] if place in nodes else below.get(place)
            if old is None:
                if siblings is None:
                    siblings = self._change(at)
                siblings.add(tail)
            elif old.entry.kind == "dir" != kind:
                self._drop(place)
                self._change(at).add(tail)
            nodes[place] = node
            if old is not None and (old.entry.kind == "symlink" or old.entry.kind == "dir" != kind):  # ways have changed
                real.clear()
                last = None

    def _hardlink(self, entry: Entry, place: bytes, layer: int) -> None:
        target = self._through(entry.link)
        node = self.get(target)
        if node is None or node.entry.kind == "dir":
            raise ContentError(f"a layer's {show(entry.path)} is a hard link to {show(entry.link)}, which is no file")
        if target == place:
            return
        identity = node.identity or (layer, target)
        self._nodes[target] = node._replace(identity=identity)
        at = entry.path if node.layer == layer else node.at or target
        self._drop(place)
        self._put(place, _Node(node.entry._replace(path=place), node.layer, identity, at if at != place else None))

    def _put(self, path: bytes, node: _Node) -> None:
        """What is at a path where nothing was before."""
        self._nodes[path] = node
        self._change(parent(path)).add(name(path))

    def _drop(self, path: bytes) -> None:
        """Takes away what is at a path, and all below it."""
        node = self.get(path)
        if node is None or not path:
            return
        self._change(parent(path)).discard(name(path))
        if node.entry.kind == "dir":
            self._empty(path)
        self._nodes[path] = None

    def _empty(self, path: bytes) -> None:
        """Takes away all below a path."""
        todo = [path]
        while todo:
            at = todo.pop()
            for tail in self.names(at):
                below = at + b"/" + tail if at else tail
                self._nodes[below] = None
                todo.append(below)
            self._names[at] = set()
            self._own.add(at)

    def _change(self, path: bytes) -> set[bytes]:
        """The names in a directory, to be changed."""
        if path not in self._own:
            self._own.add(path)
            self._names[path] = set(self.names(path))
        return self._names[path]

    def _directory(self, path: bytes, layer: int) -> bytes:
        """The real directory behind a path; what is missing of it is made."""
        node = self.get(path)
        if node is not None and node.entry.kind == "dir":
            return path
        real = inside(path, self._link)
        parts = real.split(b"/") if real else []
        for i in range(1, len(parts) + 1):
            at = b"/".join(parts[:i])
            node = self.get(at)
            if node is None:
                self._put(at, _Node(Entry(at, "dir", 0o755), layer))
            elif node.entry.kind != "dir":
                raise ContentError(f"a layer has files in {show(path)}, which is no directory")
        return real

    def _through(self, path: bytes) -> bytes:
        """A path with real directories before its last component."""
        head, _, tail = path.rpartition(b"/")
        real = inside(head, self._link)
        return real + b"/" + tail if real else tail

    def _link(self, path: bytes) -> bytes | None:
        node = self.get(path)
        return node.entry.link if node is not None and node.entry.kind == "symlink" else None


def _alone(entries: Sequence[Entry], layer: int) -> dict[bytes, _Node] | None:
    """The nodes of a lowest layer, in a few sweeps; None when it has something that has to be looked at more closely."""
    if any(entry.kind in ("whiteout", "opaque", "hardlink") for entry in entries):
        plain = [entry for entry in entries if entry.kind not in ("whiteout", "opaque", "hardlink")]
    else:
        plain = list(entries)
    paths = [entry.path for entry in plain]
    make: Callable[..., _Node] = tuple.__new__
    nodes: dict[bytes, _Node] = {b"": _Node(_ROOT, layer)}
    nodes.update(zip(paths, map(make, repeat(_Node), zip(plain, repeat(layer), repeat(None), repeat(None))), strict=False))
    if len(nodes) - (b"" not in paths) != len(paths):
        return None
    missing = {parent(path) for path in paths}
    while missing:
        above = set()
        for path in missing:
            node = nodes.get(path)
            if node is None:
                nodes[path] = _Node(Entry(path, "dir", 0o755), layer)
                above.add(parent(path))
            elif node.entry.kind != "dir":
                return None
        missing = above
    if len(plain) != len(entries):
        table = _Table(_Base(nodes), {}, {})
        table._apply([entry for entry in entries if entry.kind == "hardlink"], layer)
        nodes.update((path, node) for path, node in table._nodes.items() if node is not None)
    return nodes


def walk(tree: FileTree, path: bytes = b"") -> Iterator[Entry]:
    """The entry at a path and all below it: sorted by name, directories before what is in them; nothing when nothing is there.
    Symlinks are not followed."""
    todo = [path]
    while todo:
        at = todo.pop()
        entry = tree.get(at)
        if entry is None:
            continue
        yield entry
        if entry.kind == "dir":
            todo += [at + b"/" + tail if at else tail for tail in reversed(tree.children(at))]
