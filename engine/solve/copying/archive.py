"""Extracting the members of a tar into the draft of a layer, as BuildKit does into a directory.

That directory is the root of everything: names and absolute links are relative to it, and what climbs out is an error. Members
replace what is there by their name, with all that is in it, but for a directory that comes over a directory: that one takes
owner, mode and time of the member. The root's own entry changes nothing. Directories that no member names are 0755 and root's.
"""

from __future__ import annotations

from engine.errors import CopyError
from engine.layer.entries import Change, Entry, join, parent
from engine.layer.resolve import follow
from engine.solve.copying.draft import Draft, link_entry
from engine.solve.copying.metadata import CAPABILITY
from engine.solve.copying.paths import clean, show
from engine.solve.copying.request import Copied, CopyRequest


class Extraction:
    """One archive on its way into a draft, below the real directory `top`."""

    def __init__(self, draft: Draft, top: bytes, request: CopyRequest) -> None:
        self._draft = draft
        self._top = top
        self._owner = request.owner
        self._mtime = request.made_mtime
        self._real: dict[bytes, bytes] = {}
        """Real directories by the name that members have for them. Forgotten when a link or a directory changes."""

    def add(self, member: Change) -> None:
        """The next member of the archive. Raises `CopyError`."""
        entry = member.entry
        if not entry.path:
            return
        if entry.kind in ("whiteout", "opaque"):
            self._hide(entry)
            return
        path = self._locate(entry.path, follow=entry.kind == "dir")
        if path == self._top:
            return
        if self._owner is not None:
            entry = entry._replace(uid=self._owner[0], gid=self._owner[1])
        there = self._draft.get(path)
        if entry.kind == "symlink" or (there is not None and there.kind in ("dir", "symlink") and entry.kind != "dir"):
            self._real.clear()
        if entry.kind == "hardlink":
            self._link(path, entry)
            return
        xattrs = tuple(pair for pair in entry.xattrs if pair[0] == CAPABILITY)
        source = None if member.source is None else (member.source, member.offset)
        self._draft.put(Copied(entry._replace(path=path, xattrs=xattrs), source=source))

    def _locate(self, path: bytes, *, follow: bool) -> bytes:
        """The real path of a member, the directories above it made."""
        above, _, last = path.rpartition(b"/")
        real = self._real.get(above)
        if real is None:
            real = self._inside(above)
            self._draft.make_dirs(real, 0o755, (0, 0), self._mtime)
            self._real[above] = real
        candidate = join(real, last)
        if follow:
            there = self._draft.get(candidate)
            if there is not None and there.kind == "symlink":
                found = self._inside(path)
                self._draft.make_dirs(parent(found), 0o755, (0, 0), self._mtime)
                return found
        return candidate

    def _inside(self, path: bytes, *, follow_last: bool = True) -> bytes:
        """The real path behind a member's name. Raises `CopyError` for a relative link that climbs out of the destination."""
        return join(self._top, follow(path, self._link_text, follow_last=follow_last))

    def _link_text(self, path: bytes) -> bytes | None:
        """The text of the symlink at a path relative to the destination."""
        text = self._draft.link(join(self._top, path))
        if text is not None and not text.startswith(b"/"):
            depth = path.count(b"/")
            for part in text.split(b"/"):
                depth += -1 if part == b".." else part not in (b"", b".")
                if depth < 0:
                    raise CopyError(f"archive symlink {show(path)} points outside extraction root",
                                    hint=f"it is a link to {text.decode('utf-8', 'backslashreplace')}, and members lie behind it")
        return text

    def _link(self, path: bytes, entry: Entry) -> None:
        """A hard link: to a member before it, or to a file of the image, of which the layer then has a copy."""
        draft = self._draft
        name = clean(entry.link)
        target = self._inside(name, follow_last=False)
        if target != path:
            draft.remove(path)
        there = draft.get(target)
        if there is None or there.kind == "dir" or target == path or target == self._top:
            raise CopyError(f"archive hardlink {show(entry.path)} targets {show(name)}, which is "
                            + ("a directory" if there is not None and there.kind == "dir" else "not there"))
        planned = draft.entries.get(target)
        if planned is None:
            planned = draft.entries[target] = Copied(there, below=target if there.kind == "file" else None)
        if there.kind != "file":
            # Only regular files have hard links in a layer: a second symlink or device is as good.
            draft.put(Copied(planned.entry._replace(path=path)))
            return
        holder = planned.entry.link if planned.entry.kind == "hardlink" else target
        content = draft.entries[holder]
        shared = content.entry._replace(uid=entry.uid, gid=entry.gid, mode=entry.mode, mtime=entry.mtime)
        draft.entries[holder] = content._replace(entry=shared)
        draft.put(Copied(link_entry(path, holder, shared)))

    def _hide(self, entry: Entry) -> None:
        """A member that is named like a whiteout becomes one in the layer: it deletes from the image, not from the archive."""
        above = self._locate(entry.path if entry.kind == "whiteout" else join(entry.path, b"-"), follow=False)
        path = above if entry.kind == "whiteout" else parent(above)
        self._draft.hide(path, entry.kind)
