"""Content digests of files on disk, for many files in one job."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

CHUNK = 1 << 20


def hash_ranges(ranges: Sequence[tuple[bytes, int, int]]) -> list[str]:
    """sha256 (hexadecimal) of each (absolute path, offset, size in bytes); raises `OSError`, also for a file that ends early.

    A symlink at the end of a path is refused: the paths are of regular files, and what they were cannot have become a link.
    """
    return [_hash(*one) for one in ranges]


def _hash(path: bytes, offset: int, size: int) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        digest = hashlib.sha256()
        while size:
            data = os.pread(descriptor, min(size, CHUNK), offset)
            if not data:
                raise OSError(f"{os.fsdecode(path)} is shorter than it was")
            digest.update(data)
            offset += len(data)
            size -= len(data)
        return digest.hexdigest()
    finally:
        os.close(descriptor)
