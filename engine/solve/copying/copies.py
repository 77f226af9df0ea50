"""What a copy puts into a layer: entries one by one, and whole subtrees of a context that are taken over as they are.

A subtree that comes into a directory where nothing is yet needs no look at its single files: it is a `Graft`, whose columns are
those of its source with another prefix. That makes copies of many files several times as fast, and small.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from msgspec import Struct

from engine.layer.base import Subtree
from engine.layer.columns import NUMBERS, Columns
from engine.solve.copying.metadata import Metadata
from engine.solve.copying.request import Copied

_FILE, _DIRECTORY, _SYMLINK = NUMBERS["file"], NUMBERS["dir"], NUMBERS["symlink"]


class Graft(Struct, frozen=True):
    """All that is below a directory, to be below the directory `target` with the owner and the modes that `metadata` says."""

    subtree: Subtree
    target: bytes
    metadata: Metadata

    def columns(self) -> Columns:
        """The entries, sorted by path."""
        columns = self.subtree.columns(self.prefixes[1])
        count, (uid, gid) = len(columns), self.metadata.owner
        columns.numbers = columns.numbers._replace(
            mode=self.modes(columns.kinds, columns.numbers.mode), uid=array("q", [uid]) * count, gid=array("q", [gid]) * count)
        return columns

    def modes(self, kinds: bytes, modes: array[int]) -> array[int]:
        """What the modes of entries of these kinds become."""
        mode = self.metadata.mode
        if mode is None:
            return modes
        pairs = list(zip(kinds, modes, strict=True))
        made = {pair: pair[1] if pair[0] == _SYMLINK else mode.apply(pair[1], pair[0] == _DIRECTORY) for pair in set(pairs)}
        return array(modes.typecode, map(made.__getitem__, pairs))

    @property
    def prefixes(self) -> tuple[bytes, bytes]:
        """What the paths of its files begin with in the tree they come from, and here."""
        return _prefix(self.subtree.path), _prefix(self.target)

    def origins(self, columns: Columns) -> list[bytes | None]:
        """For each row of `columns()` the path in the tree that a regular file comes from, None for everything else."""
        old, skip = self.prefixes[0], len(self.prefixes[1])
        return [old + path[skip:] if kind == _FILE else None for path, kind in zip(columns.paths, columns.kinds, strict=True)]

    def sources(self, columns: Columns) -> list[bytes]:
        """For each row of `columns()` the absolute path of a regular file, empty for everything else."""
        place, skip = self.subtree.directory + b"/", len(self.prefixes[1])
        return [place + path[skip:] if kind == _FILE else b"" for path, kind in zip(columns.paths, columns.kinds, strict=True)]

    def copied(self) -> Iterator[Copied]:
        """The entries one by one."""
        columns = self.columns()
        for entry, origin in zip(columns.entries(), self.origins(columns), strict=True):
            yield Copied(entry, origin)


class Copies:
    """A layer to be: `own` entries, sorted by path, and `grafts`, in whose directories no other entries are. Iterating gives all
    entries, sorted by path, so that directories come before what is in them and a file before its hard links."""

    def __init__(self, own: Sequence[Copied], grafts: Sequence[Graft] = ()) -> None:
        self.own = own
        self.grafts = grafts

    def __iter__(self) -> Iterator[Copied]:
        for piece in self.pieces():
            yield from piece.copied() if isinstance(piece, Graft) else piece

    def __len__(self) -> int:
        return len(self.own) + sum(len(graft.subtree) for graft in self.grafts)

    def pieces(self) -> Iterator[Sequence[Copied] | Graft]:
        """All entries in their order, in pieces that are of one kind."""
        own, start = self.own, 0
        for graft in sorted(self.grafts, key=_place):
            end = bisect_left(own, _place(graft), key=_path)
            if end > start:
                yield own[start:end]
            yield graft
            start = end
        if start < len(own):
            yield own[start:]

    def is_like(self, other: Copies) -> bool:
        """Whether both are the same, if they were made of the same tree by the same instruction."""
        grafts = [[(graft.subtree.path, graft.target, graft.metadata.owner) for graft in copies.grafts] for copies in (self, other)]
        return self.own == other.own and grafts[0] == grafts[1]


def _prefix(directory: bytes) -> bytes:
    return directory + b"/" if directory else b""


def _place(graft: Graft) -> bytes:
    return graft.prefixes[1]


def _path(copied: Copied) -> bytes:
    return copied.entry.path
