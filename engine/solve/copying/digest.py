"""What a copy depends on, for the key of its step."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Final, NamedTuple
from zlib import crc32

from engine.layer.columns import NUMBERS, Columns
from engine.layer.entries import Entry
from engine.solve.copying.copies import Copies, in_order
from engine.solve.copying.request import Copied

MOST_LISTED: Final = 1000
"""Entries of a listing; of larger copies, directories are listed in place of what is in them."""

_FILE, _DIRECTORY = NUMBERS["file"], NUMBERS["dir"]


class Dependence(NamedTuple):
    """What a copy depends on: its entries but for directories that were there before, with the digests of files."""

    columns: Columns
    own: Mapping[bytes, bytes]
    """Where files that were copied one by one come from, by path."""
    graft: array[int]
    """By row the number of the graft it is in, from 1 on; 0 for none."""
    moved: Sequence[tuple[bytes, int]]
    """Of each graft what the paths of its files began with, and how many bytes they begin with now instead."""

    def names(self) -> Iterator[bytes]:
        """For each entry the path that people know it by: where it comes from, or else goes to."""
        for path, kind, graft in zip(self.columns.paths, self.columns.kinds, self.graft, strict=True):
            if graft and kind == _FILE:
                old, skip = self.moved[graft - 1]
                yield old + path[skip:]
            else:
                yield self.own.get(path, path)


def dependence(copies: Copies, digests: Mapping[bytes, str]) -> Dependence:
    """What a copy depends on. `digests` has the sha256 (hexadecimal) of the `own` files that come from a context, by `from_path`;
    subtrees know theirs. Raises `KeyError` when one is missing."""
    own = [copied for copied in copies.own if not copied.kept]
    columns = Columns.of(_digested(copied, digests) for copied in own)
    names = {copied.entry.path: copied.from_path for copied in own if copied.from_path is not None}
    grafts = array("L", [0]) * len(own)
    for number, graft in enumerate(copies.grafts, 1):
        columns.extend(graft.columns())
        grafts.extend(array("L", [number]) * len(graft.subtree))
    order = in_order(columns) if copies.grafts else None
    if order is not None:
        columns, grafts = columns.reordered(order), array("L", map(grafts.__getitem__, order))
    return Dependence(columns, names, grafts, [graft.prefixes for graft in copies.grafts])


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


def _digested(copied: Copied, digests: Mapping[bytes, str]) -> Entry:
    entry = copied.entry
    if entry.digest or entry.kind != "file" or not entry.size:
        return entry
    return entry._replace(digest=digests[entry.path if copied.from_path is None else copied.from_path])


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
