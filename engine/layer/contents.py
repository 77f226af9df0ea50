"""What the members of a tar come to: names to paths, later members over earlier ones, links inside the archive.

This is the model of a layer alone. Of a symlink in a lower layer it knows nothing; `engine.layer.tree` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.errors import ContentError, CopyError, shortened
from engine.layer.entries import Entry, Kind, ancestors
from engine.layer.resolve import follow
from engine.layer.tarcodec import OPAQUE, WHITEOUT

if TYPE_CHECKING:
    from engine.layer.tarstream import Member


_KINDS: dict[int, Kind] = {0x30: "file", 0x31: "hardlink", 0x32: "symlink", 0x33: "char", 0x34: "block", 0x35: "dir", 0x36: "fifo"}
HARDLINK = 0x31
_MOST_WORK = 50_000_000
_NO_NAMES = (b"", b".", b"..")


def clean(name: bytes) -> bytes:
    """A member's name as a path. Raises `ContentError` for one that climbs out of the root."""
    if name.startswith(b"./"):
        name = name[2:]
    if name.endswith(b"/"):
        name = name.rstrip(b"/")
    if b"/." not in name and b"//" not in name and name[:1] not in (b"/", b"."):
        return name
    done: list[bytes] = []
    for component in name.split(b"/"):
        if component == b"..":
            if done:
                done.pop()
            elif not name.startswith(b"/"):
                raise ContentError(f"invalid tar: {show(name)!r} climbs out of the root")
        elif component not in (b"", b"."):
            done.append(component)
    return b"/".join(done)


def removal(head: bytes, tail: bytes) -> tuple[Kind, bytes] | None:
    """What a name that begins like a whiteout's means in the directory `head`: kind and path. None for a name that old drivers
    left behind and that means nothing."""
    if tail == OPAQUE:
        return "opaque", head
    hidden = tail[len(WHITEOUT) :]
    if hidden.startswith(WHITEOUT):
        return None
    if hidden in _NO_NAMES:
        raise ContentError(f"invalid tar: {show(tail)!r} is no whiteout")
    return "whiteout", head + b"/" + hidden if head else hidden


def inside(path: bytes, link: Callable[[bytes], bytes | None]) -> bytes:
    """As `follow`, where a circle of links is the layer's fault and not a COPY's: raises `ContentError`."""
    try:
        return follow(path, link)
    except CopyError as error:
        raise ContentError(f"invalid layer: {error.message}") from error


def to_entry(member: Member, path: bytes, link: bytes) -> Entry:
    """A member as an entry, with its path and, for a hard link, its target's. Raises `ContentError` for what cannot be."""
    kind = _KINDS[member.type]
    if kind == "file" and path:
        values = (path, kind, member.mode, member.uid, member.gid, member.size, member.mtime, b"", "", 0, 0, member.xattrs)
        return tuple.__new__(Entry, values)  # most entries are files, and this is quicker than the constructor
    if kind == "symlink":
        if not link:
            raise ContentError(f"invalid tar: the symlink {show(path)!r} leads nowhere")
        return Entry(path, kind, 0o777, member.uid, member.gid, 0, member.mtime, link, xattrs=member.xattrs)
    if not path and kind != "dir":
        raise ContentError("invalid tar: its root is no directory")
    link = link if kind == "hardlink" else b""
    return Entry(path, kind, member.mode, member.uid, member.gid, member.size, member.mtime, link, "", member.major, member.minor,
                 member.xattrs)


def show(name: bytes) -> str:
    """A name for people."""
    return shortened(name.decode("utf-8", "backslashreplace"))


class Contents:
    """The entries of one archive. `implicit(path)` is called when a directory is needed that no member has made."""

    def __init__(self, implicit: Callable[[bytes], None] | None = None) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.removals: dict[tuple[Kind, bytes], Entry] = {}
        self.dirs: set[bytes] = {b""}
        self.implicit: dict[bytes, None] = {}
        """Directories that are only there as the parents of others."""
        self._on_implicit = implicit
        self._links: dict[bytes, list[bytes]] = {}
        self._work = 0

    def is_new_file(self, path: bytes) -> bool:
        """Whether a file of this name means just that, and nothing else is there."""
        head, _, tail = path.rpartition(b"/")
        return (head in self.dirs and tail not in _NO_NAMES and not tail.startswith(WHITEOUT) and path not in self.entries
                and path not in self.dirs)  # fmt: skip

    def entry(self, member: Member) -> Entry | None:
        """The entry a member stands for, which `add` takes; None for one that means nothing. Raises `ContentError`."""
        name = member.name
        head, _, tail = name.rpartition(b"/")
        if not head or head not in self.dirs or tail in _NO_NAMES:  # else all of it has been seen to be clean
            name = clean(name)
            head, _, tail = name.rpartition(b"/")
        if tail.startswith(WHITEOUT):
            return self._removal(head, tail, member.mtime)
        if head not in self.dirs:
            head = self.directory(head)
            name = head + b"/" + tail if head else tail
        if member.type != HARDLINK:
            return to_entry(member, name, member.link)
        link = self._target(name, member.link)
        return to_entry(member, name, link) if link != name else None

    def add(self, entry: Entry) -> None:
        """Takes an entry; what was at its path gives way."""
        path, kind = entry.path, entry.kind
        if kind in ("whiteout", "opaque"):
            self.removals[kind, path] = entry
            return
        if path in self.entries or path in self.dirs:
            if kind == "dir" and path in self.dirs:
                self.implicit.pop(path, None)
                self.entries[path] = entry
                return
            self._clear(path)
        self.entries[path] = entry
        if kind == "dir":
            self.dirs.add(path)
        elif kind == "hardlink":
            self._links.setdefault(entry.link, []).append(path)

    def directory(self, path: bytes) -> bytes:
        """The real directory that `path` stands for; what is missing of it is made."""
        real = inside(path, self._link)
        if not self._make(real):
            raise ContentError(f"invalid tar: {show(path)!r} is below something that is no directory")
        return real

    def _make(self, path: bytes) -> bool:
        """Makes what is missing of a directory; False when something else is in the way."""
        for at in [*ancestors(path), path]:
            if at not in self.dirs:
                if at in self.entries:
                    return False
                self.dirs.add(at)
                self.implicit[at] = None
                if self._on_implicit:
                    self._on_implicit(at)
        return True

    def result(self) -> tuple[Entry, ...]:
        """All entries, what removes first and the others in the archive's order."""
        return (*self.removals.values(), *self.entries.values())

    def foreign(self) -> tuple[Entry, ...]:
        """Hard links to what is not in this archive."""
        return tuple(self.entries[path] for target, paths in self._links.items() if target not in self.entries
                     for path in paths if path in self.entries)  # fmt: skip

    def _removal(self, head: bytes, tail: bytes, mtime: int) -> Entry | None:
        """A whiteout or opaque mark. It is about the layers below, so no symlink of this one leads to it; where this layer has
        something that is no directory there is nothing left to hide."""
        what = removal(head, tail)
        if what is None or not self._make(head):
            return None
        return Entry(what[1], what[0], mtime=mtime)

    def _link(self, path: bytes) -> bytes | None:
        entry = self.entries.get(path)
        return entry.link if entry is not None and entry.kind == "symlink" else None

    def _target(self, name: bytes, link: bytes) -> bytes:
        """The path of the file a hard link is another name of."""
        path = clean(link)
        head, _, tail = path.rpartition(b"/")
        if head not in self.dirs:
            head = inside(head, self._link)
            path = head + b"/" + tail if head else tail
        target = self.entries.get(path)
        if not path or (target is not None and target.kind == "dir"):
            raise ContentError(f"invalid tar: {show(name)!r} is a hard link to a directory")
        return target.link if target is not None and target.kind == "hardlink" else path

    def _clear(self, path: bytes) -> None:
        """Forgets what is at a path and below it."""
        if path in self.dirs:
            if not path:
                raise ContentError("invalid tar: its root is no directory")
            self._work += len(self.entries)
            if self._work > _MOST_WORK:
                raise ContentError("invalid tar: it replaces too many directories")
            below = path + b"/"
            for each in [each for each in self.entries if each.startswith(below)]:
                self._forget(each)
            gone = {each for each in self.dirs if each.startswith(below)} | {path}
            self.dirs -= gone
            for each in gone & self.implicit.keys():
                del self.implicit[each]
        self._forget(path)

    def _forget(self, path: bytes) -> None:
        entry = self.entries.pop(path, None)
        if entry is None:
            return
        if entry.kind == "hardlink":
            self._links[entry.link].remove(path)
        links = [each for each in self._links.pop(path, ()) if each in self.entries]
        if links:  # the file lives on under its next name
            heir, *others = links
            self.entries[heir] = entry._replace(path=heir)
            for other in others:
                self.entries[other] = self.entries[other]._replace(link=heir)
            self._links[heir] = others
