"""The changes of a copy by columns, as a worker packs them."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from engine.layer.base import Subtree
from engine.layer.changes import Changes
from engine.layer.columns import Columns
from engine.solve.copying.copies import Copies, Graft
from engine.solve.copying.request import Copied

Locate = Callable[[bytes], tuple[bytes, int]]
"""Where the file at a path lies: an absolute path, and an offset."""
States = Callable[[bytes], tuple[int, int] | None] | None
"""What `Subtrees.state` gives."""


class Rows:
    """The changes of a copy, by columns."""

    def __init__(self, copies: Copies, locate: Locate, kept: Locate, states: States) -> None:
        """`locate` and `kept` say where files lie. With `states` files of the source must be as they were when they were listed."""
        self.copies = copies
        self._pieces = list(copies.pieces())
        columns, sources, offsets = Columns.of(()), list[bytes](), array("q")
        seen = array("q") if states is not None else None
        for piece in self._pieces:
            if isinstance(piece, Graft):
                more = piece.columns()
                sources += piece.sources(more)
                offsets.frombytes(bytes(8 * len(more)))
                if seen is not None:
                    seen.extend(piece.subtree.states())
            else:
                more = Columns.of(copied.entry for copied in piece)
                for copied in piece:
                    source, offset = _place(copied, locate, kept)
                    sources.append(source)
                    offsets.append(offset)
                    if seen is not None and states is not None:
                        seen.extend((copied.from_path is not None and states(copied.from_path)) or (0, 0))
            columns.extend(more)
        changes = Changes.by_columns(columns, sources, offsets, seen)
        self._changes = [changes]
        self.count = changes.count
        self.size = changes.size
        """Bytes of all files."""

    def take(self) -> Changes:
        """The changes, in their order. They can be had once: they are large."""
        return self._changes.pop()

    def digests(self, packed: bytes) -> tuple[dict[bytes, bytes], list[tuple[Subtree, bytes]]]:
        """Digests of the changes, 32 bytes for each in their order, as `SubtreeContext.learn` takes them."""
        files: dict[bytes, bytes] = {}
        subtrees: list[tuple[Subtree, bytes]] = []
        at = 0
        for piece in self._pieces:
            if isinstance(piece, Graft):
                after = at + 32 * len(piece.subtree)
                subtrees.append((piece.subtree, packed[at:after]))
            else:
                after = at + 32 * len(piece)
                files.update((copied.from_path, packed[place : place + 32])
                             for place, copied in zip(range(at, after, 32), piece, strict=True) if copied.from_path is not None)
            at = after
        return files, subtrees


def _place(copied: Copied, locate: Locate, kept: Locate) -> tuple[bytes, int]:
    if copied.from_path is not None:
        return locate(copied.from_path)
    if copied.below is not None:
        return kept(copied.below)
    return copied.source or (b"", 0)
