"""Paths inside a root that nobody trusts: resolving them without leaving it, and making what a mount needs to stand on.

A root's symlinks may point anywhere and its directories may change under our feet (another step shares a cache mount), so a
path is walked one component at a time with directory descriptors, links are expanded by hand, and `..` never climbs above
the root. This is openat2(2)'s RESOLVE_IN_ROOT, which old kernels and strict seccomp filters do not have and which cannot
create what is missing.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from errno import ELOOP, ENOENT, ENOTDIR

from msgspec import Struct

_MAX_LINKS = 255
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ANY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class _Made(Struct):
    """A name that was created in an open directory, and that directory's times before and just after."""

    directory: int
    name: bytes
    is_dir: bool
    before: tuple[int, int]
    after: tuple[int, int]


def _times(fd: int) -> tuple[int, int]:
    found = os.stat(f"/proc/self/fd/{fd}")
    return found.st_atime_ns, found.st_mtime_ns


def _set_times(fd: int, times: tuple[int, int]) -> None:
    os.utime(f"/proc/self/fd/{fd}", ns=times)


def _components(path: bytes) -> list[bytes]:
    """The names of a path, the first last."""
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]


class Confined:
    """Opens and creates paths below a root directory, and takes back what it created."""

    def __init__(self, root: str | int) -> None:
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if isinstance(root, str) else root
        self._made: list[_Made] = []

    def fileno(self) -> int:
        """The descriptor of the root."""
        return self._root

    def open(self, path: str | bytes) -> int:
        """An O_PATH descriptor of what a path leads to, links followed inside the root; raises `OSError`."""
        return self._walk(os.fsencode(path), None, keep=False)

    def open_or_make(self, path: str | bytes, *, directory: bool, keep: bool = False) -> int:
        """Like `open`, but creates what is missing: directories of mode 0755, and a directory or an empty file at the end.
        `remove_made` takes it away again unless `keep`."""
        return self._walk(os.fsencode(path), directory, keep=keep)

    def own_directory(self, name: str) -> int:
        """The directory of this name in the root, created to stay when it is missing; raises `NotADirectoryError` for anything
        else, a symlink too."""
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=self._root)
        return os.open(name, _DIRECTORY, dir_fd=self._root)

    def place(self, path: str | bytes) -> tuple[int, bytes]:
        """The open directory, created when missing, and the name in it that a path leads to, links followed, whether or not
        there is something of that name."""
        whole = os.fsencode(path)
        for _ in range(_MAX_LINKS):
            above, _, name = whole.rstrip(b"/").rpartition(b"/")
            if name in (b"", b".", b".."):
                raise OSError(ENOENT, f"{os.fsdecode(path)}: is no name for a file")
            directory = self.open_or_make(above, directory=True)
            try:
                text = os.readlink(name, dir_fd=directory)
            except OSError:  # there is no link of that name
                return directory, name
            os.close(directory)
            whole = text if text.startswith(b"/") else above + b"/" + text
        raise OSError(ELOOP, f"{os.fsdecode(path)}: too many symbolic links")

    def _walk(self, path: bytes, make: bool | None, *, keep: bool) -> int:
        """Walks a path; `make`: None creates nothing, True a directory at the end, False a file."""
        stack = [os.dup(self._root)]
        todo = _components(path)
        links = 0
        try:
            while todo:
                name = todo.pop()
                if name == b"..":
                    if len(stack) > 1:
                        os.close(stack.pop())
                    continue
                mode = self._look(stack[-1], name, None if make is None else make or bool(todo), keep=keep)
                if stat.S_ISLNK(mode):
                    links += 1
                    if links > _MAX_LINKS:
                        raise OSError(ELOOP, f"{os.fsdecode(path)}: too many symbolic links")
                    text = os.readlink(name, dir_fd=stack[-1])
                    while text.startswith(b"/") and len(stack) > 1:
                        os.close(stack.pop())
                    todo += _components(text)
                    continue
                if todo and not stat.S_ISDIR(mode):
                    raise OSError(ENOTDIR, f"{os.fsdecode(path)}: {os.fsdecode(name)} is not a directory")
                stack.append(os.open(name, _DIRECTORY if todo else _ANY, dir_fd=stack[-1]))
            return stack.pop()
        finally:
            for fd in stack:
                os.close(fd)

    def _look(self, here: int, name: bytes, make: bool | None, *, keep: bool) -> int:
        """The mode of what has a name in a directory, where it is created if need be and wanted."""
        try:
            return os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
        except FileNotFoundError:
            if make is None:
                raise
        self._make(here, name, directory=make, keep=keep)
        return os.stat(name, dir_fd=here, follow_symlinks=False).st_mode

    def _make(self, here: int, name: bytes, *, directory: bool, keep: bool) -> None:
        before = _times(here)
        if directory:
            os.mkdir(name, 0o755, dir_fd=here)
            os.chmod(name, 0o755, dir_fd=here)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=here))
        if not keep:
            self._made.append(_Made(os.dup(here), name, directory, before, _times(here)))

    def remove_made(self) -> None:
        """Removes what was created and is still empty, newest first. A directory that nothing else was done in gets its times
        back from before; otherwise it keeps those that the command gave it."""
        while self._made:
            made = self._made.pop()
            try:
                now = _times(made.directory)
                if made.is_dir:
                    os.rmdir(made.name, dir_fd=made.directory)
                elif os.stat(made.name, dir_fd=made.directory, follow_symlinks=False).st_size == 0:
                    os.unlink(made.name, dir_fd=made.directory)
                _set_times(made.directory, made.before if now[1] == made.after[1] else now)
            except OSError:
                pass  # not empty any more, or gone: then it is the command's
            finally:
                os.close(made.directory)

    def close(self) -> None:
        """Closes the root."""
        os.close(self._root)
