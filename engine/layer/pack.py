"""Changes into a layer's blob: one pipe in which files are read, put into a tar, digested, compressed and written at once."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.errors import ContextError
from engine.image.digest import Digest
from engine.layer import columns
from engine.layer.base import file_state
from engine.layer.columns import Columns
from engine.layer.contents import show
from engine.layer.departing import Signals
from engine.layer.entries import Change, Entry
from engine.layer.hashing import content_hash
from engine.layer.index import CONSULTED, MOST_CONSULTED, Index, IndexStore, collector_paused
from engine.layer.sink import BlobSink
from engine.layer.tarcodec import END, header_encoder, padding

if TYPE_CHECKING:
    from engine.layer.directory import PackedDirectory, PackedFile

_FILE = columns.NUMBERS["file"]
_SECOND = 1_000_000_000
_ANY = (0, 0)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a fifo in a file's place must not make us wait


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


class Changes(Struct):
    """Changes by columns, for another process: they are a fraction of the changes in memory, and go there several times as fast.
    Whoever packs them empties them: together with what is made of them they would be large."""

    count: int
    size: int
    """Bytes of all files."""
    entries: bytes
    """An index of the entries."""
    sources: bytes = b""
    """Where their bytes lie, joined by NUL."""
    offsets: bytes = b""
    """At which offsets, eight bytes each; empty where all are 0."""
    states: bytes = b""
    """For each the `file_state` (eight bytes a number) that a file must still be in after it has been read, zeros where it may be
    in any; empty where all may."""
    root: bytes = b""
    """A directory, if there are no `sources` since the files lie in it at their entries' paths."""

    def places(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        """Where the bytes of each entry lie if it is a file. `paths` are the entries'."""
        return map((self.root + b"/").__add__, paths) if self.root else _split(self.sources)

    @classmethod
    def of(cls, changes: Sequence[Change]) -> Changes:
        """Changes that are there one by one."""
        with collector_paused():
            return cls.by_columns(Columns.of(change.entry for change in changes), [change.source or b"" for change in changes],
                                  array("q", [change.offset for change in changes]))  # fmt: skip

    @classmethod
    def by_columns(cls, entries: Columns, sources: Sequence[bytes], offsets: array[int],
                   states: array[int] | None = None) -> Changes:  # fmt: skip
        """Changes whose columns are there; `states` has two numbers for each."""
        return cls(len(entries), sum(entries.numbers.size), columns.encode(entries), b"\0".join(sources),
                   offsets.tobytes() if any(offsets) else b"", b"" if states is None else states.tobytes())  # fmt: skip


def pack(changes: Iterable[Change], *arguments: Any, **options: Any) -> Packed:
    """Packs changes, in their order, into a layer's blob. A change whose offset is 0 is of a whole file. See `pack_changes`, which
    takes the rest of the arguments."""
    return pack_changes(Changes.of(list(changes)), *arguments, **options)


def pack_changes(changes: Changes, blob_path: str, compression: str = "gzip", level: int | None = None, index_dir: str = "",
                 clamp_mtime: int | None = None, hash_files: bool = False, signals: str = "", *,
                 threads: int | None = None, directory: PackedDirectory | None = None) -> Packed:  # fmt: skip
    """Packs changes, in their order, into a layer's blob at `blob_path`. Equal changes give equal bytes. A job for a worker.

    Times are cut to whole seconds, as BuildKit's layers have them, and with `clamp_mtime` (nanoseconds) none is later than that.
    With `hash_files` the entries get digests. `compression` and `level` are as for `open_compressor`. With `index_dir` the index is
    put into the `IndexStore` there, and not returned. `signals` is a fifo that is told when the blob has grown. The layer is
    unpacked into `directory` on the way.

    Raises `ContextError` for a file that is gone, is not as long as its entry says, is not in the state it should be in or, with
    `hash_files`, has not the digest its entry has; `StorageError` when the blob cannot be written. What was written then is the
    caller's to remove.
    """
    with (collector_paused(), Signals(signals) as told,
          BlobSink(blob_path, compression, level, threads=threads, grown=told.grown) as sink):  # fmt: skip
        entries, _ = columns.decode(changes.entries)
        changes.entries = b""
        mtimes = entries.numbers.mtime
        for at, mtime in enumerate(mtimes):
            mtimes[at] = (mtime if clamp_mtime is None or mtime <= clamp_mtime else clamp_mtime) // _SECOND * _SECOND
        tar = _Tar(sink, hash_files=hash_files, directory=directory)
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

    def __init__(self, sink: BlobSink, *, hash_files: bool, directory: PackedDirectory | None) -> None:
        self.files: dict[bytes, bytes] = {}
        self.digests = bytearray()
        self._sink, self._new, self._directory = sink, content_hash() if hash_files else None, directory
        self._room = sink.chunk_size
        self._size = 0
        self._begin()

    def take(self, entries: Columns, changes: Changes) -> None:
        """Writes all changes and the end of the tar."""
        header, put, hashes, none = header_encoder(), self._put, self._new is not None, bytes(32)
        directory = self._directory
        count = len(entries)
        offsets: Iterable[int] = memoryview(changes.offsets).cast("q") if changes.offsets else repeat(0, count)
        states: Iterable[tuple[int, int]] | Iterable[None] = repeat(None, count)
        if changes.states:
            numbers = memoryview(changes.states).cast("q")
            states = zip(numbers[::2], numbers[1::2], strict=True)
        places = changes.places(entries.paths)
        for entry, source, offset, state in zip(entries.entries(), places, offsets, states, strict=False):
            put(header(entry))
            digest = none
            copy = directory.put(entry) if directory is not None else None
            if entry[1] == "file":
                digest = self._file(entry, source, offset, state, copy)
                put(padding(entry[5]))
            if hashes:
                self.digests += digest
        put(END)
        if self._size:
            self._sink.write(memoryview(self._buffer)[: self._size])

    def _file(self, entry: Entry, source: bytes, offset: int, state: tuple[int, int] | None, copy: PackedFile | None) -> bytes:
        """A file's content; gives its digest if that is wanted."""
        digest = self._new() if self._new is not None else None
        kept: list[bytes] | None = [] if entry[0] in CONSULTED and entry[5] <= MOST_CONSULTED else None
        if entry[5]:
            try:
                self._read(entry, source, offset, state, digest.update if digest else None, kept, copy)
            except OSError as error:
                raise ContextError(f"cannot read {show(entry.path)}: {error.strerror}") from error
        if copy is not None:
            copy.seal()
        if kept is not None:
            self.files[entry.path] = b"".join(kept)
        if digest is None:
            return b""
        if entry.digest and entry.digest != digest.hexdigest():
            raise _changed(entry)
        return digest.digest()

    def _read(self, entry: Entry, source: bytes, offset: int, state: tuple[int, int] | None, update: Any,
              kept: list[bytes] | None, copy: PackedFile | None) -> None:
        """Reads a file into the buffers. More is asked for than there should be, unless it is a part of a file."""
        if not source:
            raise ContextError(f"{show(entry.path)}: there is no file to pack")
        file = os.open(source, _READ)
        try:
            left, at = entry[5], offset
            while left:
                room = self._view[self._size : self._size + left]
                count = os.preadv(file, [room, self._more] if len(room) == left and not offset else [room], at)
                if not 0 < count <= left:
                    raise _changed(entry)
                piece = room[:count]
                if update is not None:
                    update(piece)
                if kept is not None:
                    kept.append(bytes(piece))
                if copy is not None:
                    copy.write(piece)
                left -= count
                at += count
                self._advance(count)
            if state is not None and state != _ANY:
                status = os.fstat(file)
                if state != file_state(status.st_ino, status.st_ctime_ns):
                    raise _changed(entry)
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


def _split(joined: bytes) -> Iterator[bytes]:
    """The parts of what was joined by NUL, one after the other."""
    start = 0
    while (end := joined.find(b"\0", start)) >= 0:
        yield joined[start:end]
        start = end + 1
    yield joined[start:]


def _changed(entry: Entry) -> ContextError:
    return ContextError(f"{show(entry.path)} changed while it was read", hint="build again when nothing writes to the files")
