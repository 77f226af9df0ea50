"""Mounts without mounting: for the time of a run, things are put in place in a plain directory, and put back after it.

What was at a target is moved aside, next to the root, and back later. A read-only or discarding bind is a copy; a writable
one (a cache) is the real files: the children of its directory are moved in and back, under a lock on that directory, or copied
in and back where the filesystems differ. A journal beside the root says where they are, so that `recover` finds a cache's files
again in the root of a supervisor that was killed; nothing else of such a root is of use.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from errno import EXDEV

from msgspec import Struct

from engine.errors import IsolationError
from engine.isolate import syscalls
from engine.isolate.base import BindMount, DirectoryRoot, FileMount, Mount, RunSpec, SocketMount, TmpfsMount
from engine.isolate.copies import copy_metadata, copy_tree, remove_tree
from engine.isolate.paths import Confined
from engine.isolate.supervise import Watch

_NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_JOURNAL = "journal"


def aside(root: str) -> str:
    """The directory beside a root that holds what was moved out of its way."""
    return f"{root}.aside"


def recover(root: str) -> None:
    """Moves a cache's files back out of a root whose supervisor was killed. To be called before such a root is removed."""
    try:
        with open(f"{aside(root)}/{_JOURNAL}", "rb") as file:
            lines = file.read().split(b"\0\n")[:-1]
    except OSError:
        return
    for line in reversed(lines):
        origin, place = line.split(b"\0")
        with suppress(OSError):
            _move_children(place, origin)


class Stage:
    """A plain directory as the root of one run."""

    def __init__(self, root: str) -> None:
        self._root = Confined(root)
        self._aside = aside(root)
        self._count = 0
        self._undo: list[Callable[[], None]] = []
        self._touched: list[_Touched] = []
        self._moved: dict[tuple[int, int], str] = {}

    def make(self, spec: RunSpec, watch: Watch) -> None:
        """Puts everything in place; raises `OSError` or `IsolationError`. `remove` must be called in any case."""
        remove_tree(self._aside)
        os.mkdir(self._aside, 0o700)
        self._undo.append(lambda: remove_tree(self._aside))
        self._lock_origins(spec.mounts, watch)
        for name in ("proc", "dev", "sys"):
            os.close(self._root.own_directory(name))
        os.close(self._root.open_or_make(spec.cwd, directory=True, keep=True))
        for name, numbers in _NODES.items():
            self._make_node(f"dev/{name}", numbers)
        for file, text in (("/etc/hosts", spec.hosts), ("/etc/resolv.conf", spec.resolv_conf)):
            if text is not None:
                self._put(FileMount(file, text.encode(), 0o644), watch)
        for mount in spec.mounts:
            try:
                self._put(mount, watch)
            except OSError as error:
                raise IsolationError(f"mount at {mount.target}: {error}") from error
        for touched in self._touched:
            touched.after = _mtime(touched.directory)

    def remove(self) -> None:
        """Takes everything out again, last things first, whatever fails on the way; then raises `IsolationError` for the first
        failure. A directory in which the command did nothing gets its times back."""
        failures: list[OSError] = []
        for touched in self._touched:
            if _mtime(touched.directory) != touched.after:
                touched.times = _times(touched.directory)
        while self._undo:
            try:
                self._undo.pop()()
            except OSError as error:
                failures.append(error)
        for touched in reversed(self._touched):
            os.utime(syscalls.at(touched.directory), ns=touched.times)
            os.close(touched.directory)
        self._root.remove_made()
        self._root.close()
        if failures:
            raise IsolationError(f"the root could not be put back as it was: {failures[0]}") from failures[0]

    def _lock_origins(self, mounts: tuple[Mount, ...], watch: Watch) -> None:
        """Locks the directories that files will be moved from or copied from; every process does so in the same order."""
        wanted: dict[tuple[int, int], tuple[int, int]] = {}
        for mount in mounts:
            if isinstance(mount, BindMount):
                path = _open_source(mount)
                fd = os.open(syscalls.at(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                os.close(path)
                self._undo.append(lambda fd=fd: os.close(fd))  # type: ignore[misc]  # a default binds the loop's value
                found = os.fstat(fd)
                key = found.st_dev, found.st_ino
                how = fcntl.LOCK_EX if _moves(mount) else fcntl.LOCK_SH
                wanted[key] = (fd, min(how, wanted.get(key, (fd, how))[1]) if how == fcntl.LOCK_SH else how)
        for _, (fd, how) in sorted(wanted.items()):
            while not _try_lock(fd, how):
                watch.pause(0.02)

    def _make_node(self, target: str, numbers: tuple[int, int]) -> None:
        if self._exists(target):
            return
        path = self._vacate(target)
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*numbers))
        except PermissionError:
            if not target.endswith("null"):
                return
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC))  # at least something to write to
        os.chmod(path, 0o666)

    def _exists(self, target: str) -> bool:
        try:
            os.close(self._root.open(target))
        except OSError:
            return False
        return True

    def _vacate(self, target: str) -> bytes:
        """A path for something new at a target: what is there is moved aside, and comes back when the new thing is removed."""
        directory, name = self._root.place(target)
        path = os.path.join(os.fsencode(syscalls.at(directory)), name)
        self._touched.append(_Touched(directory, _times(directory)))
        kept = None
        if os.path.lexists(path):
            self._count += 1
            kept = f"{self._aside}/{self._count}"
            os.rename(path, kept)

        def restore() -> None:
            remove_tree(path)
            if kept is not None:
                os.rename(kept, path)

        self._undo.append(restore)
        return path

    def _put(self, mount: Mount, watch: Watch) -> None:
        path = self._vacate(mount.target)
        match mount:
            case TmpfsMount():
                os.mkdir(path)
                os.chmod(path, 0o1777)
            case FileMount():
                with open(path, "xb") as file:
                    file.write(mount.content)
            case SocketMount():
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                listener.bind(path)
                listener.listen(16)
                watch.relay(listener, mount.socket)
            case BindMount():
                source = _open_source(mount)
                self._undo.append(lambda: os.close(source))
                self._bind(mount, os.fsencode(syscalls.at(source)), path)
        if isinstance(mount, (FileMount, SocketMount)):
            os.chown(path, mount.uid, mount.gid)
            os.chmod(path, mount.mode)

    def _bind(self, mount: BindMount, source: bytes, path: bytes) -> None:
        if not _moves(mount):
            copy_tree(source, path)
            return
        if not os.path.isdir(source):
            copy_tree(source, path)
            self._undo.append(lambda: _write_over(path, source))
            return
        found = os.stat(source)
        first = self._moved.setdefault((found.st_dev, found.st_ino), mount.target)
        if first != mount.target:
            os.symlink(os.path.join("/", first), path)  # its files can be in one place only
            return
        os.mkdir(path)
        copy_metadata(source, path)
        self._note(source, path)

        def back() -> None:
            copy_metadata(path, source)
            _move_children(path, source)

        self._undo.append(back)
        _move_children(source, path)
        copy_metadata(source, path)

    def _note(self, source: bytes, path: bytes) -> None:
        """Writes in the journal which directory's files are where."""
        place = os.path.join(os.readlink(os.path.dirname(path)), os.path.basename(path))
        with open(f"{self._aside}/{_JOURNAL}", "ab") as journal:
            journal.write(os.readlink(source) + b"\0" + place + b"\0\n")


class _Touched(Struct):
    """An open directory that something was put in, the times it shall have at the end, and its mtime when all was in place."""

    directory: int
    times: tuple[int, int]
    after: int = 0


def _times(fd: int) -> tuple[int, int]:
    found = os.stat(syscalls.at(fd))
    return found.st_atime_ns, found.st_mtime_ns


def _mtime(fd: int) -> int:
    return _times(fd)[1]


def _moves(mount: BindMount) -> bool:
    return isinstance(mount.origin, str) and not mount.readonly and not mount.discard_writes


def _open_source(mount: BindMount) -> int:
    if isinstance(mount.origin, str):
        path = mount.origin
    elif isinstance(mount.origin, DirectoryRoot):
        path = mount.origin.path
    else:
        raise IsolationError("isolation chroot binds from plain directories only")
    try:
        origin = Confined(path)
        try:
            return origin.open(mount.source)
        finally:
            origin.close()
    except OSError as error:
        raise IsolationError(f"mount at {mount.target}: {mount.source or path}: {(error.strerror or '').lower()}") from error


def _try_lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a filesystem without locks
        return True
    return True


def _move_children(source: bytes, target: bytes) -> None:
    """Moves all that is in one directory into another."""
    for name in os.listdir(source):
        old, new = os.path.join(source, name), os.path.join(target, name)
        try:
            os.rename(old, new)
        except OSError as error:
            if error.errno != EXDEV:
                raise
            remove_tree(new)
            _copy_link_or_tree(old, new)
            remove_tree(old)


def _copy_link_or_tree(old: bytes, new: bytes) -> None:
    if os.path.islink(old):
        os.symlink(os.readlink(old), new)
    else:
        copy_tree(old, new)


def _write_over(path: bytes, source: bytes) -> None:
    with open(path, "rb") as new, open(source, "wb") as old:
        while chunk := new.read(1 << 20):
            old.write(chunk)
