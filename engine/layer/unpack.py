"""One layer into a directory of its own, which then is a lower directory of an overlay (or, without whiteouts, a plain tree)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from engine.isolate.base import IdMap
from engine.layer.arriving import Arriving
from engine.layer.directory import LayerDirectory
from engine.layer.disk import Disk, Style, failed
from engine.layer.entries import Entry
from engine.layer.index import collector_paused
from engine.layer.inflate import Inflated
from engine.layer.scan import Expected, Look, Unpacked, unpacked
from engine.layer.tarstream import Member, TarStream


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
