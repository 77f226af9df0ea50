"""Some files of a context, whose digests are to be found out or kept."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple, overload

from engine.context.filekeys import DirectoryFiles, FileKey
from engine.context.listing import Listing

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


class Files(Sequence[FileKey]):
    """The keys of some files in listings, made when they are asked for: together they would be large."""

    def __init__(self, groups: Sequence[Some]) -> None:
        self.groups = groups
        self._numbers, self._places = array("L"), array("L")
        for number, (_, _, places) in enumerate(groups):
            self._numbers.extend(array("L", [number]) * len(places))
            self._places.extend(places)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> FileKey: ...

    @overload
    def __getitem__(self, at: slice) -> list[FileKey]: ...

    def __getitem__(self, at: int | slice) -> FileKey | list[FileKey]:
        if isinstance(at, slice):
            return [self.groups[n].listing.key(place) for n, place in zip(self._numbers[at], self._places[at], strict=True)]
        return self.groups[self._numbers[at]].listing.key(self._places[at])

    def unknown(self) -> Files:
        """Those of them whose digests are not known."""
        return Files([Some(group.prefix, group.listing, places) for group in self.groups if (places := group.unknown())])

    def path(self, at: int) -> bytes:
        """A file's path, relative to what the directories' paths are relative to."""
        prefix, listing, _ = self.groups[self._numbers[at]]
        return prefix + listing.names[self._places[at]]

    def learn(self, digests: Sequence[bytes]) -> None:
        """Takes up the digests of all of them."""
        start = 0
        for _, listing, places in self.groups:
            end = start + len(places)
            listing.learn_all(places, b"".join(digests[start:end]))
            start = end
