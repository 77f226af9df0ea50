"""Compression in chunks, by as many threads as there are cores, with output that does not depend on how many.

A chunk is a fixed number of the tar's bytes and is compressed by itself, so it does not matter by whom and when. gzip: a chunk
becomes deflate blocks that end at a byte (a full flush), and all of them are one ordinary gzip member, its checksum combined from
the chunks' own. zstd: a chunk becomes a frame.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue, SimpleQueue
from types import TracebackType
from typing import Protocol

from isal import isal_zlib
from msgspec import Struct

from engine.content.faults import storage_error
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


class Written(Struct, frozen=True):
    """A blob that was written: sha256 of what went in and of what came out (hexadecimal), and their sizes in bytes."""

    diff_id: str
    digest: str
    size: int
    tar_size: int


class _Lease:
    """A buffer whose bytes are read in `uses` places; after the last of them it can be filled again."""

    __slots__ = ("_buffer", "_free", "_lock", "_uses")

    def __init__(self, buffer: bytearray, free: SimpleQueue[bytearray], uses: int) -> None:
        self._buffer, self._free, self._uses = buffer, free, uses
        self._lock = threading.Lock()

    def end(self) -> None:
        """One place less."""
        with self._lock:
            self._uses -= 1
            ended = not self._uses
        if ended:
            self._free.put(self._buffer)


class BlobSink:
    """Takes a layer's tar in chunks, digests it, compresses it and writes the blob, all at once.

    Every chunk but the last has to be `chunk_size` bytes. About ten chunks are in memory, however fast they are given. A context
    manager: leaving it ends its threads; what an aborted sink has written is the caller's to remove. `grown` is told, by a
    thread, how many bytes of the blob have been written.
    """

    def __init__(self, path: str, kind: str, level: int | None = None, *, threads: int | None = None,
                 grown: Callable[[int], None] = lambda _: None) -> None:
        self._grown = grown
        self._compressor = open_compressor(kind, level)
        self.chunk_size = self._compressor.size
        self._plain = kind == "none"
        threads = threads or len(os.sched_getaffinity(0))
        waiting = threads + (6 if self.chunk_size == _GZIP_CHUNK else 2)
        self._path = path
        self._file = _open(path)
        self._tar, self._blob = hashlib.sha256(), hashlib.sha256()
        self._size = self._tar_size = 0
        self._failure: BaseException | None = None
        self._pool = ThreadPoolExecutor(threads, "compress")
        self._free: SimpleQueue[bytearray] = SimpleQueue()
        self._buffers = waiting + 2
        self._to_digest: Queue[tuple[Buffer, _Lease | None] | None] = Queue(waiting)
        self._to_write: Queue[tuple[Future[tuple[Buffer, int]], int, _Lease | None] | None] = Queue(waiting)
        self._threads = [threading.Thread(target=target, name=f"{target.__name__}", daemon=True)
                         for target in (self._digest, self._write)]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def buffer(self) -> bytearray:
        """Room for a chunk, to be filled and given to `write`; waits until there is some. Buffers are used again, which is quicker
        than to have the system clear new memory for each chunk."""
        if self._buffers and self._free.empty():
            self._buffers -= 1
            return bytearray(self.chunk_size)
        return self._free.get()

    def write(self, chunk: Buffer, buffer: bytearray | None = None) -> None:
        """The next chunk, which may lie in a `buffer` of this sink; waits when too many are on their way. Raises `StorageError`
        when the disk is full."""
        if self._failure:
            raise self._failure
        lease = None if buffer is None else _Lease(buffer, self._free, 2)
        self._tar_size += len(chunk)
        self._to_digest.put((chunk, lease))
        self._to_write.put((self._pool.submit(self._compressor.chunk, chunk), len(chunk), lease))

    def finish(self) -> Written:
        """Waits until all is written."""
        self._stop()
        if self._failure:
            raise self._failure
        diff_id = self._tar.hexdigest()
        return Written(diff_id, diff_id if self._plain else self._blob.hexdigest(), self._size, self._tar_size)

    def _stop(self) -> None:
        if self._threads:
            self._to_digest.put(None)
            self._to_write.put(None)
            for thread in self._threads:
                thread.join()
            self._threads = []
            self._pool.shutdown()
            os.close(self._file)

    def _digest(self) -> None:
        while (item := self._to_digest.get()) is not None:
            chunk, lease = item
            self._tar.update(chunk)
            if lease is not None:
                lease.end()

    def _write(self) -> None:
        check = total = 0
        try:
            self._out(self._compressor.head)
        except BaseException as error:
            self._failure = error
        while (item := self._to_write.get()) is not None:
            compressed, size, lease = item
            try:
                if not self._failure:  # whoever fills the queue must not wait for ever
                    data, other = compressed.result()
                    check = self._compressor.join(check, other, size)
                    total += size
                    self._out(data)
            except BaseException as error:
                self._failure = error
            if lease is not None:
                lease.end()
        try:
            if not self._failure:
                self._out(self._compressor.tail(check, total))
        except BaseException as error:
            self._failure = error

    def _out(self, data: Buffer) -> None:
        self._size += len(data)
        if not self._plain:
            self._blob.update(data)
        try:
            write_all(self._file, data)
        except OSError as error:
            raise storage_error(error, self._path) from error
        self._grown(self._size)

    def __enter__(self) -> BlobSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._failure = self._failure or error
        self._stop()


def write_all(file: int, data: Buffer, write: Callable[[int, Buffer], int] = os.write) -> None:
    """Writes all the bytes, in as many calls as it takes."""
    done = write(file, data)
    if done < len(data):
        view = memoryview(data)
        while done < len(data):
            done += write(file, view[done:])


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise storage_error(error, path) from error
