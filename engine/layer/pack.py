"""Changes into a layer's blob: one pipe in which files are read, put into a tar, digested, compressed and written at once."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from engine.errors import ContextError
from engine.image.digest import Digest
from engine.layer.compress import BlobSink, Buffer
from engine.layer.contents import show
from engine.layer.entries import Change, Entry
from engine.layer.index import CONSULTED, MOST_CONSULTED, Index, IndexStore, collector_paused, decode, encode
from engine.layer.tarcodec import END, header_encoder, padding

_SECOND = 1_000_000_000
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a fifo in a file's place must not make us wait
_SMALL = 256 << 10


class Packed(Struct, frozen=True):
    """A layer that was written: sha256 of its tar and of its blob (hexadecimal), their sizes in bytes, and what is in it."""

    diff_id: str
    digest: str
    size: int
    """Bytes of the blob."""
    tar_size: int
    index: Index
    """Empty when it was written to a store instead."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The changes' entries as they are in the layer: with its times, and digests if they were asked for."""
        return self.index.entries


def pack(changes: Iterable[Change], blob_path: str, compression: str = "gzip", level: int | None = None, index_dir: str = "",
         clamp_mtime: int | None = None, *, hash_files: bool = False, threads: int | None = None) -> Packed:
    """Packs changes, in their order, into a layer's blob at `blob_path`. Equal changes give equal bytes.

    Times are cut to whole seconds, as BuildKit's layers have them, and with `clamp_mtime` (nanoseconds) none is later than that.
    With `hash_files` the entries get digests. `compression` and `level` are as for `open_compressor`. A change whose offset is 0 is
    of a whole file. With `index_dir` the index is put into the `IndexStore` there, and not returned.

    Raises `ContextError` for a file that is gone, is not as long as its entry says or, with `hash_files`, has not the digest its
    entry has; `StorageError` when the blob cannot be written. What was written then is the caller's to remove.
    """
    with collector_paused(), BlobSink(blob_path, compression, level, threads=threads) as sink:
        tar = _Tar(sink, hash_files=hash_files, clamp=clamp_mtime)
        tar.take(changes)
        written = sink.finish()
    index = Index(tar.entries, tar.files)
    if index_dir:
        IndexStore(Path(index_dir)).put(Digest("sha256", written.diff_id), index)
        index = Index(())
    return Packed(written.diff_id, written.digest, written.size, written.tar_size, index)


Columns = tuple[bytes, bytes, bytes]
"""Changes by columns: an index of the entries, where their bytes lie (joined by NUL), and at which offset (eight bytes each). They
are a fraction of the changes in memory, and go to another process several times as fast."""


def to_columns(changes: Sequence[Change]) -> Columns:
    """Changes as columns; there has to be one at least."""
    with collector_paused():
        entries, sources, offsets = zip(*changes, strict=True)
        return encode(entries), b"\0".join([source or b"" for source in sources]), array("q", offsets).tobytes()


def pack_columns(columns: Columns, *arguments: Any) -> Packed:
    """As `pack`, which takes the rest of the arguments. A job for a worker."""
    entries, sources, offsets = columns
    rows = zip(decode(entries), sources.split(b"\0"), array("q", offsets), strict=True)
    return pack((Change(entry, source or None, offset) for entry, source, offset in rows), *arguments)


class _Tar:
    """Collects headers and contents into chunks of just the sink's size."""

    def __init__(self, sink: BlobSink, *, hash_files: bool, clamp: int | None) -> None:
        self.entries: list[Entry] = []
        self.files: dict[bytes, bytes] = {}
        self._sink, self._hash, self._clamp = sink, hash_files, clamp
        self._room = sink.chunk_size
        self._parts: list[Buffer] = []
        self._size = 0

    def take(self, changes: Iterable[Change]) -> None:
        """Writes all changes and the end of the tar."""
        header, room, entries, clamp = header_encoder(), self._room, self.entries, self._clamp
        parts = self._parts
        for change in changes:
            entry, source, offset = change
            mtime = entry[6]
            seconds = (mtime if clamp is None or mtime <= clamp else clamp) // _SECOND * _SECOND
            if seconds != mtime:
                entry = Entry._make((*entry[:6], seconds, *entry[7:]))
            head = header(entry)
            parts.append(head)
            self._size += len(head)
            if entry[1] == "file":
                size = entry[5]
                if size > _SMALL or self._hash or entry[0] in CONSULTED:
                    entry = self._careful(entry, source, offset)
                elif size:
                    data = _small(entry, source, offset)
                    parts += (data, padding(size))
                    self._size += size + -size % 512
            entries.append(entry)
            if self._size >= room:
                self._flush()
        parts.append(END)
        self._size += len(END)
        self._flush()
        if self._size:
            self._sink.write(b"".join(parts))

    def _careful(self, entry: Entry, source: bytes | None, offset: int) -> Entry:
        """A large file, or one that is looked at."""
        digest = hashlib.sha256() if self._hash else None
        kept: list[bytes] | None = [] if entry.path in CONSULTED and entry.size <= MOST_CONSULTED else None
        for piece in self._pieces(entry, source, offset):
            if digest:
                digest.update(piece)
            if kept is not None:
                kept.append(piece)
            self._parts.append(piece)
            self._size += len(piece)
            if self._size >= self._room:
                self._flush()
        end = padding(entry.size)
        self._parts.append(end)
        self._size += len(end)
        if kept is not None:
            self.files[entry.path] = b"".join(kept)
        if not digest:
            return entry
        if entry.digest and entry.digest != digest.hexdigest():
            raise _changed(entry)
        return entry._replace(digest=digest.hexdigest())

    def _pieces(self, entry: Entry, source: bytes | None, offset: int) -> Iterator[bytes]:
        """A file's bytes, in pieces that fill up the present chunk and then are chunks."""
        if not entry.size:
            return
        file = _open(entry, source)
        try:
            left, at = entry.size, offset
            while left:
                piece = os.pread(file, min(left, self._room - self._size), at)
                if not piece:
                    raise _changed(entry)
                left -= len(piece)
                at += len(piece)
                yield piece
            if not offset and os.pread(file, 1, at):
                raise _changed(entry)
        except OSError as error:
            raise _unreadable(entry, error) from error
        finally:
            os.close(file)

    def _flush(self) -> None:
        """Gives the sink all whole chunks."""
        room = self._room
        if self._size < room:
            return
        data = b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]
        at, view = 0, memoryview(data)
        while len(data) - at >= room:
            self._sink.write(data if len(data) == room else view[at : at + room])
            at += room
        self._parts.clear()
        if at < len(data):
            self._parts.append(bytes(view[at:]))
        self._size = len(data) - at


def _small(entry: Entry, source: bytes | None, offset: int) -> bytes:
    """A small file in one read, which asks for more than there should be."""
    file = _open(entry, source)
    try:
        data = os.pread(file, entry.size, offset) if offset else os.read(file, entry.size + 1)
    except OSError as error:
        raise _unreadable(entry, error) from error
    finally:
        os.close(file)
    if len(data) != entry.size:
        raise _changed(entry)
    return data


def _open(entry: Entry, source: bytes | None) -> int:
    if source is None:
        raise ContextError(f"{show(entry.path)}: there is no file to pack")
    try:
        return os.open(source, _READ)
    except OSError as error:
        raise _unreadable(entry, error) from error


def _changed(entry: Entry) -> ContextError:
    return ContextError(f"{show(entry.path)} changed while it was read", hint="build again when nothing writes to the files")


def _unreadable(entry: Entry, error: OSError) -> ContextError:
    return ContextError(f"cannot read {show(entry.path)}: {error.strerror}")
