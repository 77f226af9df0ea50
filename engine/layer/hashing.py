"""Digests of files where they lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from engine.errors import ContextError

_PIECE = 1 << 20


def hash_ranges(ranges: Sequence[tuple[bytes, int, int]]) -> list[str]:
    """sha256 (hexadecimal) of parts of files, each an absolute path, an offset and a size in bytes. A job for a worker. Raises
    `ContextError` for a file that is gone, is none, or is too short."""
    return [_hash(*each) for each in ranges]


def _hash(path: bytes, offset: int, size: int) -> str:
    digest = hashlib.sha256()
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            while size:
                piece = os.pread(file, min(size, _PIECE), offset)
                if not piece:
                    raise ContextError(f"{path.decode('utf-8', 'backslashreplace')} changed while it was read")
                digest.update(piece)
                offset += len(piece)
                size -= len(piece)
        finally:
            os.close(file)
    except OSError as error:
        raise ContextError(f"cannot read {path.decode('utf-8', 'backslashreplace')}: {error.strerror}") from error
    return digest.hexdigest()
