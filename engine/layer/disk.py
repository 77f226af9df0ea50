"""Entries written into a directory. Below it nobody else works at the same time; what is in it may be hostile, and so may names.

Paths given here are real: `enter` makes them so, and everything then happens relative to a descriptor of the directory. Owners,
devices and attributes that the machine does not allow are left out; anything else that fails is a `StorageError`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from types import TracebackType
from typing import Literal

from engine.errors import ContentError, StorageError
from engine.isolate.base import IdMap
from engine.isolate.copies import remove_tree
from engine.layer.contents import inside, show
from engine.layer.entries import Entry

Style = Literal["overlay-trusted", "overlay-user", "plain"]
"""How whiteouts and opaque directories are kept: as overlayfs wants them (with attributes of root or of a user), or not at all."""

_REFUSED = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EOVERFLOW, errno.ENODATA)
_DEVICES = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO}
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LONG = 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Disk:
    """A directory to write into. A context manager; `finish` gives the directories their modes and times."""

    def __init__(self, directory: str, *, style: Style = "plain", owners: bool = True, ids: IdMap | None = None) -> None:
        self._directory = os.fsencode(directory)
        self.style = style
        self._owners = owners
        self._ids = ids or IdMap("identity")
        self._umask = _umask()
        self._self = os.geteuid(), os.getegid()
        self._dirs: dict[bytes, Entry] = {}
        self._fresh: set[bytes] = set()
        self._times: dict[bytes, int] = {}
        self._entered: dict[bytes, bytes] = {}
        self.holding: set[bytes] = set()
        """Directories that were entered, and all above them."""
        self.root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._heed(os.fstat(self.root))

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self.root)

    def enter(self, path: bytes) -> bytes:
        """The real path of a directory, whose symlinks are followed inside the root; what is missing of it is made. When entries
        are put into it, its time stays as it is."""
        real = self._entered.get(path)
        if real is not None:
            return real
        real = inside(path, self._link)
        parts = real.split(b"/") if real else []
        for i in range(len(parts) + 1):
            at = b"/".join(parts[:i])
            if at in self.holding:
                continue
            try:
                found = os.stat(at or b".", dir_fd=self.root, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    raise ContentError(f"{show(path)}: below something that is no directory")
                self._times.setdefault(at, found.st_mtime_ns)
                self._heed(found)
            except FileNotFoundError:
                self.implicit(at)
            self.holding.add(at)
        self._entered[path] = real
        return real

    def find(self, path: bytes) -> bytes:
        """The real path of a directory that need not be there."""
        real = inside(path, self._link)
        if real not in self._times and real not in self._dirs:
            try:
                found = os.stat(real or b".", dir_fd=self.root, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                return real
            if stat.S_ISDIR(found.st_mode):
                self._times[real] = found.st_mtime_ns
        return real

    def implicit(self, path: bytes) -> None:
        """Makes a directory that only has to be there: root's, mode 755."""
        os.mkdir(path, 0o755, dir_fd=self.root)
        if self._umask & 0o755:
            os.chmod(path, 0o755, dir_fd=self.root)

    def directory(self, entry: Entry) -> None:
        """A directory; one that is there keeps what is in it."""
        path = entry.path
        if path:
            try:
                os.mkdir(path, 0o755, dir_fd=self.root)
                self._fresh.add(path)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(path, dir_fd=self.root, follow_symlinks=False).st_mode):
                    self.remove(path)
                    os.mkdir(path, 0o755, dir_fd=self.root)
        self._dirs[path] = entry

    def file(self, entry: Entry, pieces: Iterable[bytes | memoryview], sparse: tuple[tuple[int, int], ...] | None = None) -> None:
        """A regular file of what `pieces` give."""
        file = self.create(entry)
        try:
            if sparse is None:
                for piece in pieces:
                    while (done := os.write(file, piece)) < len(piece):
                        piece = piece[done:]
            else:
                write_sparse(file, pieces, sparse, entry.size)
            self.seal(file, entry)
        finally:
            os.close(file)

    def create(self, entry: Entry) -> int:
        """A new file's descriptor, which the caller closes."""
        try:
            return os.open(entry.path, _NEW, entry.mode & 0o777, dir_fd=self.root)
        except FileExistsError:
            self.remove(entry.path)
            return os.open(entry.path, _NEW, entry.mode & 0o777, dir_fd=self.root)

    def seal(self, file: int, entry: Entry) -> None:
        """Owner, mode, attributes and time of an open file or directory that has its content."""
        mode, mtime = entry.mode, entry.mtime
        if self._other(entry):
            _allowed(os.fchown, file, entry.uid, entry.gid)
        if mode & 0o7000 or mode & self._umask:
            os.fchmod(file, mode)
        if entry.xattrs:
            self._attributes(file, entry)
        os.utime(file, ns=(mtime, mtime))

    def symlink(self, entry: Entry) -> None:
        """A symlink, whatever it points to."""
        path, mtime = entry.path, entry.mtime
        try:
            os.symlink(entry.link, path, dir_fd=self.root)
        except FileExistsError:
            self.remove(path)
            os.symlink(entry.link, path, dir_fd=self.root)
        if self._other(entry):
            _allowed(os.chown, path, entry.uid, entry.gid, dir_fd=self.root, follow_symlinks=False)
        os.utime(path, ns=(mtime, mtime), dir_fd=self.root, follow_symlinks=False)

    def hardlink(self, entry: Entry) -> bool:
        """Another name of a file; False when that is not here."""
        for again in (True, False):
            try:
                os.link(entry.link, entry.path, src_dir_fd=self.root, dst_dir_fd=self.root, follow_symlinks=False)
                break
            except FileExistsError:
                if not again or self._same(entry.link, entry.path):
                    break
                self.remove(entry.path)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def node(self, entry: Entry) -> None:
        """A device or fifo, where the machine allows it."""
        if entry.kind == "char" and not entry.major and not entry.minor and self.style != "plain":
            return  # overlayfs would take it for a whiteout
        path = entry.path
        try:
            made = self._node(path, entry)
        except FileExistsError:
            self.remove(path)
            made = self._node(path, entry)
        if made:
            if self._other(entry):
                _allowed(os.chown, path, entry.uid, entry.gid, dir_fd=self.root)
            os.chmod(path, entry.mode, dir_fd=self.root)
            os.utime(path, ns=(entry.mtime, entry.mtime), dir_fd=self.root)

    def whiteout(self, path: bytes) -> None:
        """What hides a path in the layers below, as overlayfs has it."""
        if self.style != "plain":
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0), dir_fd=self.root)

    def opaque(self, path: bytes) -> None:
        """What hides everything below a directory in the layers below, as overlayfs has it."""
        if self.style != "plain":
            file = os.open(path or b".", _DIRECTORY, dir_fd=self.root)
            try:
                os.setxattr(file, f"{self.style.removeprefix('overlay-')}.overlay.opaque", b"y")
            finally:
                os.close(file)

    def remove(self, path: bytes) -> None:
        """Removes a path and all below it; no error when there is nothing."""
        try:
            mode = os.stat(path, dir_fd=self.root, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        if stat.S_ISDIR(mode):
            self._forget(path)
            if len(path) > _LONG:  # which may be too long when the root's is before it
                self.find(b"")  # whose time stays as it is
                short = b".removed-" + os.urandom(8).hex().encode()
                os.rename(path, short, src_dir_fd=self.root, dst_dir_fd=self.root)
                path = short
            remove_tree(os.path.join(self._directory, path))
            return
        if stat.S_ISLNK(mode):
            self._entered.clear()
        os.unlink(path, dir_fd=self.root)

    def mode(self, path: bytes) -> int | None:
        """Kind and permissions (st_mode) of what is at a path, None for nothing."""
        try:
            return os.stat(path, dir_fd=self.root, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None

    def names(self, path: bytes) -> list[bytes]:
        """What is in a directory; empty when it is none."""
        try:
            file = os.open(path or b".", _DIRECTORY, dir_fd=self.root)
        except (FileNotFoundError, NotADirectoryError, OSError):
            return []
        try:
            return [os.fsencode(name) for name in os.listdir(file)]
        finally:
            os.close(file)

    def finish(self) -> None:
        """Gives directories their owners, modes, attributes and times, the deepest first."""
        for path, time in self._times.items():
            if path not in self._dirs:
                os.utime(path or b".", ns=(time, time), dir_fd=self.root, follow_symlinks=False)
        for entry in sorted(self._dirs.values(), key=lambda entry: entry.path, reverse=True):
            self._finish(entry)

    def _finish(self, entry: Entry) -> None:
        path, mode = entry.path or b".", entry.mode
        new = entry.path in self._fresh
        if self._other(entry) or (not new and self._owners and self._ids.holds(entry.uid, entry.gid)):
            _allowed(os.chown, path, entry.uid, entry.gid, dir_fd=self.root, follow_symlinks=False)
        if not new or mode != 0o755 or self._umask & 0o755 or self._self[0] < 0:
            os.chmod(path, mode, dir_fd=self.root)
        if entry.xattrs:
            file = os.open(path, _DIRECTORY, dir_fd=self.root)
            try:
                self._attributes(file, entry)
            finally:
                os.close(file)
        os.utime(path, ns=(entry.mtime, entry.mtime), dir_fd=self.root, follow_symlinks=False)

    def _forget(self, path: bytes) -> None:
        """What was remembered of a directory that goes away must not be applied to what takes its place."""
        below = path + b"/"

        def gone(each: bytes) -> bool:
            return each == path or each.startswith(below)

        self._entered.clear()
        self.holding = {each for each in self.holding if not gone(each)}
        self._fresh = {each for each in self._fresh if not gone(each)}
        self._dirs = {each: entry for each, entry in self._dirs.items() if not gone(each)}
        self._times = {each: time for each, time in self._times.items() if not gone(each)}

    def _heed(self, found: os.stat_result) -> None:
        """In a directory with the setgid bit new files belong to its group, and new directories have the bit too."""
        if found.st_mode & stat.S_ISGID:
            self._self = -1, -1

    def _other(self, entry: Entry) -> bool:
        """Whether a file has to be given to somebody, and may be."""
        return self._owners and (entry.uid, entry.gid) != self._self and self._ids.holds(entry.uid, entry.gid)

    def _attributes(self, file: int, entry: Entry) -> None:
        for name, value in entry.xattrs:
            if not name.startswith(("trusted.overlay.", "user.overlay.")):  # these would tell overlayfs what to do
                _allowed(os.setxattr, file, name, value)

    def _node(self, path: bytes, entry: Entry) -> bool:
        return _allowed(os.mknod, path, _DEVICES[entry.kind] | 0o600, _device(entry), dir_fd=self.root)

    def _link(self, path: bytes) -> bytes | None:
        if path in self.holding:
            return None
        try:
            return os.readlink(path, dir_fd=self.root)
        except OSError:
            return None

    def _same(self, one: bytes, other: bytes) -> bool:
        first, second = (os.stat(path, dir_fd=self.root, follow_symlinks=False) for path in (one, other))
        return os.path.samestat(first, second)


def write_sparse(file: int, pieces: Iterable[bytes | memoryview], sparse: Iterable[tuple[int, int]], end: int,
                 start: int = 0) -> None:
    """A sparse file's parts at their places after `start`, with holes between them, up to `end`."""
    segments = iter(sparse)
    at = left = 0
    for piece in pieces:
        while piece:
            while not left:
                at, left = next(segments)
            done = os.pwrite(file, piece[:left], start + at)
            at, left, piece = at + done, left - done, piece[done:]
    os.ftruncate(file, end)


def failed(path: bytes, error: OSError) -> StorageError:
    """The error for what could not be written."""
    hint = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    return StorageError(f"cannot write {show(path)}: {error.strerror}", hint=hint)


def _allowed(call: object, *args: object, **options: object) -> bool:
    """Whether the machine allowed it."""
    try:
        call(*args, **options)  # type: ignore[operator]  # the os functions have too many signatures to say more
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return False
    return True


def _device(entry: Entry) -> int:
    try:
        return os.makedev(entry.major, entry.minor)
    except (OverflowError, ValueError) as error:
        raise ContentError(f"{show(entry.path)}: a device {entry.major}:{entry.minor} cannot be") from error


def _umask() -> int:
    """The mask for new files. It is read from /proc since asking the kernel for it means to set it, for all threads."""
    try:
        with open("/proc/self/status", "rb") as status:
            return next(int(line[6:], 8) for line in status if line.startswith(b"Umask:"))
    except (OSError, StopIteration):
        return 0o777
