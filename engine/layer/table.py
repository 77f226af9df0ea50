"""The merged view of layers that are put together: a large table that many share, and a small one of what has changed since. When
the small one has grown, a new large one is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

from engine.errors import ContentError
from engine.layer.contents import inside, show
from engine.layer.entries import Entry, name, parent
from engine.layer.index import Index, collector_paused

_ROOT = Entry(b"", "dir", 0o755)
_SMALL = 4096


class _Node(NamedTuple):
    entry: Entry
    layer: int
    """Which layer of the chain has the content."""
    identity: tuple[int, bytes] | None = None
    """The same for all names of a file that has several."""
    at: bytes | None = None
    """The path in that layer, where it is not the entry's."""


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


class Table:
    """The files of layers that have been put together. A value: `grown` gives a new one. Inside are nodes and directories by path,
    and every node's directory is a node that is a directory."""

    def __init__(self, base: _Base, nodes: dict[bytes, _Node | None], names: dict[bytes, set[bytes]],
                 files: dict[tuple[int, bytes], bytes]) -> None:  # fmt: skip
        """Not for callers: `Table.empty` and `grown` make tables."""
        self._base, self._nodes, self._names, self._files = base, nodes, names, files
        self._own: set[bytes] = set()  # directories whose set of names this table may change

    @classmethod
    def empty(cls) -> Table:
        """A root directory."""
        return cls(_Base({b"": _Node(_ROOT, 0)}), {}, {}, {})

    def get(self, path: bytes) -> Entry | None:
        """As in `FileTree`."""
        node = self._node(path)
        return node.entry if node else None

    def read(self, path: bytes) -> bytes:
        """As in `FileTree`: what a layer's index holds."""
        return self._files[self.locate(path)]

    def children(self, path: bytes) -> Sequence[bytes]:
        """As in `FileTree`."""
        return sorted(self._children(path))

    def identity(self, path: bytes) -> object | None:
        """As in `FileTree`."""
        node = self._node(path)
        return node.identity if node else None

    def locate(self, path: bytes) -> tuple[int, bytes]:
        """As in `Tree`."""
        node = self._node(path)
        if node is None:
            raise KeyError(path)
        return node.layer, path if node.at is None else node.at

    def known(self, paths: set[bytes]) -> set[bytes]:
        """As in `Tree`."""
        changed = self._nodes.keys() & paths
        return ((self._base.nodes.keys() & paths) - changed) | {path for path in changed if self._nodes[path] is not None}

    def _node(self, path: bytes) -> _Node | None:
        try:
            return self._nodes[path]
        except KeyError:
            return self._base.nodes.get(path)

    def _children(self, path: bytes) -> Iterable[bytes]:
        found = self._names.get(path)
        return self._base.children.get(path, ()) if found is None else found

    def grown(self, index: Index, layer: int) -> Table:
        """The table with one layer more, by its index and its number. Raises `ContentError` for what makes no sense in it."""
        with collector_paused():
            files = {**self._files, **{(layer, path): data for path, data in index.files.items()}} if index.files else self._files
            return self._grown(index.entries, layer, files)

    def _grown(self, entries: Sequence[Entry], layer: int, files: dict[tuple[int, bytes], bytes]) -> Table:
        empty = len(self._base.nodes) == 1 and not self._nodes and self._base.nodes[b""].entry == _ROOT
        if empty and (nodes := _alone(entries, layer)):
            return Table(_Base(nodes), {}, {}, files)
        table = Table(self._base, dict(self._nodes), dict(self._names), files)
        table._apply(entries, layer)
        table._own = set()  # from here on nothing changes
        if len(table._nodes) > _SMALL + len(self._base.nodes) // 8:
            both = self._base.nodes | table._nodes
            return Table(_Base({path: node for path, node in both.items() if node is not None}), {}, {}, files)
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
        node = self._node(target)
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
        node = self._node(path)
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
            for tail in self._children(at):
                below = at + b"/" + tail if at else tail
                self._nodes[below] = None
                todo.append(below)
            self._names[at] = set()
            self._own.add(at)

    def _change(self, path: bytes) -> set[bytes]:
        """The names in a directory, to be changed."""
        if path not in self._own:
            self._own.add(path)
            self._names[path] = set(self._children(path))
        return self._names[path]

    def _directory(self, path: bytes, layer: int) -> bytes:
        """The real directory behind a path; what is missing of it is made."""
        node = self._node(path)
        if node is not None and node.entry.kind == "dir":
            return path
        real = inside(path, self._link)
        parts = real.split(b"/") if real else []
        for i in range(1, len(parts) + 1):
            at = b"/".join(parts[:i])
            node = self._node(at)
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
        node = self._node(path)
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
        table = Table(_Base(nodes), {}, {}, {})
        table._apply([entry for entry in entries if entry.kind == "hardlink"], layer)
        nodes.update((path, node) for path, node in table._nodes.items() if node is not None)
    return nodes
