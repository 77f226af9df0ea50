"""All that is below a directory of a context, by columns.

Rows are in the order of their paths. No row is sorted for that: names in a listing are, and where among them comes what is in a
directory is a question for each directory.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import NamedTuple

from engine.context.filekeys import DirectoryFiles
from engine.context.files import Files, Some
from engine.context.listing import DIRECTORY, FILE, Listing
from engine.layer.base import INODE
from engine.layer.columns import Columns, Numbers

_NO_FILES = bytes(kind != FILE for kind in range(256))


class _Run(NamedTuple):
    """Rows one after the other: those from `start` to `end` of a listing. The prefix is its path, with a slash at the end."""

    prefix: bytes
    listing: Listing
    start: int
    end: int

    @property
    def whole(self) -> bool:
        """Whether it is all of the listing."""
        return self.end - self.start == len(self.listing)


class DirectorySubtree:
    """Implements `engine.layer.base.Subtree` over the listings of a directory and of all below it."""

    def __init__(self, path: bytes, directory: bytes, parts: Sequence[tuple[bytes, Listing]]) -> None:
        """`path` is the directory's in the context, `directory` its absolute path on disk. Each of the `parts` comes with its path
        relative to the directory, a slash at its end; the directory itself comes first."""
        self.path = path
        self.directory = directory
        self.parts = parts
        self._count = sum([len(listing) for _, listing in parts])
        self._ordered: list[_Run] = []

    def __len__(self) -> int:
        return self._count

    @property
    def _runs(self) -> list[_Run]:
        if not self._ordered and self.parts:
            self._ordered = list(_in_order(dict(self.parts)))
        return self._ordered

    def columns(self, prefix: bytes = b"") -> Columns:
        """See `Subtree`."""
        paths: list[bytes] = []
        kinds: list[bytes] = []
        mode, size, mtime = array("H"), array("q"), array("q")
        links: dict[int, bytes] = {}
        for run in self._runs:
            above, listing, start, end = run
            above = prefix + above
            if listing.links:
                first = len(paths) - start
                links.update((first + at, link) for at, link in listing.links.items() if start <= at < end)
            if run.whole:
                paths += [above + name for name in listing.names]
                kinds.append(listing.kinds)
                mode.extend(listing.modes)
                size.extend(listing.sizes)
                mtime.extend(listing.mtimes)
            else:
                paths += [above + name for name in listing.names[start:end]]
                kinds.append(listing.kinds[start:end])
                mode.extend(listing.modes[start:end])
                size.extend(listing.sizes[start:end])
                mtime.extend(listing.mtimes[start:end])
        count = len(paths)
        uid, gid = (array("q", [0]) * count for _ in range(2))
        numbers = Numbers(array("q", mode), uid, gid, size, mtime)
        return Columns(paths, b"".join(kinds), numbers, links, bytes(32 * count), bytes(count), {})

    def identities(self) -> set[object] | None:
        """See `Subtree`."""
        found = [identity for _, listing in self.parts if listing.linked for identity in listing.identities()]
        distinct: set[object] = set(found)
        return distinct if len(distinct) == len(found) else None

    def states(self) -> array[int]:
        """See `Subtree`."""
        inodes, ctimes, kinds = array("Q"), array("q"), bytearray()
        for _, listing, start, end in self._runs:
            inodes.extend(listing.inodes[start:end])
            ctimes.extend(listing.ctimes[start:end])
            kinds += listing.kinds[start:end]
        if inodes and max(inodes) > INODE:
            inodes = array("Q", [inode & INODE for inode in inodes])
        out = array("q", bytes(16 * len(kinds)))
        out[::2], out[1::2] = array("q", inodes.tobytes()), ctimes
        for at in compress(range(len(kinds)), kinds.translate(_NO_FILES)):
            out[2 * at] = out[2 * at + 1] = 0
        return out

    def holder(self, identity: object) -> bytes | None:
        """See `Subtree`."""
        return next((prefix + listing.names[at] for prefix, listing in self.parts for at in listing.linked
                     if listing.identity(at) == identity), None)  # fmt: skip

    def fingerprint(self) -> bytes:
        """See `Subtree`."""
        digest = hashlib.sha256()
        for prefix, listing in self.parts:
            pieces = [prefix, *listing.describe()]
            digest.update(b"".join([array("Q", map(len, pieces)).tobytes(), *pieces]))
        return digest.digest()

    def settled(self, now: int) -> bool:
        """See `Subtree`."""
        return all(listing.settled(now) for _, listing in self.parts)

    def learn(self, digests: bytes) -> None:
        """Takes up the digests of all files, 32 bytes for each row of `columns()`."""
        at = 0
        for run in self._runs:
            _, listing, start, end = run
            after = at + 32 * (end - start)
            if run.whole:
                listing.digests = bytearray(digests[at:after])
            else:
                if listing.digests is None:
                    listing.digests = bytearray(32 * len(listing))
                listing.digests[32 * start : 32 * end] = digests[at:after]
            at = after

    def known(self) -> Iterator[DirectoryFiles]:
        """The files whose digests are known, by directory."""
        return (listing.files(places) for _, listing in self.parts if (places := listing.known()))

    def unknown(self) -> Files:
        """The regular files whose digests are not known yet, but for empty ones."""
        return Files([Some(prefix, listing, places) for prefix, listing in self.parts if (places := listing.unknown())])


def _in_order(listings: dict[bytes, Listing]) -> Iterator[_Run]:
    """All rows in the order of their paths, for which a slash counts like any other byte: `a`, `a-`, `a/b`, `a0`."""
    todo: list[_Run | bytes] = [b""]
    while todo:
        at = todo.pop()
        if isinstance(at, _Run):
            yield at
            continue
        listing = listings[at]
        names, start = listing.names, 0
        after: list[_Run | bytes] = []
        if DIRECTORY in listing.kinds:
            for inner in sorted([name + b"/" for name in listing.directories()]):
                end = bisect_left(names, inner)
                if end > start:
                    after.append(_Run(at, listing, start, end))
                after.append(at + inner)
                start = end
        if start < len(names):
            after.append(_Run(at, listing, start, len(names)))
        todo += reversed(after)
