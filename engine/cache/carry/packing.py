"""A job of worker processes: files read, cut into chunks, and the chunks that travel put into packs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from engine.cache.carry.below import Below
from engine.cache.carry.chunks import WHOLE, pieces
from engine.cache.carry.plan import Digests
from engine.errors import StorageError
from engine.layer.compress import compress

FULL = 4 << 20
"""Bytes of chunks after which a pack is closed."""
BATCH_BYTES, BATCH_FILES = 64 << 20, 4096
"""What one job reads: as much as makes it worth its while, and little enough to be on disk in packs."""


class Wanted(NamedTuple):
    """A file as the survey found it: path, size, inode and change time."""

    path: bytes
    size: int
    look: tuple[int, int]


class Pack(NamedTuple):
    """A pack that was written to a file: sha256 in hexadecimal and size of the blob, and its chunks in their order."""

    path: str
    digest: str
    size: int
    chunks: tuple[tuple[bytes, int], ...]


class Packed(NamedTuple):
    """What came of files: the chunks of each, None for one that was changed or has gone meanwhile; and packs."""

    files: list[Digests | None]
    packs: list[Pack]


def batches(files: Sequence[Wanted]) -> list[list[Wanted]]:
    """Files in their order, divided into what one job reads. (A file larger than that is one by itself.)"""
    out: list[list[Wanted]] = []
    room = 0
    for file in files:
        if not out or room < file.size or len(out[-1]) == BATCH_FILES:
            out.append([])
            room = BATCH_BYTES
        out[-1].append(file)
        room -= file.size
    return out


def pack(instance: str, files: Sequence[Wanted], chosen: str, prefix: str, *, only: bool, full: int = FULL) -> Packed:
    """Reads files of an instance, and packs each of their chunks whose digest is, with `only`, among those in the file `chosen` (32
    bytes each), and without it not among them. Packs are `full` bytes or a little more, and named with the prefix. Raises
    `StorageError` when they cannot be written."""
    with open(chosen, "rb") as file:
        digests = file.read()
    writer = _Writer({digests[at : at + 32] for at in range(0, len(digests), 32)}, prefix, only=only, full=full)
    out: list[Digests | None] = []
    with Below(instance) as below:
        for wanted in files:
            found: Digests | None = None
            with suppress(OSError):
                found = _read(below, wanted, writer)
            out.append(found)
    writer.close()
    return Packed(out, writer.packs)


def _read(below: Below, wanted: Wanted, writer: _Writer) -> Digests | None:
    fd = below.file(wanted.path)
    try:
        if not _is_still(fd, wanted):
            return None
        found: list[tuple[bytes, int]] = []
        if wanted.size <= WHOLE:
            data = os.read(fd, wanted.size + 1)
            if len(data) == wanted.size:
                found.append((writer.add(data), len(data)))
        else:
            with open(fd, "rb", buffering=0, closefd=False) as file:
                found += [(writer.add(piece), len(piece)) for piece in pieces(lambda size: file.read(size) or b"")]
        if sum(size for _, size in found) != wanted.size or not _is_still(fd, wanted):
            return None
        return tuple(found)
    finally:
        os.close(fd)


def _is_still(fd: int, wanted: Wanted) -> bool:
    found = os.fstat(fd)
    return (found.st_size, (found.st_ino, found.st_ctime_ns)) == (wanted.size, wanted.look)


class _Writer:
    """Packs being filled."""

    def __init__(self, chosen: set[bytes], prefix: str, *, only: bool, full: int) -> None:
        self.packs: list[Pack] = []
        self._chosen, self._prefix, self._only, self._full = chosen, prefix, only, full
        self._done: set[bytes] = set()
        self._data = bytearray()
        self._chunks: list[tuple[bytes, int]] = []

    def add(self, data: bytes | memoryview) -> bytes:
        """Digests a chunk, packs it if it is to travel, and returns the digest."""
        digest = hashlib.sha256(data).digest()
        if (digest in self._chosen) is self._only and digest not in self._done:
            self._done.add(digest)
            self._data += data
            self._chunks.append((digest, len(data)))
            if len(self._data) >= self._full:
                self.close()
        return digest

    def close(self) -> None:
        """Writes the pack that has been begun."""
        if not self._chunks:
            return
        blob = compress(bytes(self._data), "zstd")
        path = f"{self._prefix}{len(self.packs)}"
        try:
            with open(path, "xb") as file:
                file.write(blob)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        self.packs.append(Pack(path, hashlib.sha256(blob).hexdigest(), len(blob), tuple(self._chunks)))
        self._chunks, self._data = [], bytearray()
