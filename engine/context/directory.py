"""A directory on disk as a file tree, without what is ignored.

Directories are listed when they are first asked for, and once: a build sees one state of its context. Nothing leads out of
it, since only real directories are listed and the rest of a path is looked up in these lists. Owners and extended attributes of a
context do not come into an image; here everything is root's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG

from engine.context.digests import FileKey
from engine.context.faults import show, unreadable
from engine.context.rules import IgnoreRules
from engine.layer.entries import Entry, Kind, ancestors, parent

READ_LIMIT = 8 << 20
"""Bytes that `read` gives at most."""

_KINDS: dict[int, Kind] = {S_IFDIR: "dir", S_IFLNK: "symlink", S_IFIFO: "fifo", S_IFCHR: "char", S_IFBLK: "block"}
_TYPE = 0o170000
_new_entry = partial(tuple.__new__, Entry)
_new_key = partial(tuple.__new__, FileKey)


class DirectoryTree:
    """Implements `engine.layer.base.FileTree`. Raises `ContextError` for a directory that cannot be listed."""

    def __init__(self, root: str, rules: IgnoreRules | None = None) -> None:
        """`root` is an absolute path of a directory."""
        self.root = root
        self._root = os.fsencode(root)
        self._rules = rules
        self._entries: dict[bytes, Entry] = {}
        self._children: dict[bytes, list[bytes]] = {}
        self._keys: dict[bytes, FileKey] = {}
        self._linked: dict[bytes, tuple[int, int]] = {}
        self._states: dict[bytes, int] = {b"": 0}
        """What ignore rules found for directories."""
        self._numbers: dict[int, int] = {}
        self._lossy: set[bytes] = set()
        """Directories in which something is ignored."""
        try:
            self._entries[b""] = _entry(b"", os.stat(self._root))
        except OSError as error:
            raise unreadable(b"", error) from error

    def get(self, path: bytes) -> Entry | None:
        """See `FileTree`. Sockets are empty files."""
        entry = self._entries.get(path)
        if entry is None and parent(path) not in self._children and self._reach(parent(path)):
            return self._entries.get(path)
        return entry

    def children(self, path: bytes) -> Sequence[bytes]:
        """See `FileTree`."""
        names = self._children.get(path)
        if names is None:
            return self._children[path] if self._reach(path) else ()
        return names

    def source(self, path: bytes) -> tuple[bytes, int]:
        """See `FileTree`."""
        if path not in self._keys:
            return b"/dev/null", 0
        return self._root + b"/" + path, 0

    def identity(self, path: bytes) -> object | None:
        """See `FileTree`."""
        return self._linked.get(path)

    def read(self, path: bytes) -> bytes:
        """See `FileTree`."""
        entry = self.get(path)
        if entry is None or entry.kind != "file":
            raise KeyError(path)
        try:
            with open(os.open(self.source(path)[0], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                return file.read(READ_LIMIT)
        except OSError as error:
            raise unreadable(path, error) from error

    def key(self, path: bytes) -> FileKey | None:
        """What told the state of a regular file when it was listed; None for everything else."""
        return self._keys.get(path)

    def why_absent(self, path: bytes) -> str | None:
        """Why there is nothing at a path where one would look for something: the ignore file names it. None for other reasons."""
        if self._rules is not None and self.get(path) is None and os.path.lexists(self._root + b"/" + path):
            return f"{show(path)} is in the build context, but the ignore file excludes it"
        return None

    def ignored_below(self, path: bytes) -> bool:
        """Whether something at or below a path exists but is ignored."""
        entry = self.get(path)
        if entry is None:
            return os.path.lexists(self._root + b"/" + path)
        if self._rules is None or entry.kind != "dir":
            return False
        todo = [path]
        while todo:
            directory = todo.pop()
            names = self.children(directory)
            if directory in self._lossy:
                return True
            prefix = directory + b"/" if directory else b""
            todo += [prefix + name for name in names if self._entries[prefix + name].kind == "dir"]
        return False

    def _reach(self, path: bytes) -> bool:
        """Lists a directory and those above it; whether it is one."""
        for directory in (*ancestors(path), path) if not path else (b"", *ancestors(path), path):
            if directory not in self._children:
                entry = self._entries.get(directory)
                if entry is None or entry.kind != "dir":
                    return False
                self._list(directory)
        return True

    def _list(self, directory: bytes) -> None:
        """Lists a directory. One in it that is ignored is listed too if something in it may not be, and goes if nothing is."""
        doubtful = self._scan(directory)
        for inner in doubtful:
            doubtful.extend(self._scan(inner))  # while it is walked: an ignored directory may hold others
        for inner in reversed(doubtful):
            if not self._children[inner]:
                above, _, name = inner.rpartition(b"/")
                self._children[above].remove(name)
                self._lossy.add(above)
                del self._children[inner], self._entries[inner]

    def _scan(self, directory: bytes) -> list[bytes]:
        """Takes up the visible children of a directory, and ignored directories that may have visible ones; returns these."""
        prefix = directory + b"/" if directory else b""
        rules = self._rules
        above = self._states.get(directory, 0)
        names: list[bytes] = []
        doubtful: list[bytes] = []
        path = directory
        same = self._numbers.setdefault
        try:
            with os.scandir(self._root + b"/" + directory if directory else self._root) as found:
                for item in found:
                    name = item.name
                    path = prefix + name
                    if rules is not None:
                        ignored, state = rules.match(path, above)
                        directory_itself = item.is_dir(follow_symlinks=False)
                        if ignored:
                            if not directory_itself or rules.may_skip_subtree(path, state):
                                self._lossy.add(directory)
                                continue
                            doubtful.append(path)
                        if directory_itself and state:
                            self._states[path] = state
                    names.append(name)
                    status = item.stat(follow_symlinks=False)
                    mode = status.st_mode
                    if mode & _TYPE == S_IFREG:
                        size, mtime = status.st_size, status.st_mtime_ns
                        bits, device = mode & 0o7777, status.st_dev
                        bits, device = same(bits, bits), same(device, device)  # one number for all files, not one for each
                        self._entries[path] = _new_entry((path, "file", bits, 0, 0, size, mtime, b"", "", 0, 0, ()))
                        self._keys[path] = _new_key((device, status.st_ino, size, mtime, status.st_ctime_ns))
                        if status.st_nlink > 1:
                            self._linked[path] = status.st_dev, status.st_ino
                    else:
                        link = os.readlink(item.path) if mode & _TYPE == S_IFLNK else b""
                        self._entries[path] = _entry(path, status, link)
        except OSError as error:
            raise unreadable(path, error) from error
        names.sort()
        self._children[directory] = names
        return doubtful


def _entry(path: bytes, status: os.stat_result, link: bytes = b"") -> Entry:
    """The entry of anything but a regular file."""
    kind = _KINDS.get(status.st_mode & _TYPE, "file")
    mode = 0o777 if kind == "symlink" else status.st_mode & 0o7777
    major, minor = (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in ("char", "block") else (0, 0)
    return Entry(path, kind, mode, mtime=status.st_mtime_ns, link=link, major=major, minor=minor)
