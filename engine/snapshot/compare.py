"""What a step changed, from what is found on disk and the tree below. Pure; the same for overlay and walk.

A file system tells more than changes: overlayfs copies a file up when its mode is set to what it was, a walk sees that a ctime is
new, and a directory that was removed and made again is `opaque` to the one and nothing special to the other. So only these rules
decide, which are BuildKit's: a path is changed when kind, mode, owner, link, device, `security.capability`, `user.*` attributes or,
except for directories, time or content are not what the tree says. What is gone is a whiteout at its top; a directory that was made
again is described by what is different in it. Directories above a change come along with the metadata they have.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Container, Iterable, Sequence

from msgspec import Struct

from engine.isolate.base import IdMap
from engine.layer import columns
from engine.layer.base import FileTree
from engine.layer.changes import Changes
from engine.layer.columns import KINDS, NUMBERS, Columns
from engine.layer.entries import Change, Entry, join, parent
from engine.layer.index import Index
from engine.layer.tree import Tree

_SECOND = 10**9
_FEW = 64


class Found(Struct, frozen=True):
    """What a root has on disk where it may differ from the tree.

    `entries` are sorted by path, whole paths, without sockets; of several names of one file the first is a `file` and the others
    are `hardlink`s to it, with the file's metadata all the same. `removed` are paths that are gone while their directory is not,
    `opaque` directories of which all that is there is in `entries`.
    """

    entries: Sequence[Entry]
    removed: Sequence[bytes] = ()
    opaque: frozenset[bytes] = frozenset()


def kept(name: str) -> bool:
    """Whether an extended attribute is part of a file as far as layers go."""
    return name == "security.capability" or (name.startswith("user.") and not name.startswith("user.overlay."))


def all_new(index: Index, tree: Tree, ids: IdMap, root: bytes) -> Changes | None:
    """The changes where all that was found (`index`, sorted by path, nothing removed or opaque) is new, but for directories that
    were there. None where something has to be looked at more closely.

    It comes to what `changes` does, without an object for each of very many entries."""
    rows, _ = columns.decode(index.to_bytes())
    paths, kinds = rows.paths, rows.kinds
    there = tree.known(paths)
    needed = {path.rpartition(b"/")[0] for path in paths if path not in there} - {b""}
    known = [at for at, path in enumerate(paths) if path in there] if there else []
    for at in reversed(known):  # a directory comes after what is in it
        path = paths[at]
        below = tree.get(path)
        if not (path and below is not None and KINDS[kinds[at]] == below.kind == "dir" and ids.holds(below.uid, below.gid)):
            return None
        if path in needed or not _alike(_directory_of(rows, at), below):
            needed |= {path, parent(path)} - {b""}
    dropped = [at for at in known if paths[at] not in needed]
    if NUMBERS["hardlink"] in kinds or not needed.issubset(paths) or len(dropped) > _FEW or (dropped and rows.extras):
        return None
    if dropped:
        _drop(rows, dropped)
        index = Index.of(rows, {})
    return Changes(len(rows), sum(rows.numbers.size), max(rows.numbers.mtime, default=0), index.to_bytes(), root=root)


def _drop(rows: Columns, dropped: Sequence[int]) -> None:
    """Takes a few rows away, none of which has more than numbers. Nobody has asked for digests of any."""
    kinds = bytearray(rows.kinds)
    for at in reversed(dropped):
        for column in (rows.paths, kinds, *rows.numbers):
            del column[at]
    rows.kinds, rows.digests, rows.known = bytes(kinds), bytes(32 * len(kinds)), bytes(len(kinds))
    rows.links = {at - bisect(dropped, at): link for at, link in rows.links.items()}


def _directory_of(rows: Columns, at: int) -> Entry:
    numbers = rows.numbers
    return Entry(rows.paths[at], "dir", numbers.mode[at], numbers.uid[at], numbers.gid[at],
                 xattrs=rows.extras[at][2] if at in rows.extras else ())  # fmt: skip


def suspects(found: Found, tree: FileTree, ids: IdMap) -> list[bytes]:
    """Regular files about which only their content can tell whether they are changed."""
    out = []
    for entry in found.entries:
        if entry.kind in ("file", "hardlink") and entry.size:
            below = tree.get(entry.path)
            if below is not None and _alike(_owned(entry, below, ids), below):
                out.append(entry.path)
    return out


def changes(found: Found, tree: FileTree, ids: IdMap, same: Container[bytes], root: bytes) -> list[Change]:
    """The changes, sorted by path. `same` are those of the `suspects` whose content is the tree's, `root` is the directory on disk
    that the bytes of files are found in."""
    entries: dict[bytes, Entry] = {}
    changed: dict[bytes, None] = {}  # in the order of paths, but for those that are added below
    get, linked = tree.get, False
    for raw in found.entries:
        path = raw.path
        below = get(path)
        linked = linked or raw.kind == "hardlink"
        if below is None:  # as is nearly everything where there is very much
            entries[path] = raw
            if path:
                changed[path] = None
            continue
        entry = entries[path] = _owned(raw, below, ids)
        read = entry.kind in ("file", "hardlink") and entry.size
        if path and not (_alike(entry, below) and (not read or path in same)):
            changed[path] = None
    removed = _removed(found, entries, tree)
    if linked:
        _link_again(entries, changed)
    for path in [*changed, *removed]:
        above = parent(path)
        while above and above not in changed:
            changed[above] = None
            if above not in entries:
                entries[above] = _directory(above, tree)
            above = parent(above)
    out = [Change(Entry(path, "whiteout")) for path in removed]
    base = root + b"/"
    for path in changed:
        entry = entries[path]
        out.append(Change(entry, base + path if entry.kind == "file" else None))
    out.sort(key=_path)
    return out


def _path(change: Change) -> bytes:
    return change.entry.path


def _removed(found: Found, entries: dict[bytes, Entry], tree: FileTree) -> set[bytes]:
    """The paths that need a whiteout."""
    out = {path for path in found.removed if tree.get(path) is not None}
    hidden: set[bytes] = set()
    for entry in found.entries:
        path = entry.path
        if entry.kind != "dir" or not (path in found.opaque or (path and parent(path) in hidden)):
            continue
        hidden.add(path)
        for name in tree.children(path):
            child = join(path, name)
            if child not in entries:
                out.add(child)
    return out


def _link_again(entries: dict[bytes, Entry], changed: Iterable[bytes]) -> None:
    """Makes the first changed name of each file the one that its other changed names are links to: a link to an unchanged file is
    a copy."""
    first: dict[bytes, bytes] = {}
    for path in sorted(changed):
        entry = entries[path]
        if entry.kind == "file":
            first[path] = path
        elif entry.kind == "hardlink":
            leader = first.setdefault(entry.link, path)
            entries[path] = entry._replace(kind="file", link=b"") if leader == path else entry._replace(link=leader)


def _directory(path: bytes, tree: FileTree) -> Entry:
    entry = tree.get(path)
    return entry if entry is not None and entry.kind == "dir" else Entry(path, "dir", 0o755)


def _owned(entry: Entry, below: Entry | None, ids: IdMap) -> Entry:
    """The entry with the owner it would have if every owner could be on disk."""
    if below is None or ids.holds(below.uid, below.gid) or (below.kind != entry.kind and entry.kind != "hardlink"):
        return entry
    return entry._replace(uid=below.uid, gid=below.gid)


def _alike(entry: Entry, below: Entry) -> bool:
    """Whether all that can be seen without reading files is as the tree says."""
    kind = "file" if entry.kind == "hardlink" else entry.kind
    if kind != below.kind or (entry.uid, entry.gid) != (below.uid, below.gid):
        return False
    if kind == "symlink":
        return entry.link == below.link and _same_time(entry.mtime, below.mtime)
    if entry.mode != below.mode or ((entry.xattrs or below.xattrs) and _attributes(entry) != _attributes(below)):
        return False
    if kind == "dir":
        return True
    same_node = (entry.size, entry.major, entry.minor) == (below.size, below.major, below.minor)
    return same_node and _same_time(entry.mtime, below.mtime)


def _attributes(entry: Entry) -> list[tuple[str, bytes]]:
    return sorted(each for each in entry.xattrs if kept(each[0]))


def _same_time(one: int, other: int) -> bool:
    """Equal times, or equal seconds where one of the two has only those: a tar's header, an old filesystem."""
    return one == other or (one // _SECOND == other // _SECOND and (not one % _SECOND or not other % _SECOND))
