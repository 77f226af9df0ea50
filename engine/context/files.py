"""Some files of a context, whose digests are to be found out or kept."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from engine.context.filekeys import DirectoryFiles
from engine.context.listing import Listing

Row = tuple[bytes, int, int, int, int]
"""A path, and of its key inode, size, mtime and ctime. A plain tuple, which goes to another process much faster than a key does."""

_UNKNOWN = bytes(32)


class Some(NamedTuple):
    """Files of one directory: its path, with a slash at its end, its listing, and their places in there, as of `Listing.files`."""

    prefix: bytes
    listing: Listing
    places: Sequence[int]

    @property
    def files(self) -> DirectoryFiles:
        """The files by columns."""
        return self.listing.files(self.places)

    def unknown(self) -> Sequence[int]:
        """The places of those whose digests are not known."""
        digests = self.listing.digests
        if digests is None:
            return self.places
        if _UNKNOWN not in digests:
            return ()
        return array("L", [at for at in self.places if self.listing.digest(at) is None])


class Files:
    """Files of several directories, numbered; what is said of each is made when it is asked for: together it would be large."""

    def __init__(self, groups: Sequence[Some]) -> None:
        self.groups = groups
        self._numbers, self._places = array("L"), array("L")
        for number, (_, _, places) in enumerate(groups):
            self._numbers.extend(array("L", [number]) * len(places))
            self._places.extend(places)

    def __len__(self) -> int:
        return len(self._places)

    def unknown(self) -> Files:
        """Those of them whose digests are not known."""
        return Files([Some(group.prefix, group.listing, places) for group in self.groups if (places := group.unknown())])

    def path(self, at: int) -> bytes:
        """A file's path, relative to what the directories' paths are relative to."""
        prefix, listing, _ = self.groups[self._numbers[at]]
        return prefix + listing.names[self._places[at]]

    def sizes(self) -> list[int]:
        """The bytes of all of them."""
        return [size for _, listing, places in self.groups for size in map(listing.sizes.__getitem__, places)]

    def rows(self, above: bytes, wanted: Iterable[int]) -> list[Row]:
        """Some files as plain tuples: `above` and the path, and of the key inode, size, mtime and ctime."""
        out: list[Row] = []
        number = -1
        for at in wanted:
            if self._numbers[at] != number:
                number = self._numbers[at]
                prefix, listing, _ = self.groups[number]
                prefix, names = above + prefix, listing.names
                inodes, sizes, mtimes, ctimes = listing.inodes, listing.sizes, listing.mtimes, listing.ctimes
            place = self._places[at]
            out.append((prefix + names[place], inodes[place], sizes[place], mtimes[place], ctimes[place]))
        return out

    def learn(self, digests: Sequence[bytes]) -> None:
        """Takes up the digests of all of them."""
        start = 0
        for _, listing, places in self.groups:
            end = start + len(places)
            listing.learn_all(places, b"".join(digests[start:end]))
            start = end
