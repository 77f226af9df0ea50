"""A directory on disk as a file tree, without what is ignored.

Directories are listed when they are first asked for, and once: a build sees one state of its context. Nothing leads out of
it, since only real directories are listed and the rest of a path is looked up in these lists. Owners and extended attributes of a
context do not come into an image; here everything is root's.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from stat import S_IFLNK
from threading import Lock

from engine.context.faults import show, unreadable
from engine.context.filekeys import FileKey
from engine.context.files import Files, Some
from engine.context.listing import DIRECTORY, Listing, Row
from engine.context.rules import IgnoreRules
from engine.context.subtree import DirectorySubtree
from engine.layer.base import file_state
from engine.layer.entries import Entry, ancestors, join

READ_LIMIT = 8 << 20
"""Bytes that `read` gives at most."""

_TYPE = 0o170000


class DirectoryTree:
    """Implements `engine.layer.base.FileTree` and `Subtrees`. Raises `ContextError` for a directory that cannot be listed."""

    def __init__(self, root: str, rules: IgnoreRules | None = None) -> None:
        """`root` is an absolute path of a directory."""
        self.root = root
        self._root = os.fsencode(root)
        self._rules = rules
        self._listings: dict[bytes, Listing] = {}
        self._states: dict[bytes, int] = {b"": 0}
        """What ignore rules found for directories."""
        self._lossy: set[bytes] = set()
        """Directories in which something is ignored."""
        self._listing_one = Lock()  # steps look for their files in threads
        try:
            status = os.stat(self._root)
        except OSError as error:
            raise unreadable(b"", error) from error
        self._itself = status.st_dev, status.st_ino
        self._top = Entry(b"", "dir", status.st_mode & 0o7777, mtime=status.st_mtime_ns)

    def get(self, path: bytes) -> Entry | None:
        """See `FileTree`. Sockets are empty files."""
        if not path:
            return self._top
        listing, at = self._find(path)
        return listing.entry(at, path) if listing is not None else None

    def children(self, path: bytes) -> Sequence[bytes]:
        """See `FileTree`."""
        listing = self._listing(path)
        return listing.names if listing is not None else ()

    def source(self, path: bytes) -> tuple[bytes, int]:
        """See `FileTree`."""
        listing, at = self._find(path)
        return (self._root + b"/" + path if listing is not None and listing.is_file(at) else b"/dev/null"), 0

    def identity(self, path: bytes) -> object | None:
        """See `FileTree`."""
        listing, at = self._find(path)
        return listing.identity(at) if listing is not None and listing.has_other_names(at) else None

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
        listing, at = self._find(path)
        return listing.key(at) if listing is not None and listing.is_file(at) else None

    def state(self, path: bytes) -> tuple[int, int] | None:
        """See `Subtrees`."""
        listing, at = self._find(path)
        return file_state(listing.inodes[at], listing.ctimes[at]) if listing is not None and listing.is_file(at) else None

    def pick(self, paths: Iterable[bytes]) -> Files:
        """The regular files at some paths, but for empty ones. Raises `KeyError` for a path at which nothing is."""
        found: dict[bytes, tuple[Listing, array[int]]] = {}
        for path in paths:
            listing, at = self._find(path)
            if listing is None:
                raise KeyError(path)
            if listing.sizes[at]:
                prefix = path[: len(path) - len(listing.names[at])]
                found.setdefault(prefix, (listing, array("L")))[1].append(at)
        return Files([Some(prefix, *some) for prefix, some in found.items()])

    def names(self, paths: Iterable[bytes]) -> dict[bytes, bytes]:
        """Paths of regular files, and all other paths that are seen to be the same files; each with the one it was found by."""
        out = {path: path for path in paths}
        linked = {key: path for path in out if self.identity(path) is not None and (key := self.key(path)) is not None}
        if linked:
            for directory, listing in list(self._listings.items()):
                for at in listing.linked:
                    if (found := linked.get(listing.key(at))) is not None:
                        out.setdefault(join(directory, listing.names[at]), found)
        return out

    def digest(self, path: bytes) -> bytes | None:
        """The digest of a regular file's content, if it has been learned."""
        listing, at = self._find(path)
        return listing.digest(at) if listing is not None else None

    def learn(self, path: bytes, digest: bytes) -> None:
        """Takes up the digest of a regular file's content."""
        listing, at = self._find(path)
        if listing is not None:
            listing.learn(at, digest)

    def subtree(self, path: bytes, told: Callable[[int], None] | None = None) -> DirectorySubtree | None:
        """See `Subtrees`. Lists all that is not listed yet."""
        parts: list[tuple[bytes, Listing]] = []
        todo = [path]
        skip, count = len(path) + 1 if path else 0, 0
        while todo:
            directory = todo.pop()
            listing = self._listing(directory)
            if listing is None or listing.odd:
                return None
            parts.append((directory[skip:] + b"/" if len(directory) > len(path) else b"", listing))
            prefix = directory + b"/" if directory else b""
            todo += [prefix + name for name in listing.directories()]
            if told is not None:
                count += len(listing)
                told(count)
        return DirectorySubtree(path, join(self._root, path), parts)

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
            listing = self._listing(directory)
            if directory in self._lossy:
                return True
            if listing is not None:
                todo += [join(directory, name) for name in listing.directories()]
        return False

    def _find(self, path: bytes) -> tuple[Listing | None, int]:
        """Where something is: the listing of its directory, and its place there; no listing if it is not there."""
        head, _, tail = path.rpartition(b"/")
        listing = self._listings.get(head) or self._listing(head)
        if listing is None or (at := listing.place(tail)) < 0:
            return None, -1
        return listing, at

    def _listing(self, path: bytes) -> Listing | None:
        """A directory's listing, made if need be as are those of the directories above; None if it is no directory."""
        found = self._listings.get(path)
        if found is not None:
            return found
        with self._listing_one:
            for directory in (b"", *ancestors(path), path) if path else (b"",):
                if directory not in self._listings:
                    if directory:
                        head, _, tail = directory.rpartition(b"/")
                        above = self._listings[head]
                        at = above.place(tail)
                        if at < 0 or above.kinds[at] != DIRECTORY:
                            return None
                    self._list(directory)
            return self._listings[path]

    def _list(self, directory: bytes) -> None:
        """Lists a directory. One in it that is ignored is listed too if something in it may not be, and goes if nothing is."""
        listings: dict[bytes, Listing] = {}
        doubtful = self._scan(directory, listings)
        for inner in doubtful:
            doubtful.extend(self._scan(inner, listings))  # while it is walked: an ignored directory may hold others
        for inner in reversed(doubtful):
            if not len(listings[inner]):
                above, _, name = inner.rpartition(b"/")
                listings[above] = listings[above].without((name,))
                self._lossy.add(above)
                del listings[inner]
        self._listings.update(listings)

    def _scan(self, directory: bytes, listings: dict[bytes, Listing]) -> list[bytes]:
        """Takes up the visible children of a directory, and ignored directories that may have visible ones; returns these."""
        prefix = directory + b"/" if directory else b""
        rules = self._rules
        above = self._states.get(directory, 0)
        rows: list[Row] = []
        doubtful: list[bytes] = []
        path = directory
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
                    status = item.stat(follow_symlinks=False)
                    rows.append((name, status, os.readlink(item.path) if status.st_mode & _TYPE == S_IFLNK else b""))
        except OSError as error:
            raise unreadable(path, error) from error
        listings[directory] = Listing(rows, self._number(directory, listings))
        return doubtful

    def _number(self, directory: bytes, listings: dict[bytes, Listing]) -> tuple[int, int]:
        """A directory's device and inode; the one above it is listed, if only in `listings`."""
        if not directory:
            return self._itself
        above, _, name = directory.rpartition(b"/")
        listing = listings[above] if above in listings else self._listings[above]
        return divmod(listing.identity(listing.place(name)), 1 << 64)
