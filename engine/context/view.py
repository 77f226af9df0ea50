"""A part of a context on disk, for bind mounts: what may be seen, and nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from engine.context.faults import unreadable
from engine.layer.base import FileTree
from engine.layer.entries import Entry

_PIECE = 8 << 20


def copy_visible(tree: FileTree, path: bytes, into: Path) -> None:
    """Copies what a tree has at and below a path to a directory, under the same path, with modes and times. Devices and fifos are
    left out. Raises `ContextError`."""
    top = os.fsencode(into)
    made: list[tuple[bytes, Entry]] = []
    todo = [path] if tree.get(path) is not None else []
    if todo and path:
        os.makedirs(os.path.dirname(top + b"/" + path), exist_ok=True)
    while todo:
        at = todo.pop()
        entry = tree.get(at)
        if entry is None:
            continue
        target = top + b"/" + at if at else top
        try:
            if entry.kind == "dir":
                os.makedirs(target, exist_ok=True)
                made.append((target, entry))
                todo += [at + b"/" + name if at else name for name in tree.children(at)]
            elif entry.kind == "symlink":
                os.symlink(entry.link, target)
            elif entry.kind == "file":
                _copy_file(*tree.source(at), entry.size, target)
                _finish(target, entry)
        except OSError as error:
            raise unreadable(at, error) from error
    for target, entry in reversed(made):
        _finish(target, entry)


def _copy_file(source: bytes, offset: int, size: int, target: bytes) -> None:
    origin = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            while size > 0:
                count = os.sendfile(copy, origin, offset, min(size, _PIECE))
                if not count:
                    raise OSError(0, "it is shorter than it was")
                offset += count
                size -= count
        finally:
            os.close(copy)
    finally:
        os.close(origin)


def _finish(target: bytes, entry: Entry) -> None:
    os.chmod(target, entry.mode)
    os.utime(target, ns=(entry.mtime, entry.mtime))


def remove_tree(path: Path) -> None:
    """Removes a directory of this user's, however deep it is and whatever modes are in it; what cannot be removed stays."""
    directories = [os.fsencode(path)]
    for directory in directories:
        with suppress(OSError):
            os.chmod(directory, 0o700)
            with os.scandir(directory) as found:
                for item in found:
                    if item.is_dir(follow_symlinks=False):
                        directories.append(item.path)  # while they are walked
                    else:
                        os.unlink(item.path)
    for directory in reversed(directories):
        with suppress(OSError):
            os.rmdir(directory)
