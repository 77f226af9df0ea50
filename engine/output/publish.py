"""Files and directories that appear under their name when they are complete, and not before."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from engine.errors import StorageError

_HINTS = {
    errno.ENOSPC: "the disk is full: free some space, or write to another one",
    errno.EDQUOT: "the disk quota is used up: free some space, or write to another place",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EROFS: "the filesystem is read-only",
    errno.ENOTDIR: "a part of the path is a file and not a directory",
    errno.EPIPE: "whoever reads the output has stopped",
    errno.EFBIG: "the filesystem or a limit does not allow files so large",
}


@contextmanager
def writing(destination: Path | str) -> Iterator[None]:
    """Turns an `OSError` of its body into a `StorageError` about the destination."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(f"cannot write {destination}: {why}", hint=_HINTS.get(error.errno or 0)) from error


@contextmanager
def new_file(destination: Path, by_way_of: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write, published when the body ends well. What exists and is no regular file (a pipe, a device) is written to as
    it is. `by_way_of` is the directory, on the same filesystem, that it is written in first: usually its own. Raises `OSError`, and
    `StorageError` for a directory."""
    try:
        mode = os.stat(destination).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise StorageError(f"cannot write {destination}: it is a directory", hint="name a file, or add tar=false for a directory")
    if not stat.S_ISREG(mode):
        with open(destination, "wb", buffering=0) as file:
            yield file
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(by_way_of / destination.name if by_way_of else destination)
    try:
        with open(temporary, "xb", buffering=0) as file:
            yield file
        os.replace(temporary, destination)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def new_directory(destination: Path, publish: Callable[[Path, Path], None] = os.rename) -> Iterator[Path]:
    """An empty directory to fill, published when the body ends well: by a rename, for which the destination must not exist or be
    an empty directory, or in another way. Raises `OSError`."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(destination)
    try:
        temporary.mkdir()
        yield temporary
        publish(temporary, destination)
    except BaseException:
        remove_tree(temporary)
        raise


def remove_tree(directory: Path) -> None:
    """Removes a directory as far as that can be done; its folders may be closed even to their owner."""
    with suppress(OSError):
        os.chmod(directory, 0o700)
    for path, names, _ in os.walk(directory):
        for name in names:
            below = os.path.join(path, name)
            with suppress(OSError):
                if stat.S_ISDIR(os.lstat(below).st_mode):
                    os.chmod(below, 0o700)
    shutil.rmtree(directory, ignore_errors=True)


def replace(destination: Path, data: bytes) -> None:
    """Writes a small file whole, in place of what is there. Raises `OSError`."""
    with new_file(destination) as file:
        write_all(file, data)


def is_free(destination: Path) -> bool:
    """Whether nothing is there, or an empty directory. Raises `OSError`."""
    try:
        return not os.listdir(destination)
    except FileNotFoundError:
        return True


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Writes bytes to a file without a buffer, which may take less than all at once."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _beside(destination: Path) -> Path:
    return destination.with_name(f".{destination.name[:200]}.{secrets.token_hex(6)}.partial")
