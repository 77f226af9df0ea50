"""What a copy depends on, for the key of its step."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import compress
from operator import not_
from typing import Final
from zlib import crc32

from msgspec import Struct

from engine.layer.base import DirectoryPart
from engine.layer.columns import NUMBERS, Extra, little
from engine.layer.entries import join, name, parent
from engine.solve.copying.copies import Copies, Graft
from engine.solve.copying.request import Copied

MOST_LISTED: Final = 1000
"""Entries of a listing; of larger copies, directories are listed in place of what is in them."""

_FILE, _DIRECTORY = NUMBERS["file"], NUMBERS["dir"]
_NONE = bytes(32)


class Dependence:
    """What a copy depends on: its entries but for directories that were there before, and of them all but their times.

    Nothing is sorted by its path: directories are, and in each of them entries are sorted by name.
    """

    def __init__(self, copies: Copies) -> None:
        self._directories: list[tuple[bytes, _Own | _Grafted]] = []
        found: dict[bytes, list[Copied]] = {}
        for copied in copies.own:
            if not copied.kept:
                found.setdefault(parent(copied.entry.path), []).append(copied)
        self._directories += [(path, _Own(path, each)) for path, each in found.items()]
        for graft in copies.grafts:
            old, new = graft.prefixes
            self._directories += [((new + prefix)[:-1], _Grafted((new + prefix)[:-1], (old + prefix)[:-1], graft, part))
                                  for prefix, part in graft.subtree.parts if part.names]  # fmt: skip
        self._directories.sort(key=_first)
        self._digests: Mapping[bytes, str] = {}
        self._sums = array("L")

    def digest(self, digests: Mapping[bytes, str]) -> str:
        """sha256 (hexadecimal) of all of it: equal for equal copies, however they were planned, and another one for others.
        `digests` are those of files that come one by one, by path and in hexadecimal; subtrees know theirs. Raises `KeyError` when
        one is missing."""
        self._digests, self._sums = digests, array("L")
        digest = hashlib.sha256()
        for _, directory in self._directories:
            data = directory.rows(digests).encode()
            digest.update(data)
            self._sums.append(crc32(data))
        return digest.hexdigest()

    def listing(self) -> dict[str, str]:
        """A checksum for each file of the copy whose digest was made, by its name, for people who want to know which one changed.
        In large copies one for each directory, down to a depth at which there are not too many."""
        directories = [directory for _, directory in self._directories]
        if sum(directory.count for directory in directories) <= MOST_LISTED:
            sums = [pair for directory in directories for pair in directory.each(self._digests)]
        else:
            sums = [pair for directory, whole in zip(directories, self._sums, strict=True) if directory.count
                    for pair in directory.folders(whole, self._digests)]  # fmt: skip
            shorter = _shortened({folder for folder, _ in sums})
            sums = [(shorter[folder], checksum) for folder, checksum in sums]
        out: dict[bytes, int] = {}
        for place, checksum in sums:
            out[place] = crc32(checksum.to_bytes(4, "little"), out[place]) if place in out else checksum
        return {place.decode(errors="backslashreplace") or ".": f"{value:08x}" for place, value in out.items()}


class _Rows(Struct):
    """The entries of one directory of the copy, by columns."""

    directory: bytes
    names: Sequence[bytes]
    kinds: bytes
    modes: array[int]
    owners: tuple[array[int], array[int]]
    sizes: array[int]
    links: Mapping[int, bytes]
    digests: bytes | bytearray
    extras: Mapping[int, Extra]

    def encode(self) -> bytes:
        """Bytes that are other ones for other entries, also when several are joined: each part is framed by its length. Raises
        `KeyError` for a file without digest."""
        links = b"".join([b"%d %d:%b" % (at, len(link), link) for at, link in sorted(self.links.items())])
        extras = b"".join([_framed(at, extra) for at, extra in sorted(self.extras.items())])
        parts = (self.directory, b"\0".join(self.names), self.kinds, little(self.modes), little(self.owners[0]),
                 little(self.owners[1]), little(self.sizes), links, self._contents(), extras)  # fmt: skip
        return b"".join([little(array("Q", map(len, parts))), *parts])

    def checksums(self) -> Iterator[int]:
        """One for each entry, but for its directory."""
        contents = self._contents()
        for at, row in enumerate(zip(self.names, self.kinds, self.modes, *self.owners, self.sizes, strict=True)):
            text = repr((row, self.links.get(at), self.extras.get(at))).encode()
            yield crc32(contents[at * 32 : at * 32 + 32], crc32(text))

    def _contents(self) -> bytes | bytearray:
        """The digests of files that are not empty."""
        digests, count = self.digests, len(self.names)
        if all(self.sizes) and _NONE not in digests:
            return digests
        missing = [at for at in compress(range(count), self.sizes) if digests[at * 32 : at * 32 + 32] == _NONE]
        if missing:
            raise KeyError(self.names[missing[0]])
        out = bytearray(digests)
        for at in compress(range(count), map(not_, self.sizes)):
            out[at * 32 : at * 32 + 32] = _NONE
        return out


class _Own(Struct):
    """Entries of one directory that come one by one, sorted by name."""

    path: bytes
    copied: Sequence[Copied]

    @property
    def count(self) -> int:
        """How many of them are no directories."""
        return sum([copied.entry.kind != "dir" for copied in self.copied])

    def rows(self, digests: Mapping[bytes, str]) -> _Rows:
        """The entries by columns; `digests` as for `Dependence.digest`."""
        paths, kinds, modes, uids, gids, sizes, _, links, _, major, minor, xattrs = zip(
            *[copied.entry for copied in self.copied], strict=True)
        extras = {at: extra for at, extra in enumerate(zip(major, minor, xattrs, strict=True)) if any(extra)}
        return _Rows(self.path, list(map(name, paths)), bytes(map(NUMBERS.__getitem__, kinds)), array("H", modes),
                     (array("q", uids), array("q", gids)),
                     array("q", [size if kind == "file" else 0 for size, kind in zip(sizes, kinds, strict=True)]),
                     {at: link for at, link in enumerate(links) if link},
                     b"".join([_digest(copied, digests) for copied in self.copied]), extras)  # fmt: skip

    def each(self, digests: Mapping[bytes, str]) -> Iterator[tuple[bytes, int]]:
        """A checksum for each entry but directories, by the path that people know it by: where it comes from, or else goes to."""
        for copied, checksum in zip(self.copied, self.rows(digests).checksums(), strict=True):
            if copied.entry.kind != "dir":
                yield copied.entry.path if copied.from_path is None else copied.from_path, checksum

    def folders(self, whole: int, digests: Mapping[bytes, str]) -> Iterator[tuple[bytes, int]]:
        """A checksum for each directory that something comes from, or else goes to; `whole` is that of all entries."""
        origins = {parent(copied.from_path) for copied in self.copied if copied.from_path is not None}
        if len(origins) < 2:
            yield origins.pop() if origins else self.path, whole
            return
        found: dict[bytes, list[Copied]] = {}
        for copied in self.copied:
            found.setdefault(self.path if copied.from_path is None else parent(copied.from_path), []).append(copied)
        for folder, each in sorted(found.items()):
            yield folder, crc32(_Own(self.path, each).rows(digests).encode())


class _Grafted(Struct):
    """A directory of a graft: what is said of it, and its place in the tree it comes from, `origin`. See `_Own`."""

    path: bytes
    origin: bytes
    graft: Graft
    part: DirectoryPart

    @property
    def count(self) -> int:
        return len(self.part.kinds) - self.part.kinds.count(_DIRECTORY)

    def rows(self, digests: Mapping[bytes, str]) -> _Rows:
        part, (uid, gid), count = self.part, self.graft.metadata.owner, len(self.part.names)
        return _Rows(self.path, part.names, part.kinds, self.graft.modes(part.kinds, part.modes),
                     (array("q", [uid]) * count, array("q", [gid]) * count), part.sizes, part.links,
                     part.digests or bytes(32 * count), {})  # fmt: skip

    def each(self, digests: Mapping[bytes, str]) -> Iterator[tuple[bytes, int]]:
        rows = self.rows(digests)
        for child, kind, checksum in zip(rows.names, rows.kinds, rows.checksums(), strict=True):
            if kind != _DIRECTORY:
                yield join(self.origin if kind == _FILE else self.path, child), checksum

    def folders(self, whole: int, digests: Mapping[bytes, str]) -> Iterator[tuple[bytes, int]]:
        yield self.origin if _FILE in self.part.kinds else self.path, whole


def _digest(copied: Copied, digests: Mapping[bytes, str]) -> bytes:
    entry = copied.entry
    if entry.kind != "file" or not entry.size:
        return _NONE
    return bytes.fromhex(entry.digest or digests[entry.path if copied.from_path is None else copied.from_path])


def _shortened(folders: Set[bytes]) -> dict[bytes, bytes]:
    """The first components of each path, as many as leave no more than `MOST_LISTED` names."""
    out = {path: path for path in folders}
    depth = 0
    if len(folders) > MOST_LISTED:
        out = dict.fromkeys(folders, b"")
        while True:
            depth += 1
            deeper = {path: b"/".join(path.split(b"/", depth)[:depth]) for path in folders}
            if len(set(deeper.values())) > MOST_LISTED:
                break
            out = deeper
    return out


def _framed(at: int, extra: Extra) -> bytes:
    major, minor, xattrs = extra
    pairs = [b"%d:%b%d:%b" % (len(text), text, len(value), value) for key, value in xattrs
             for text in [key.encode("utf-8", "surrogateescape")]]  # fmt: skip
    return b"%d %d,%d %d;%b" % (at, major, minor, len(pairs), b"".join(pairs))


def _first(pair: tuple[bytes, object]) -> bytes:
    return pair[0]
