"""What goes wrong with a disk, in words for the user of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import StorageError, shortened

_HINTS = {
    errno.ENOSPC: "the disk is full: free some space, or prune the state directory, or choose another with --state-dir",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another directory with --state-dir",
    errno.EACCES: "this user may not write there: change the directory's owner, or choose another with --state-dir",
    errno.EPERM: "this user may not write there: change the directory's owner, or choose another with --state-dir",
    errno.EROFS: "the filesystem is read-only: choose another directory with --state-dir",
    errno.ENOTDIR: "a part of this path is a file and not a directory: choose another with --state-dir",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), or run fewer steps at once",
    errno.ENAMETOOLONG: "Linux knows no longer paths than 4096 bytes, and no longer names than 255",
    errno.ENFILE: "too many files are open on this machine",
}


_FULL = 64 << 10
"""Bytes; a disk with less is full."""


def storage_error(error: OSError, path: Path | str | bytes) -> StorageError:
    """The `StorageError` that says what an operation on `path` ran into, with a hint where there is something to do."""
    why = os.strerror(error.errno) if error.errno else str(error)
    return StorageError(f"cannot write {shortened(os.fsdecode(path))}: {why}", hint=_HINTS.get(error.errno or 0))


def full_hint(path: Path | str) -> str | None:
    """A hint that the disk of a path is full, if it is: for the failures of those who do not say what they ran into."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return None
    return _HINTS[errno.ENOSPC] if disk.f_bavail * disk.f_frsize < _FULL or (disk.f_files and not disk.f_favail) else None


@contextmanager
def storing(path: Path | str) -> Iterator[None]:
    """Turns any `OSError` of its body into a `StorageError` about `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, error.filename or path) from error
