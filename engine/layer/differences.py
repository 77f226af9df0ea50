"""How two layers differ, entry by entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.layer.entries import Entry
from engine.layer.index import Index
from engine.layer.scan import scan

ONLY_OLD, ONLY_NEW = "is not there any more", "is new"


def listed(blob_path: str, diff_id: str) -> Index:
    """The entries of a layer, its files with digests; a job for workers. Raises as `scan` does."""
    return scan(blob_path, diff_id, hash_files=True).index


def differences(old: Iterable[Entry], new: Iterable[Entry]) -> Mapping[bytes, str]:
    """What is not the same, by path and in the order of paths. Times do not count, for two runs at two times have two; the entries
    of files must have digests."""
    before, after = ({entry.path: entry for entry in entries} for entries in (old, new))
    out: dict[bytes, str] = {}
    for path in sorted(before.keys() | after.keys()):
        one, other = before.get(path), after.get(path)
        if one is None or other is None:
            out[path] = ONLY_NEW if one is None else ONLY_OLD
        elif words := _words(one, other):
            out[path] = f"has another {' and '.join(words)}"
    return out


def _words(one: Entry, other: Entry) -> list[str]:
    """What is another."""
    if one.kind != other.kind:
        return ["kind"]
    parts = {
        "content": (one.size, one.digest) != (other.size, other.digest),
        "mode": one.mode != other.mode,
        "owner": (one.uid, one.gid) != (other.uid, other.gid),
        "target": one.link != other.link,
        "device number": (one.major, one.minor) != (other.major, other.minor),
        "extended attribute": one.xattrs != other.xattrs,
    }
    return [word for word, differs in parts.items() if differs]
