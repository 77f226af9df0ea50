"""One layer, from its blob or from the changes that it is of, into a directory of its own, which then is a lower directory of an
overlay (or, without whiteouts, a plain tree)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from engine.errors import ContentError
from engine.isolate.base import IdMap
from engine.layer.arriving import Arriving
from engine.layer.changes import Changes, State, changed, open_source, require_state, unreadable
from engine.layer.contents import Contents, show
from engine.layer.directory import LayerDirectory
from engine.layer.disk import Disk, Style, failed
from engine.layer.entries import Entry
from engine.layer.hashing import content_hash
from engine.layer.index import collector_paused
from engine.layer.inflate import Inflated
from engine.layer.scan import Expected, Look, Unpacked, unpacked
from engine.layer.tarcodec import TYPES, layer_name
from engine.layer.tarstream import Member, TarStream

_PIECE = 1 << 20


def unpack(blob_path: str, directory: str, *, style: Style = "overlay-trusted", owners: bool = True, ids: IdMap | None = None,
           diff_id: str = "", index_dir: str = "", hash_files: bool = False, arriving: Arriving | None = None) -> Unpacked:
    """Unpacks one layer into an empty directory of its own, with whiteouts as `style` says.

    Owners that `ids` does not hold, devices and attributes that the machine refuses are left out on disk and kept in the entries.
    `diff_id` and `index_dir` are as in `Expected`; the blob may be `arriving`. A job for a worker process, as is everything in
    this package that does I/O.

    Raises `ContentError` for a broken layer, one that climbs out of the root or has another diff id, and `StorageError` for what
    cannot be read or written. What was unpacked then is the caller's to remove.
    """
    expected = Expected(diff_id, index_dir)
    with (collector_paused(), Inflated(blob_path, algorithm=expected.algorithm, arriving=arriving) as tar,
          Disk(directory, style=style, owners=owners, ids=ids) as disk):  # fmt: skip
        stream = TarStream(tar.chunk)
        layer = _Layer(disk, stream, Look(hash_files=hash_files))
        try:
            while member := stream.next():
                layer.take(member)
            disk.finish()
        except OSError as error:
            raise failed(layer.path, error) from error
        return unpacked(stream, tar, layer.contents, layer.look, expected)


def unpack_changes(changes: Changes, directory: str, *, style: Style = "overlay-trusted", owners: bool = True,
                   ids: IdMap | None = None, latest_mtime: int | None = None) -> tuple[Contents, bytes]:  # fmt: skip
    """Makes of changes, in an empty directory, what `unpack` would make of their layer, which nobody has to read for it.
    `latest_mtime` is as in `Changes.take`. Returns the model of what is in the directory, and digests as `Packed.digests`: only if
    they are those of the packed layer is the directory what that would have been unpacked to.

    Raises `ContextError` for a file that is gone, is not as long as its entry says or is not in the state it should be in,
    `ContentError` for a name that means something else in a layer, and `StorageError` for what cannot be written.
    """
    with collector_paused(), Disk(directory, style=style, owners=owners, ids=ids) as disk:
        layer = _Changed(disk)
        path = b""
        try:
            for entry, source, offset, state in changes.rows(changes.take(latest_mtime)):
                path = entry.path
                layer.take(entry, source, offset, state)
            disk.finish()
        except OSError as error:
            raise failed(path, error) from error
        return layer.contents, bytes(layer.digests)


class _Layer(LayerDirectory):
    """A layer on its way into its directory."""

    def __init__(self, disk: Disk, stream: TarStream, look: Look) -> None:
        super().__init__(disk)
        self.stream, self.look = stream, look
        self.path = b""

    def take(self, member: Member) -> None:
        """The next member."""
        entry = self.contents.entry(member)
        if entry is None:
            return
        self.path = entry.path
        if entry.kind == "file":
            entry = self._file(entry, member)
        else:
            self.put(entry)
        self.contents.add(entry)

    def _file(self, entry: Entry, member: Member) -> Entry:
        stream, disk = self.stream, self.disk
        if self.look.wants(entry):
            return self.look.through(entry, stream.content(member), lambda pieces: disk.file(entry, pieces))
        if member.sparse is not None:
            disk.file(entry, stream.pieces(member), member.sparse)
            return entry
        file = disk.create(entry)
        try:
            if size := member.stored:
                data = stream.at_hand(size)
                if data is None:
                    _write(file, stream.pieces(member))
                elif (done := os.write(file, data)) < size:
                    _write(file, (data[done:],))
            disk.seal(file, entry)
        finally:
            os.close(file)
        return entry


def _write(file: int, pieces: Iterable[memoryview]) -> None:
    for piece in pieces:
        while piece:
            piece = piece[os.write(file, piece) :]


class _Changed(LayerDirectory):
    """A layer of changes on its way into its directory."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self._view = memoryview(bytearray(_PIECE + 1))
        self.digests = bytearray()
        self._new = content_hash()

    def take(self, entry: Entry, source: bytes, offset: int, state: State) -> None:
        """The next change, as who reads it in the layer's tar."""
        found: Entry | None = entry
        if entry.kind != "file" or not self.contents.is_new_file(entry.path):
            found = self.contents.entry(_member(entry))
        if found is None or found.kind != entry.kind:
            raise ContentError(f"{show(entry.path)} means something else in a layer")
        if found.kind == "file":
            self.digests += self._file(found, source, offset, state)
        else:
            self.put(found)
            self.digests += bytes(32)
        self.contents.add(found)

    def _file(self, entry: Entry, source: bytes, offset: int, state: State) -> bytes:
        digest = self._new()
        file = self.disk.create(entry)
        try:
            if entry.size:
                self._copy(file, entry, source, offset, state, digest.update)
            self.disk.seal(file, entry)
        finally:
            os.close(file)
        return digest.digest()

    def _copy(self, file: int, entry: Entry, source: bytes, offset: int, state: State, update: Any) -> None:
        """A file's bytes. More is asked for than there should be, unless it is a part of a file."""
        try:
            found = open_source(entry, source)
        except OSError as error:
            raise unreadable(entry, error) from error
        try:
            left, at, more = entry.size, offset, not offset
            while left:
                try:
                    count = os.preadv(found, [self._view[: left + more]], at)
                except OSError as error:
                    raise unreadable(entry, error) from error
                if not 0 < count <= left:
                    raise changed(entry)
                update(self._view[:count])
                _write(file, (self._view[:count],))
                left -= count
                at += count
            require_state(found, entry, state)
        finally:
            os.close(found)


def _member(entry: Entry) -> Member:
    """What one reads of an entry in the tar."""
    _, kind, mode, uid, gid, size, mtime, link, _, major, minor, xattrs = entry
    size = size if kind == "file" else 0
    return Member(layer_name(entry), TYPES[kind][0], mode, uid, gid, size, mtime, link, major, minor, xattrs, 0, size)
