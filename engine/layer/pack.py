"""Changes into a layer's blob: one pipe in which files are read, put into a tar, digested, compressed and written at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from engine.image.digest import Digest
from engine.layer import columns
from engine.layer.changes import Changes, State, changed, open_source, require_state, unreadable
from engine.layer.columns import Columns
from engine.layer.departing import Signals
from engine.layer.entries import Change, Entry
from engine.layer.hashing import content_hash
from engine.layer.index import CONSULTED, MOST_CONSULTED, Index, IndexStore, collector_paused
from engine.layer.sink import BlobSink
from engine.layer.tarcodec import END, header_encoder, padding

_FILE = columns.NUMBERS["file"]


class Packed(Struct, frozen=True):
    """A layer that was written: sha256 of its tar and of its blob (hexadecimal), their sizes in bytes, and what is in it."""

    diff_id: str
    digest: str
    size: int
    """Bytes of the blob."""
    tar_size: int
    index: Index
    """Empty when it was written to a store instead."""
    digests: bytes = b""
    """If they were asked for: digests of the files' contents, 32 bytes for each change, in their order; 0 for what is no file."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The changes' entries as they are in the layer: with its times, and digests if they were asked for."""
        return self.index.entries


def pack(changes: Iterable[Change], *arguments: Any, **options: Any) -> Packed:
    """Packs changes, in their order, into a layer's blob. A change whose offset is 0 is of a whole file. See `pack_changes`, which
    takes the rest of the arguments."""
    return pack_changes(Changes.of(list(changes)), *arguments, **options)


def pack_changes(changes: Changes, blob_path: str, compression: str = "gzip", level: int | None = None, index_dir: str = "",
                 clamp_mtime: int | None = None, hash_files: bool = False, signals: str = "", *,
                 threads: int | None = None) -> Packed:  # fmt: skip
    """Packs changes, in their order, into a layer's blob at `blob_path`. Equal changes give equal bytes. A job for a worker.

    Times are cut to whole seconds, as BuildKit's layers have them, and with `clamp_mtime` (nanoseconds) none is later than that.
    With `hash_files` the entries get digests. `compression` and `level` are as for `open_compressor`. With `index_dir` the index is
    put into the `IndexStore` there, and not returned. `signals` is a fifo that is told when the blob has grown.

    Raises `ContextError` for a file that is gone, is not as long as its entry says, is not in the state it should be in or, with
    `hash_files`, has not the digest its entry has; `StorageError` when the blob cannot be written. What was written then is the
    caller's to remove.
    """
    with (collector_paused(), Signals(signals) as told,
          BlobSink(blob_path, compression, level, threads=threads, grown=told.grown) as sink):  # fmt: skip
        entries = changes.take(clamp_mtime)
        tar = _Tar(sink, hash_files=hash_files)
        tar.take(entries, changes)
        written = sink.finish()
    if hash_files:
        entries.digests, entries.known = bytes(tar.digests), bytes([kind == _FILE for kind in entries.kinds])
    index = Index.of(entries, tar.files)
    if index_dir:
        IndexStore(Path(index_dir)).put(Digest("sha256", written.diff_id), index)
        index = Index(())
    return Packed(written.diff_id, written.digest, written.size, written.tar_size, index, bytes(tar.digests))


class _Tar:
    """Puts headers and contents into the sink's buffers, one after the other."""

    def __init__(self, sink: BlobSink, *, hash_files: bool) -> None:
        self.files: dict[bytes, bytes] = {}
        self.digests = bytearray()
        self._sink, self._new = sink, content_hash() if hash_files else None
        self._room = sink.chunk_size
        self._size = 0
        self._begin()

    def take(self, entries: Columns, changes: Changes) -> None:
        """Writes all changes and the end of the tar."""
        header, put, hashes, none = header_encoder(), self._put, self._new is not None, bytes(32)
        for entry, source, offset, state in changes.rows(entries):
            put(header(entry))
            digest = none
            if entry[1] == "file":
                digest = self._file(entry, source, offset, state)
                put(padding(entry[5]))
            if hashes:
                self.digests += digest
        put(END)
        if self._size:
            self._sink.write(memoryview(self._buffer)[: self._size])

    def _file(self, entry: Entry, source: bytes, offset: int, state: State) -> bytes:
        """A file's content; gives its digest if that is wanted."""
        digest = self._new() if self._new is not None else None
        kept: list[bytes] | None = [] if entry[0] in CONSULTED and entry[5] <= MOST_CONSULTED else None
        if entry[5]:
            try:
                self._read(entry, source, offset, state, digest.update if digest else None, kept)
            except OSError as error:
                raise unreadable(entry, error) from error
        if kept is not None:
            self.files[entry.path] = b"".join(kept)
        if digest is None:
            return b""
        if entry.digest and entry.digest != digest.hexdigest():
            raise changed(entry)
        return digest.digest()

    def _read(self, entry: Entry, source: bytes, offset: int, state: State, update: Any,
              kept: list[bytes] | None) -> None:
        """Reads a file into the buffers. More is asked for than there should be, unless it is a part of a file."""
        file = open_source(entry, source)
        try:
            left, at = entry[5], offset
            while left:
                room = self._view[self._size : self._size + left]
                count = os.preadv(file, [room, self._more] if len(room) == left and not offset else [room], at)
                if not 0 < count <= left:
                    raise changed(entry)
                piece = room[:count]
                if update is not None:
                    update(piece)
                if kept is not None:
                    kept.append(bytes(piece))
                left -= count
                at += count
                self._advance(count)
            require_state(file, entry, state)
        finally:
            os.close(file)

    def _put(self, data: bytes) -> None:
        """Bytes that are in no file."""
        size = len(data)
        if size <= self._room - self._size:
            self._view[self._size : self._size + size] = data
            self._advance(size)
            return
        at = 0
        while at < size:
            count = min(self._room - self._size, size - at)
            self._view[self._size : self._size + count] = data[at : at + count]
            at += count
            self._advance(count)

    def _advance(self, count: int) -> None:
        self._size += count
        if self._size == self._room:
            self._sink.write(self._view, self._buffer)
            self._begin()

    def _begin(self) -> None:
        self._buffer = self._sink.buffer()
        self._view = memoryview(self._buffer)
        self._size = 0
        self._more = bytearray(1)
