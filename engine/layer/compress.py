"""Compression in chunks.

A chunk is a fixed number of the tar's bytes and is compressed by itself, so it does not matter by whom and when. gzip: a chunk
becomes deflate blocks that end at a byte (a full flush), and all of them are one ordinary gzip member, its checksum combined from
the chunks' own. zstd: a chunk becomes a frame.
"""

from __future__ import annotations

import threading
import zlib
from typing import Protocol

from isal import isal_zlib

from engine.errors import UsageError

Buffer = bytes | memoryview

ZSTD_LEVEL = 3

_GZIP_CHUNK, _ZSTD_CHUNK = 1 << 20, 4 << 20
_SAMPLE, _DENSE = 32 << 10, 0.3
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # no name, no time, no system
_DEFLATE_END = b"\x03\x00"  # an empty last block


class Compressor(Protocol):
    """How a stream of chunks becomes a blob: `head`, the chunks in their order, `tail`. `chunk` may be called by any thread."""

    size: int
    """Bytes of every chunk but the last."""
    head: bytes

    def chunk(self, data: Buffer) -> tuple[Buffer, int]:
        """A chunk compressed, and its checksum."""

    def join(self, check: int, other: int, size: int) -> int:
        """The checksum of some bytes and `size` more, whose checksum is `other`."""

    def tail(self, check: int, size: int) -> bytes:
        """What ends the blob of `size` bytes with this checksum."""


class Gzip:
    """One gzip member. Levels: 0 stores, 1 to 3 are isal's, 4 to 9 zlib's (slow).

    Without a level it is isal's 2, and its 3 for chunks whose beginning compresses very well: on those 2 falls behind most (19 to
    23 % of gzip -6 on source code, where it is 11 % elsewhere), and is so fast that 3 takes no longer than 2 elsewhere.
    """

    size, head = _GZIP_CHUNK, _GZIP_HEAD

    def __init__(self, level: int | None) -> None:
        self._level = level

    def chunk(self, data: Buffer) -> tuple[Buffer, int]:
        level = self._level
        if level is None:
            sample = data[:_SAMPLE]
            level = 3 if len(_deflate(sample, 2)) < _DENSE * len(sample) else 2
        return _deflate(data, level), isal_zlib.crc32(data)

    def join(self, check: int, other: int, size: int) -> int:
        return int(isal_zlib.crc32_combine(check, other, size))

    def tail(self, check: int, size: int) -> bytes:
        return _DEFLATE_END + check.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")


class Zstd:
    """A frame for each chunk, with its size and checksum."""

    size, head = _ZSTD_CHUNK, b""

    def __init__(self, level: int) -> None:
        self._level = level
        self._own = threading.local()  # a compressor is for one thread, and costly to make

    def chunk(self, data: Buffer) -> tuple[Buffer, int]:
        compressor = getattr(self._own, "compressor", None)
        if compressor is None:
            from zstandard import ZstdCompressor  # here, since most builds make gzip

            compressor = self._own.compressor = ZstdCompressor(level=self._level, write_checksum=True, write_content_size=True)
        return bytes(compressor.compress(data)), 0

    def join(self, check: int, other: int, size: int) -> int:
        return 0

    def tail(self, check: int, size: int) -> bytes:
        return b"" if size else bytes(self.chunk(b"")[0])


def _deflate(data: Buffer, level: int) -> bytes:
    library = isal_zlib if 1 <= level <= 3 else zlib
    deflate = library.compressobj(level, zlib.DEFLATED, -15)
    return bytes(deflate.compress(data)) + bytes(deflate.flush(zlib.Z_FULL_FLUSH))


class Plain:
    """No compression."""

    size, head = _GZIP_CHUNK, b""

    def chunk(self, data: Buffer) -> tuple[Buffer, int]:
        return data, 0

    def join(self, check: int, other: int, size: int) -> int:
        return 0

    def tail(self, check: int, size: int) -> bytes:
        return b""


def open_compressor(kind: str, level: int | None = None) -> Compressor:
    """A compressor for `gzip` (levels 0 to 9), `zstd` (1 to 22, 3 by default) or `none`; raises `UsageError` for anything else."""
    if kind == "none":
        return Plain()
    if kind not in ("gzip", "zstd"):
        raise UsageError(f"unknown compression {kind!r}", hint="gzip, zstd and none are known")
    least, most = (0, 9) if kind == "gzip" else (1, 22)
    if level is not None and not least <= level <= most:
        raise UsageError(f"compression level {level} is not one of {kind}'s", hint=f"levels are {least} to {most}")
    return Gzip(level) if kind == "gzip" else Zstd(ZSTD_LEVEL if level is None else level)


def compress(data: bytes, kind: str, level: int | None = None) -> bytes:
    """Some bytes as the blob that a `BlobSink` would write."""
    compressor = open_compressor(kind, level)
    parts, check = [compressor.head], 0
    for at in range(0, len(data), compressor.size):
        chunk = data[at : at + compressor.size]
        out, other = compressor.chunk(chunk)
        parts.append(bytes(out))
        check = compressor.join(check, other, len(chunk))
    return b"".join([*parts, compressor.tail(check, len(data))])
