"""What a copy depends on, for the key of its step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Final
from zlib import crc32

from engine.solve.copying.request import Copied

MOST_LISTED: Final = 1000
"""Entries of a listing; of larger copies, directories are listed in place of what is in them."""


def copied_digest_items(copied: Iterable[Copied], digests: Mapping[bytes, str]) -> Iterator[bytes]:
    """Bytes to be hashed for each entry of a copy: all that will be in the layer but times. Equal copies give equal bytes and
    others different ones, also when they are joined: every field is framed by its length.

    `digests` has the sha256 (hexadecimal) of the files that come from a context, by `from_path`; `KeyError` is raised when one
    is missing. Directories that were there before do not count.
    """
    for entry, from_path, _, _, kept in copied:
        if kept:
            continue
        path, kind, mode, uid, gid, size, _, link, digest, major, minor, xattrs = entry
        if not digest and kind == "file" and size:
            digest = digests[from_path if from_path is not None else path]
        yield b"%d:%b%d:%b%b %o %d:%d %d,%d %b %d;%b" % (
            len(path), path, len(link), link, kind.encode(), mode, uid, gid, major, minor, digest.encode(), len(xattrs),
            _frame(xattrs) if xattrs else b"")


def copied_listing(copied: Sequence[Copied], checksums: Sequence[int]) -> dict[str, str]:
    """A checksum for each file of a copy, by where it comes from or else goes to, for people who want to know which one changed.
    In large copies one for each directory, down to a depth at which there are not too many. `checksums` are the crc32 of
    what `copied_digest_items` gives for the copy."""
    counted = [(c, sum_) for c, sum_ in zip((c for c in copied if not c.kept), checksums, strict=True) if c.entry.kind != "dir"]
    paths = [(c.from_path if c.from_path is not None else c.entry.path) for c, _ in counted]
    folders = [path.rpartition(b"/")[0] for path in paths] if len(paths) > MOST_LISTED else []
    shorter = _shortened(set(folders))
    out: dict[bytes, int] = {}
    for n, (_, checksum) in enumerate(counted):
        name = shorter[folders[n]] if folders else paths[n]
        out[name] = crc32(checksum.to_bytes(4, "little"), out[name]) if name in out else checksum
    return {name.decode(errors="backslashreplace") or ".": f"{value:08x}" for name, value in out.items()}


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
