"""What a copy depends on, for the key of its step."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Final
from zlib import crc32

from engine.layer.columns import NUMBERS, Columns
from engine.solve.copying.copies import Copies, in_order
from engine.solve.copying.request import Copied

MOST_LISTED: Final = 1000
"""Entries of a listing; of larger copies, directories are listed in place of what is in them."""

_FILE, _DIRECTORY = NUMBERS["file"], NUMBERS["dir"]
_NONE = bytes(32)


class Dependence:
    """What a copy depends on: its entries but for directories that were there before. Most of it can be made before the digests of
    the files are known; `columns` has them once `learn` was called."""

    def __init__(self, copies: Copies) -> None:
        self._own = [copied for copied in copies.own if not copied.kept]
        self._grafts = copies.grafts
        self.columns = Columns.of(copied.entry for copied in self._own)
        self._origins = {copied.entry.path: copied.from_path for copied in self._own if copied.from_path is not None}
        numbers = array("L", [0]) * len(self._own)  # by row the number of the graft it is in, from 1 on
        for number, graft in enumerate(copies.grafts, 1):
            self.columns.extend(graft.columns())
            numbers.extend(array("L", [number]) * len(graft.subtree))
        self._order = in_order(self.columns) if copies.grafts else None
        if self._order is not None:
            self.columns, numbers = self.columns.reordered(self._order), array("L", map(numbers.__getitem__, self._order))
        self._numbers = numbers

    def learn(self, digests: Mapping[bytes, str]) -> None:
        """Takes up digests (hexadecimal) of the files that come one by one from a context, by path; subtrees know theirs.
        Raises `KeyError` when one is missing."""
        raw = b"".join([*(_digest(copied, digests) for copied in self._own), *(graft.subtree.digests() for graft in self._grafts)])
        if self._order is not None:
            raw = b"".join([raw[at * 32 : at * 32 + 32] for at in self._order])
        self.columns.digests = raw
        self.columns.known = bytes([raw[at : at + 32] != _NONE for at in range(0, len(raw), 32)])

    def names(self) -> Iterator[bytes]:
        """For each entry the path that people know it by: where it comes from, or else goes to."""
        moved = [graft.prefixes for graft in self._grafts]
        for path, kind, number in zip(self.columns.paths, self.columns.kinds, self._numbers, strict=True):
            if number and kind == _FILE:
                old, skip = moved[number - 1]
                yield old + path[skip:]
            else:
                yield self._origins.get(path, path)


def digest_items(columns: Columns) -> Iterator[bytes]:
    """Bytes to be hashed for each entry: all that will be in the layer but times. Equal copies give equal bytes and others
    different ones, also when they are joined: every field is framed by its length. Raises `KeyError` for a file without digest."""
    for path, kind, mode, uid, gid, size, _, link, digest, major, minor, xattrs in columns.entries():
        if kind != "file" or not size:
            digest = ""
        elif not digest:
            raise KeyError(path)
        yield b"%d:%b%d:%b%b %o %d:%d %d,%d %b %d;%b" % (
            len(path), path, len(link), link, kind.encode(), mode, uid, gid, major, minor, digest.encode(), len(xattrs),
            _frame(xattrs) if xattrs else b"")


def listing(on: Dependence, checksums: Sequence[int]) -> dict[str, str]:
    """A checksum for each file of a copy, by its name, for people who want to know which one changed. In large copies one for each
    directory, down to a depth at which there are not too many. `checksums` are the crc32 of the `digest_items`."""
    kinds = on.columns.kinds
    shorter: dict[bytes, bytes] | None = None
    if len(kinds) - kinds.count(_DIRECTORY) > MOST_LISTED:
        shorter = _shortened({name.rpartition(b"/")[0] for name, kind in zip(on.names(), kinds, strict=True) if kind != _DIRECTORY})
    out: dict[bytes, int] = {}
    for name, kind, checksum in zip(on.names(), kinds, checksums, strict=True):
        if kind != _DIRECTORY:
            place = name if shorter is None else shorter[name.rpartition(b"/")[0]]
            out[place] = crc32(checksum.to_bytes(4, "little"), out[place]) if place in out else checksum
    return {name.decode(errors="backslashreplace") or ".": f"{value:08x}" for name, value in out.items()}


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


def _frame(xattrs: tuple[tuple[str, bytes], ...]) -> bytes:
    return b"".join(b"%d:%b%d:%b" % (len(name.encode()), name.encode(), len(value), value) for name, value in xattrs)
