"""A layer's tar into its blob: digested, compressed by as many threads as there are cores, and written, all at once. What comes out
does not depend on how many threads there are.

All of it is C that lets go of the interpreter's lock; what is between must be little, as whoever reads files meanwhile needs the
lock all the time. So chunks go through the simplest queues and locks there are, not through executors and futures.
"""

from __future__ import annotations

import hashlib
import os
from _thread import allocate_lock
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from types import TracebackType

from msgspec import Struct

from engine.content.faults import storage_error
from engine.layer.compress import Buffer, Compressor, open_compressor

_IN_MEMORY = 10 << 20
"""Bytes that chunks on their way hold, about."""


class Written(Struct, frozen=True):
    """A blob that was written: sha256 of what went in and of what came out (hexadecimal), and their sizes in bytes."""

    diff_id: str
    digest: str
    size: int
    tar_size: int


class _Chunk:
    """A chunk on its way, and the room it takes. The locks are held until it is compressed, and digested."""

    __slots__ = ("check", "compressed", "data", "digested", "failure", "out", "room")

    def __init__(self, data: Buffer, room: bytearray | None) -> None:
        self.data = data
        self.room = room
        self.out: Buffer = b""
        self.check = 0
        self.failure: BaseException | None = None
        self.compressed, self.digested = allocate_lock(), allocate_lock()
        self.compressed.acquire()
        self.digested.acquire()


_Queue = SimpleQueue[_Chunk | None]
"""Chunks in their order, and at the end None."""


class BlobSink:
    """Takes a layer's tar in chunks, digests it, compresses it and writes the blob, all at once.

    Every chunk but the last has to be `chunk_size` bytes. About ten megabytes of them are in memory, twenty of zstd's, however fast
    they are given. A context manager: leaving it ends its threads; what an aborted sink has written is the caller's to remove.
    `grown` is told, by a thread, how many bytes of the blob have been written.
    """

    def __init__(self, path: str, kind: str, level: int | None = None, *, threads: int | None = None,
                 grown: Callable[[int], None] = lambda _: None) -> None:
        self._grown = grown
        self._compressor = open_compressor(kind, level)
        self.chunk_size = self._compressor.size
        self._plain = kind == "none"
        threads = threads or len(os.sched_getaffinity(0))
        self._path = path
        self._file = _open(path)
        self._tar, self._blob = hashlib.sha256(), hashlib.sha256()
        self._size = self._tar_size = 0
        self._failure: BaseException | None = None
        self._rooms: SimpleQueue[bytearray | None] = SimpleQueue()
        for _ in range(threads + 2 + _IN_MEMORY // self.chunk_size // 2):
            self._rooms.put(None)  # to be made when it is used
        self._to_compress, self._to_digest, self._to_write = _Queue(), _Queue(), _Queue()
        self._queues = [self._to_compress] * threads + [self._to_digest, self._to_write]
        self._threads = [Thread(target=_compress, args=(self._compressor, self._to_compress), name="compress", daemon=True)
                         for _ in range(threads)]  # fmt: skip
        self._threads += [Thread(target=target, name=target.__name__, daemon=True) for target in (self._digest, self._write)]
        for thread in self._threads:
            thread.start()

    def buffer(self) -> bytearray:
        """Room for a chunk, to be filled and given to `write`; waits until there is some. Buffers are used again, which is quicker
        than to have the system clear new memory for each chunk."""
        return self._rooms.get() or bytearray(self.chunk_size)

    def write(self, data: Buffer, buffer: bytearray | None = None) -> None:
        """The next chunk, which may lie in a `buffer` of this sink; waits when too many are on their way. Raises `StorageError`
        when the disk is full."""
        if self._failure:
            raise self._failure
        self._tar_size += len(data)
        chunk = _Chunk(data, self._rooms.get() if buffer is None else buffer)
        self._to_digest.put(chunk)
        self._to_compress.put(chunk)
        self._to_write.put(chunk)

    def finish(self) -> Written:
        """Waits until all is written."""
        self._stop()
        if self._failure:
            raise self._failure
        diff_id = self._tar.hexdigest()
        return Written(diff_id, diff_id if self._plain else self._blob.hexdigest(), self._size, self._tar_size)

    def _stop(self) -> None:
        if self._threads:
            for queue in self._queues:
                queue.put(None)
            for thread in self._threads:
                thread.join()
            self._threads = []
            os.close(self._file)

    def _digest(self) -> None:
        while (chunk := self._to_digest.get()) is not None:
            self._tar.update(chunk.data)
            chunk.digested.release()

    def _write(self) -> None:
        check = total = 0
        self._out(self._compressor.head)
        while (chunk := self._to_write.get()) is not None:
            chunk.compressed.acquire()
            self._failure = self._failure or chunk.failure
            size = len(chunk.data)
            check = self._compressor.join(check, chunk.check, size)
            total += size
            self._out(chunk.out)
            chunk.digested.acquire()
            self._rooms.put(chunk.room)
        if not self._failure:
            self._out(self._compressor.tail(check, total))

    def _out(self, data: Buffer) -> None:
        """Writes, unless something has failed: who fills the queues must not wait for ever."""
        if self._failure:
            return
        self._size += len(data)
        if not self._plain:
            self._blob.update(data)
        try:
            write_all(self._file, data)
            self._grown(self._size)
        except OSError as error:
            self._failure = storage_error(error, self._path)
        except BaseException as error:
            self._failure = error

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


def _compress(compressor: Compressor, chunks: _Queue) -> None:
    while (chunk := chunks.get()) is not None:
        try:
            chunk.out, chunk.check = compressor.chunk(chunk.data)
        except BaseException as error:
            chunk.failure = error
        chunk.compressed.release()


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise storage_error(error, path) from error
