"""The merged view of a chain of layers, from their indexes alone.

A tree is a value: `extended` gives a new one and costs nothing until somebody looks into it. A few paths are told by the layers one
after the other (`Stack`). For more than that they are put together (`Table`): only the new layer's entries are gone through then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from threading import Lock
from typing import TypeVar

from engine.layer.base import FileTree, Layer
from engine.layer.entries import Entry
from engine.layer.index import Index
from engine.layer.stack import Stack, UnclearError
from engine.layer.table import Table

T = TypeVar("T")

_LARGE = 4096
"""Entries, of which to put fewer together takes no longer than to look at them otherwise."""


class Tree:
    """The files of a root filesystem state. Implements `FileTree`, but for `source`: where a layer's bytes lie is not known here.

    What makes no sense in a layer (a hard link to nothing, a file in something that is no directory) raises `ContentError` at the
    first look. Trees may be looked into by several threads: builds share them, and plan in threads.
    """

    __slots__ = ("_growing", "_index", "_layers", "_parent", "_stack", "_table")

    def __init__(self, table: Table | None, parent: Tree | None, index: Index | None, layers: int) -> None:
        """Not for callers: `Tree.empty` and `extended` make trees."""
        self._table, self._parent, self._index, self._layers = table, parent, index, layers
        self._growing: Lock = parent._growing if parent else Lock()  # one for all that grow from each other
        self._stack: Stack | None = None

    @classmethod
    def empty(cls) -> Tree:
        """The tree of `FROM scratch`: a root directory."""
        return cls(Table.empty(), None, None, 0)

    def extended(self, layer: Layer, index: Index) -> Tree:
        """The tree with one more layer, whose index this is."""
        return Tree(None, self, index, self._layers + 1)

    def grow(self) -> None:
        """Puts the layers together now, and not at the first look."""
        self._look()

    def get(self, path: bytes) -> Entry | None:
        """As in `FileTree`."""
        table = self._table  # looked for here, since this is asked by the ten thousand
        return table.get(path) if table is not None else self._ask(lambda files: files.get(path))

    def known(self, paths: Iterable[bytes]) -> set[bytes]:
        """Those of the paths at which there is something."""
        wanted = set(paths)
        return self._ask(lambda files: files.known(wanted))

    def children(self, path: bytes) -> Sequence[bytes]:
        """As in `FileTree`."""
        return self._ask(lambda files: files.children(path))

    def identity(self, path: bytes) -> object | None:
        """As in `FileTree`."""
        return self._ask(lambda files: files.identity(path))

    def source(self, path: bytes) -> tuple[bytes, int]:
        """Raises `KeyError`: a snapshotter knows (`Snapshotter.files`)."""
        raise KeyError(path)

    def read(self, path: bytes) -> bytes:
        """As in `FileTree`: what a layer's index holds."""
        return self._ask(lambda files: files.read(path))

    def owner_layer(self, path: bytes) -> int:
        """Which layer of the chain (0 is the lowest) provides what is at a path; raises `KeyError` when there is nothing."""
        return self.locate(path)[0]

    def locate(self, path: bytes) -> tuple[int, bytes]:
        """Which layer of the chain provides what is at a path, and as what path of its own: a layer may name a file through a
        symlink of a lower one, and a hard link to a lower layer's file is that file. Raises `KeyError` when there is nothing."""
        return self._ask(lambda files: files.locate(path))

    def _ask(self, question: Callable[[Stack | Table], T]) -> T:
        """Asks the layers one after the other, if that can be told so and putting them together would take long."""
        if self._table is None and (stack := self._unmerged()):
            with suppress(UnclearError):
                return question(stack)
        return question(self._look())

    def __repr__(self) -> str:
        return f"Tree({self._layers} layers)"

    def _unmerged(self) -> Stack | None:
        """What can be asked without putting the layers together, if that would take long."""
        stack = self._stack
        if stack is None:
            above: list[Index] = []
            with self._growing:
                at = self
                while at._table is None and at._stack is None:
                    assert at._parent is not None and at._index is not None
                    above.append(at._index)
                    at = at._parent
                stack = at._stack if at._table is None else Stack(at._table, at._layers)
            assert stack is not None
            for index in reversed(above):
                stack = stack.over(index)
            with self._growing:
                if self._table is None:  # else somebody has put them together meanwhile
                    self._stack = stack
        return stack if stack.size > _LARGE else None

    def _look(self) -> Table:
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
        self._table = below._table.grown(index, below._layers)  # from here on others look into it
        self._parent = self._index = self._stack = None


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
