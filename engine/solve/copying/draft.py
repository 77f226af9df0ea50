"""The layer that COPY, ADD or WORKDIR is about to make, seen as files over those of the image below it.

What is put here hides what lies below, as it will when the layer is applied. Paths are real (see `paths`) where nothing else is
said.
"""

from __future__ import annotations

from engine.errors import CopyError
from engine.layer.base import FileTree
from engine.layer.entries import Entry, Kind, ancestors, parent
from engine.layer.resolve import follow
from engine.solve.copying.copies import Copies, Graft
from engine.solve.copying.paths import show
from engine.solve.copying.request import Copied

MOST_WORK = 20_000_000
"""Steps that looking up links and taking away directories may cost in all. Only an archive made for the purpose needs more."""


class EmptyTree:
    """No file at all: what `COPY --link` copies onto, and what `FROM scratch` starts with."""

    def get(self, path: bytes) -> Entry | None:
        """The root directory only."""
        return None if path else Entry(b"", "dir", 0o755)

    def children(self, path: bytes) -> tuple[bytes, ...]:
        """Nothing."""
        return ()

    def source(self, path: bytes) -> tuple[bytes, int]:
        """Raises `KeyError`."""
        raise KeyError(path)

    def identity(self, path: bytes) -> object | None:
        """None."""
        return None

    def read(self, path: bytes) -> bytes:
        """Raises `KeyError`."""
        raise KeyError(path)


class Draft:
    """Entries by path, over a tree."""

    def __init__(self, below: FileTree) -> None:
        self.below = below
        self.entries: dict[bytes, Copied] = {}
        """What is planned one by one: without what grafts hold, until somebody looks there."""
        self._grafts: dict[bytes, Graft] = {}
        self._hidden: set[bytes] = set()
        """Directories of the image that were taken away: nothing under them is visible any more."""
        self._whiteouts: set[bytes] = set()
        self._opaque: set[bytes] = set()
        self._work = 0
        self._linked: dict[bytes, list[bytes]] = {}
        """Hard links in the draft by the path of the file that holds the content."""

    def get(self, path: bytes) -> Entry | None:
        """The entry at a real path, a hard link as the file it is the same as."""
        if self._grafts and not self._grafts.keys().isdisjoint((b"", *ancestors(path)) if path else ()):
            self.expand()
        planned = self.entries.get(path)
        if planned is not None:
            entry = planned.entry
            return self.entries[entry.link].entry if entry.kind == "hardlink" else entry
        if self._hidden and (path in self._hidden or any(above in self._hidden for above in ancestors(path))):
            return None
        return self.below.get(path)

    def graft(self, graft: Graft) -> None:
        """Adds a whole subtree in a directory that is there, and in which is nothing yet."""
        self._grafts[graft.target] = graft

    def expand(self) -> None:
        """Makes entries of all grafts: somebody is about to look at single files of theirs, or to change them."""
        grafts, self._grafts = self._grafts, {}
        for graft in grafts.values():
            self.entries.update((copied.entry.path, copied) for copied in graft.copied())

    def link(self, path: bytes) -> bytes | None:
        """The text of the symlink at a real path; None for everything else."""
        self._spend(1)
        entry = self.get(path)
        return entry.link if entry is not None and entry.kind == "symlink" else None

    def resolve(self, path: bytes) -> bytes:
        """The real path behind a clean one, the last component followed too. Raises `CopyError` for a loop."""
        return follow(path, self.link)

    def make_dirs(self, path: bytes, mode: int, owner: tuple[int, int], mtime: int) -> None:
        """Makes the directories of a real path that are missing. Raises `CopyError` where something else is in the way."""
        missing = []
        while path:
            entry = self.get(path)
            if entry is not None:
                if entry.kind != "dir":
                    raise CopyError(f"mkdir {show(path)}: not a directory",
                                    hint=f"{show(path)} is a {entry.kind}; copy to another place, or remove it first")
                break
            missing.append(path)
            path = parent(path)
        for made in reversed(missing):
            self.entries[made] = Copied(Entry(made, "dir", mode, *owner, 0, mtime))

    def put(self, copied: Copied) -> None:
        """Adds an entry, which takes the place of what is there. A directory over a directory keeps what is in it."""
        entry = copied.entry
        path = entry.path
        old = self.get(path)
        if old is not None and not (old.kind == "dir" and entry.kind == "dir"):
            self.remove(path)
        if entry.kind == "hardlink":
            self._linked.setdefault(entry.link, []).append(path)
        self.entries[path] = copied

    def remove(self, path: bytes) -> None:
        """Takes away what is at a path, and all below it. The other names of a hard linked file keep it."""
        old = self.get(path)
        if old is None:
            return
        if old.kind == "dir":
            self.expand()
            prefix = path + b"/"
            self._spend(len(self.entries))
            for inner in [p for p in self.entries if p.startswith(prefix)]:
                self._drop(inner)
            entry = self.below.get(path)
            if entry is not None and entry.kind == "dir":
                self._hidden.add(path)
        self._drop(path)

    def _spend(self, steps: int) -> None:
        self._work += steps
        if self._work > MOST_WORK:
            raise CopyError("there are too many links to follow, or directories to replace")

    def hide(self, path: bytes, kind: Kind) -> None:
        """Deletes what lies below the layer at a path (`whiteout`) or inside of it (`opaque`). This shows in the result only:
        what the draft itself has there stays, and so does what can be looked up."""
        (self._whiteouts if kind == "whiteout" else self._opaque).add(path)

    def _drop(self, path: bytes) -> None:
        """Forgets an entry of the draft; if it held the content of hard links, the first of them does from now on."""
        gone = self.entries.pop(path, None)
        if gone is None:
            return
        if gone.entry.kind == "hardlink":
            self._linked[gone.entry.link].remove(path)
            return
        links = self._linked.pop(path, None)
        if links:
            self._regroup(gone, links)

    def _regroup(self, holder: Copied, names: list[bytes]) -> None:
        """Makes the first of the names the file and the others hard links to it."""
        first, *others = sorted(names)
        entry = holder.entry
        self.entries[first] = holder._replace(entry=entry._replace(path=first))
        for other in others:
            self.entries[other] = Copied(link_entry(other, first, entry))
        if others:
            self._linked[first] = others

    def result(self) -> Copies:
        """The layer, with the directories of the image that lead there."""
        for path, links in list(self._linked.items()):
            if links and min(links) < path:
                del self._linked[path]
                self._regroup(self.entries[path], [path, *links])
        entries = self.entries
        hidden = self._hiding()
        leading = {parent(path) for path in entries} | {parent(entry.path) for entry in hidden} | self._opaque
        leading |= self._grafts.keys()
        while leading:
            leading -= entries.keys()
            leading.discard(b"")
            for path in leading:
                entry = self.below.get(path)
                if entry is not None:
                    entries[path] = Copied(entry, kept=True)
            leading = {parent(path) for path in leading}
        out = [entries[path] for path in sorted(entries)]
        if hidden:
            out += map(Copied, hidden)
            out.sort(key=lambda copied: (copied.entry.path, copied.entry.kind == "opaque"))
        return Copies(out, tuple(self._grafts.values()))

    def _hiding(self) -> list[Entry]:
        """Whiteouts and opaque marks. An entry that is no directory needs none: it replaces what is below."""
        opaque = set(self._opaque)
        out = []
        for path in self._hidden | self._whiteouts:
            own = self.entries.get(path)
            if own is None:
                out.append(Entry(path, "whiteout"))
            elif own.entry.kind == "dir":
                opaque.add(path)
        return [*out, *(Entry(path, "opaque") for path in opaque)]


def link_entry(path: bytes, first: bytes, entry: Entry) -> Entry:
    """A hard link to the file `first`, whose entry is `entry`."""
    return Entry(path, "hardlink", entry.mode, entry.uid, entry.gid, 0, entry.mtime, first)
