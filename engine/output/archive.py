"""Tar archives whose bytes depend on nothing but what is put into them: no times, no owners, no machine (ustar; sizes that this
has no room for are written as GNU tar does)."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from engine.errors import ContentError
from engine.output.publish import write_all

_READ = 1 << 20
_RECORD = 10240

Moved = Callable[[int], None]
"""Told how many bytes more have been written; it may raise to stop."""


class Archive:
    """A tar on its way into a file that need not be seekable. All members are root's, of 1970."""

    def __init__(self, file: BinaryIO, moved: Moved) -> None:
        self._file = file
        self._moved = moved
        self._size = 0

    def directory(self, name: str) -> None:
        """Adds a directory."""
        self._header(name, tarfile.DIRTYPE, 0o755, 0)

    def data(self, name: str, data: bytes) -> None:
        """Adds a small file."""
        self._header(name, tarfile.REGTYPE, 0o444, len(data))
        self._write(data + bytes(-len(data) % 512))

    def file(self, name: str, source: Path, size: int) -> None:
        """Adds a file of `size` bytes from disk; raises `ContentError` when it has not that size."""
        self._header(name, tarfile.REGTYPE, 0o444, size)
        copy(source, size, self._write)
        self._write(bytes(-size % 512))

    def close(self) -> None:
        """Writes the end of the archive; the file stays open."""
        end = bytes(1024)
        self._write(end + bytes(-(self._size + len(end)) % _RECORD))

    def _header(self, name: str, kind: bytes, mode: int, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.mtime = kind, mode, size, 0
        self._write(info.tobuf(tarfile.GNU_FORMAT if size >= 8 << 30 else tarfile.USTAR_FORMAT))

    def _write(self, data: bytes | memoryview) -> None:
        write_all(self._file, data)
        self._size += len(data)
        self._moved(len(data))


def copy(source: Path, size: int, write: Callable[[memoryview], object]) -> None:
    """Gives a file's bytes to `write` in pieces; raises `ContentError` when they are not `size`, `OSError`."""
    buffer = memoryview(bytearray(min(_READ, max(size, 1))))
    left = size
    with open(source, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != size or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ContentError(f"{source} has not the {size} bytes that it should have")
        while left:
            count = file.readinto(buffer[: min(left, len(buffer))])
            if not count:
                raise ContentError(f"{source} was cut off while it was read")
            write(buffer[:count])
            left -= count
