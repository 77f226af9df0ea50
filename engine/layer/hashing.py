"""Digests of files' contents, and of files where they lie.

They are BLAKE3, which a processor does two to ten times as fast as sha256, as it has instructions for that or not. Nobody outside
sees them: they are part of keys, of layer indexes and of the store of digests. What images are made of is sha256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from engine.errors import ContextError

EMPTY = bytes.fromhex("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
"""The digest of no bytes."""

_PIECE = 1 << 20


class Hash(Protocol):
    """What digests bytes: `update` with some, `digest` or `hexdigest` of all of them."""

    def update(self, data: bytes | memoryview, /) -> object: ...

    def digest(self) -> bytes: ...

    def hexdigest(self) -> str: ...


def content_hash() -> Callable[[], Hash]:
    """What makes the digest of a file's content: BLAKE3, 32 bytes (https://github.com/BLAKE3-team/BLAKE3-specs)."""
    from blake3 import blake3  # here: where nothing has changed, nothing is hashed

    return blake3


def hash_ranges(ranges: Sequence[tuple[bytes, int, int]]) -> list[str]:
    """Digests (hexadecimal) of parts of files, each an absolute path, an offset and a size in bytes. A job for a worker. Raises
    `ContextError` for a file that is gone, is none, or is too short."""
    new = content_hash()
    return [_hash(new(), *each) for each in ranges]


def blob_digest(path: bytes, size: int) -> str:
    """sha256 (hexadecimal) of a blob of `size` bytes. A job for a worker. Raises as `hash_ranges`."""
    return _hash(hashlib.sha256(), path, 0, size)


def _hash(digest: Hash, path: bytes, offset: int, size: int) -> str:
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
