"""The changes of a copy by columns, as a worker packs them."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable

from engine.layer.base import Subtree
from engine.layer.columns import Columns
from engine.layer.pack import Changes
from engine.solve.copying.copies import Copies, in_order
from engine.solve.copying.request import Copied

Locate = Callable[[bytes], tuple[bytes, int]]
"""Where the file at a path lies: an absolute path, and an offset."""
States = Callable[[bytes], tuple[int, int] | None] | None
"""What `Subtrees.state` gives."""


class Rows:
    """The changes of a copy, by columns."""

    def __init__(self, copies: Copies, locate: Locate, kept: Locate, states: States) -> None:
        """`locate` and `kept` say where files lie. With `states` files of the source must be as they were when they were listed."""
        self._copies = copies
        own = copies.own
        columns = Columns.of(copied.entry for copied in own)
        places = [_place(copied, locate, kept) for copied in own]
        sources, offsets = [place for place, _ in places], array("q", [offset for _, offset in places])
        seen: array[int] | None = None
        if states is not None:
            seen = array("q")
            for copied in own:
                seen.extend((copied.from_path is not None and states(copied.from_path)) or (0, 0))
        for graft in copies.grafts:
            more = graft.columns()
            sources += graft.sources(more)
            columns.extend(more)
            offsets.extend(array("q", [0]) * len(more))
            if seen is not None:
                seen.extend(graft.subtree.states())
        order = self._order = in_order(columns) if copies.grafts else None
        if order is not None:
            columns, sources = columns.reordered(order), list(map(sources.__getitem__, order))
            offsets = array("q", map(offsets.__getitem__, order))
            if seen is not None:
                seen = array("q", [number for at in order for number in seen[2 * at : 2 * at + 2]])
        changes = Changes.by_columns(columns, sources, offsets, seen)
        self._mark = [hashlib.sha256(part).digest() for part in (changes.entries, changes.sources, changes.offsets)]
        self._changes = [changes]
        self.count = changes.count
        self.size = changes.size
        """Bytes of all files."""

    def is_like(self, other: Rows) -> bool:
        """Whether the two were the same changes when they were made, of the same files."""
        return self._mark == other._mark

    def take(self) -> Changes:
        """The changes, in their order. They can be had once: they are large."""
        return self._changes.pop()

    def digests(self, packed: bytes) -> tuple[dict[bytes, bytes], list[tuple[Subtree, bytes]]]:
        """Digests of the changes, 32 bytes for each in their order, as `SubtreeContext.learn` takes them."""
        each = [packed[at : at + 32] for at in range(0, len(packed), 32)]
        if self._order is not None:
            placed = each.copy()
            for new, old in enumerate(self._order):
                placed[old] = each[new]
            each = placed
        own = self._copies.own
        files = {copied.from_path: digest for copied, digest in zip(own, each, strict=False) if copied.from_path is not None}
        at, subtrees = len(own), []
        for graft in self._copies.grafts:
            end = at + len(graft.subtree)
            subtrees.append((graft.subtree, b"".join(each[at:end])))
            at = end
        return files, subtrees


def _place(copied: Copied, locate: Locate, kept: Locate) -> tuple[bytes, int]:
    if copied.from_path is not None:
        return locate(copied.from_path)
    if copied.below is not None:
        return kept(copied.below)
    return copied.source or (b"", 0)
