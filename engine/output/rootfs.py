"""The root filesystem alone: as a tar, or as a directory for whoever runs the build. Of an index each image has a directory of its
own, `linux_amd64`, as with BuildKit."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread

from engine.content.base import ContentStore
from engine.errors import StorageError
from engine.layer.base import Layer
from engine.layer.disk import Disk
from engine.layer.entries import Entry
from engine.layer.index import Index, collector_paused
from engine.layer.tarcodec import END, header_encoder, padding
from engine.output.base import Built
from engine.output.blobs import Fetch, Progress, fetch_missing, layers_of
from engine.output.flatten import Flat, contents, flatten
from engine.output.place import Meter, Place
from engine.output.publish import is_free, new_directory, new_file, remove_tree, write_all, writing

IndexOf = Callable[[Layer], Awaitable[Index]]
"""A layer's index; raises `RegistryError` or `ContentError`."""

_CHUNK = 1 << 20
_RECORD = 10240


class TarOutput:
    """Implements `Output`: a tar with owners, modes and attributes as they are in the image. Its bytes depend on nothing else."""

    name = "tar archive"

    def __init__(self, place: Place, content: ContentStore, fetch: Fetch, index: IndexOf, progress: Progress | None = None) -> None:
        self._place, self._content, self._fetch, self._index, self._progress = place, content, fetch, index, progress

    async def write(self, built: Built) -> str:
        """Writes the archive; raises `StorageError`, `ContentError`, and `RegistryError` when a layer has to be fetched."""
        flats = await _flats(built, self._content, self._fetch, self._index)
        meter = Meter(str(self._place), sum(flat.size for flat in flats), self._progress)
        await to_thread.run_sync(self._write, flats, meter)
        return str(self._place)

    def _write(self, flats: list[Flat], meter: Meter) -> None:
        with writing(str(self._place)):
            if not isinstance(self._place.destination, Path):
                return self._tar(flats, self._place.destination, meter)
            with new_file(self._place.destination) as file:
                self._tar(flats, file, meter)

    def _tar(self, flats: list[Flat], file: BinaryIO, meter: Meter) -> None:
        tar = _Tar(file, meter)
        with collector_paused():
            for flat in flats:
                for entry in flat.plain:
                    tar.entry(entry)
                for part in flat.parts:
                    for entry, pieces in contents(part, str(self._content.path(part.layer.blob.digest))):
                        tar.entry(entry)
                        for piece in pieces:
                            tar.data(piece)
                        tar.data(padding(entry.size))
                for entry in flat.links:
                    tar.entry(entry)
        tar.close()
        file.flush()


class LocalOutput:
    """Implements `Output`: a directory whose files belong to the user who runs the build, as with BuildKit.

    In a directory that is there, what has the same names is replaced and everything else stays. Nothing is touched before the
    whole image has been unpacked beside it. Devices are left out where the user may not make any.
    """

    name = "local directory"

    def __init__(self, destination: Path, content: ContentStore, fetch: Fetch, index: IndexOf,
                 progress: Progress | None = None) -> None:
        self._destination, self._content, self._fetch, self._index, self._progress = destination, content, fetch, index, progress

    async def write(self, built: Built) -> str:
        """Writes the files; raises as `TarOutput.write` does."""
        flats = await _flats(built, self._content, self._fetch, self._index)
        meter = Meter(str(self._destination), sum(flat.size for flat in flats), self._progress)
        await to_thread.run_sync(self._write, flats, meter)
        return str(self._destination)

    def _write(self, flats: list[Flat], meter: Meter) -> None:
        destination = self._destination
        with writing(destination):
            if is_free(destination):
                with new_directory(destination) as directory:
                    self._fill(flats, directory, meter)
                    _finish(flats, directory)
                return
            if not stat.S_ISDIR(os.stat(destination).st_mode):
                raise StorageError(f"cannot write {destination}: it is no directory", hint="name a directory, or use type=tar")
            with new_directory(destination, publish=_merge) as directory:
                self._fill(flats, directory, meter)
            _finish(flats, destination)

    def _fill(self, flats: list[Flat], directory: Path, meter: Meter) -> None:
        """Makes everything but the modes and times of directories."""
        with collector_paused(), Disk(str(directory), owners=False) as disk:
            for flat in flats:
                for entry in flat.plain:
                    _make(disk, entry)
                for part in flat.parts:
                    for entry, pieces in contents(part, str(self._content.path(part.layer.blob.digest))):
                        disk.file(entry, pieces)
                        meter.moved(entry.size)
                for entry in flat.links:
                    disk.hardlink(entry)


def _make(disk: Disk, entry: Entry) -> None:
    if entry.kind == "dir":
        disk.directory(entry)
    elif entry.kind == "symlink":
        disk.symlink(entry)
    else:
        disk.node(entry)


def _finish(flats: list[Flat], directory: Path) -> None:
    """Gives the directories their modes and times. The topmost is not the image's, but the user's."""
    with Disk(str(directory), owners=False) as disk:
        for flat in flats:
            for entry in flat.plain:
                if entry.kind == "dir":
                    disk.directory(entry)
        disk.finish()


def _merge(source: Path, destination: Path) -> None:
    """Moves what is in one directory into another, in the place of what has the same name there. Symlinks are not followed."""
    for name in os.listdir(source):
        new, old = source / name, destination / name
        try:
            there = os.lstat(old).st_mode
        except FileNotFoundError:
            there = 0
        if stat.S_ISDIR(there):
            if stat.S_ISDIR(os.lstat(new).st_mode):
                if there & 0o700 != 0o700:
                    os.chmod(old, there & 0o7777 | 0o700)  # it gets the image's mode in the end
                _merge(new, old)
                continue
            remove_tree(old)
        elif there and stat.S_ISDIR(os.lstat(new).st_mode):
            os.unlink(old)
        os.rename(new, old)
    os.rmdir(source)


class _Tar:
    """A tar on its way into a file, in large pieces."""

    def __init__(self, file: BinaryIO, meter: Meter) -> None:
        self._file, self._meter = file, meter
        self._header = header_encoder()
        self._parts: list[bytes | memoryview] = []
        self._waiting = self._size = 0

    def entry(self, entry: Entry) -> None:
        """The header of an entry; the content of a file is to follow, and its padding."""
        self.data(self._header(entry))

    def data(self, data: bytes | memoryview) -> None:
        """More bytes."""
        self._parts.append(data)
        self._waiting += len(data)
        if self._waiting >= _CHUNK:
            self._flush()

    def close(self) -> None:
        """The end of the archive; the file stays open."""
        self.data(END)
        self.data(bytes(-(self._size + self._waiting) % _RECORD))
        self._flush()

    def _flush(self) -> None:
        write_all(self._file, b"".join(self._parts))
        self._parts.clear()
        self._size += self._waiting
        self._meter.moved(self._waiting)
        self._waiting = 0


async def _flats(built: Built, content: ContentStore, fetch: Fetch, index: IndexOf) -> list[Flat]:
    """The root of each image, once all layers that are needed are in the content store."""
    flats = []
    for image in built.images:
        indexes = [(layer, await index(layer)) for layer in image.layers]
        flat = await to_thread.run_sync(flatten, indexes)
        flats.append(flat if built.index is None else flat.below(str(image.platform).replace("/", "_").encode()))
    needed = {part.layer.blob.digest for flat in flats for part in flat.parts}
    await fetch_missing(tuple(b for b in layers_of(built, content) if b.descriptor.digest in needed), content, fetch)
    return flats
