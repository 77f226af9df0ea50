"""What a copy puts into a layer: entries one by one, and whole subtrees of a context that are taken over as they are.

A subtree that comes into a directory where nothing is yet needs no look at its single files: it is a `Graft`, whose columns are
those of its source with another prefix. That makes copies of many files several times as fast, and small.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from msgspec import Struct

from engine.layer.base import Subtree
from engine.layer.columns import KINDS, NUMBERS, Columns
from engine.solve.copying.metadata import Metadata
from engine.solve.copying.request import Copied

_FILE, _DIRECTORY, _SYMLINK = NUMBERS["file"], NUMBERS["dir"], NUMBERS["symlink"]


class Graft(Struct, frozen=True):
    """All that is below a directory, to be below the directory `target` with the owner and the modes that `metadata` says."""

    subtree: Subtree
    target: bytes
    metadata: Metadata

    def columns(self) -> Columns:
        """The entries, in no order."""
        columns = self.subtree.columns()
        prefix = _prefix(self.target)
        columns.paths = [prefix + path for path in columns.paths]
        numbers, (uid, gid), mode = columns.numbers, self.metadata.owner, self.metadata.mode
        count = len(columns)
        columns.numbers = numbers._replace(uid=array("q", [uid]) * count, gid=array("q", [gid]) * count)
        if mode is not None:
            known: dict[tuple[int, int], int] = {}
            modes = columns.numbers.mode
            for at, pair in enumerate(zip(columns.kinds, modes, strict=True)):
                if pair[0] != _SYMLINK:
                    if pair not in known:
                        known[pair] = mode.apply(pair[1], pair[0] == _DIRECTORY)
                    modes[at] = known[pair]
        return columns

    @property
    def prefixes(self) -> tuple[bytes, int]:
        """What the paths of its files begin with in the tree they come from, and how many bytes they begin with here instead."""
        return _prefix(self.subtree.path), len(_prefix(self.target))

    def origins(self, columns: Columns) -> list[bytes | None]:
        """For each row of `columns()` the path in the tree that a regular file comes from, None for everything else."""
        old, new = self.prefixes
        return [old + path[new:] if kind == _FILE else None for path, kind in zip(columns.paths, columns.kinds, strict=True)]

    def sources(self, columns: Columns) -> list[bytes]:
        """For each row of `columns()` the absolute path of a regular file, empty for everything else."""
        place, new = self.subtree.directory + b"/", len(_prefix(self.target))
        return [place + path[new:] if kind == _FILE else b"" for path, kind in zip(columns.paths, columns.kinds, strict=True)]

    def copied(self) -> Iterator[Copied]:
        """The entries one by one."""
        columns = self.columns()
        for entry, origin in zip(columns.entries(), self.origins(columns), strict=True):
            yield Copied(entry, origin)


class Copies:
    """A layer to be: `own` entries, sorted by path, and `grafts`. Iterating gives all entries, sorted by path, so that directories
    come before what is in them and a file before its hard links."""

    def __init__(self, own: Sequence[Copied], grafts: Sequence[Graft] = ()) -> None:
        self.own = own
        self.grafts = grafts

    def __iter__(self) -> Iterator[Copied]:
        if not self.grafts:
            return iter(self.own)
        every = [*self.own, *(copied for graft in self.grafts for copied in graft.copied())]
        every.sort(key=_order)
        return iter(every)

    def __len__(self) -> int:
        return len(self.own) + sum(len(graft.subtree) for graft in self.grafts)


def in_order(columns: Columns) -> list[int] | None:
    """The order of rows that `Copies` are in; None if they are in it."""
    paths, kinds = columns.paths, columns.kinds
    opaque = KINDS.index("opaque")
    if opaque in kinds:
        return sorted(range(len(paths)), key=lambda at: (paths[at], kinds[at] == opaque))
    order = sorted(range(len(paths)), key=paths.__getitem__)
    return None if order == list(range(len(paths))) else order


def _prefix(directory: bytes) -> bytes:
    return directory + b"/" if directory else b""


def _order(copied: Copied) -> tuple[bytes, bool]:
    return copied.entry.path, copied.entry.kind == "opaque"
