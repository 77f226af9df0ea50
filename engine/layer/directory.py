"""A layer's own directory while it is made, by who unpacks the layer or who packs it: nothing is in it but what was put there."""

from __future__ import annotations

import os
from types import TracebackType

from engine.layer.contents import Contents
from engine.layer.disk import Disk, failed
from engine.layer.entries import Entry
from engine.layer.tarcodec import TYPES, layer_name
from engine.layer.tarstream import Member


class LayerDirectory:
    """The directory, and the model of what is in it (`contents`). Raises `OSError` for what cannot be written, if nothing else is
    said."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.contents = Contents(self._implicit)

    def put(self, entry: Entry) -> None:
        """An entry of `contents` that is no regular file."""
        contents, disk = self.contents, self.disk
        path, kind = entry.path, entry.kind
        if kind == "dir":
            disk.directory(entry)
            if ("whiteout", path) in contents.removals:
                disk.opaque(path)
        elif kind == "symlink":
            disk.symlink(entry)
        elif kind == "hardlink":
            if entry.link in contents.entries:
                disk.hardlink(entry)
        elif kind == "whiteout":
            self._whiteout(path)
        elif kind == "opaque":
            disk.opaque(path)
        else:
            disk.node(entry)

    def _whiteout(self, path: bytes) -> None:
        """Of a directory of the same layer it hides what lower layers have in it; any other entry hides the lower one anyway."""
        contents = self.contents
        if path in contents.dirs:
            self.disk.opaque(path)
        elif path not in contents.entries and ("whiteout", path) not in contents.removals:
            self.disk.whiteout(path)

    def _implicit(self, path: bytes) -> None:
        try:
            self.disk.implicit(path)
        except FileExistsError:  # there is a whiteout; as a directory, it hides what is below
            self.disk.remove(path)
            self.disk.implicit(path)
            self.disk.opaque(path)


class PackedDirectory:
    """The directory of a layer that is being packed. It comes to be what unpacking the blob would make, and none of that is read,
    inflated and digested again. Raises `StorageError` for what cannot be written. A context manager."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._directory = LayerDirectory(disk)
        self._file = PackedFile(disk)

    @property
    def contents(self) -> Contents:
        """What is in it."""
        return self._directory.contents

    def put(self, entry: Entry) -> PackedFile | None:
        """The next entry as it is in the tar. If it makes a regular file, gives that, to be written and sealed before the next."""
        try:
            found = self.contents.entry(_member(entry))
            if found is None:
                return None
            if found.kind == "file":
                self._file.create(found)
            else:
                self._directory.put(found)
            self.contents.add(found)
            return self._file if found.kind == "file" else None
        except OSError as error:
            raise failed(entry.path, error) from error

    def finish(self) -> None:
        """Gives directories what they are to have when all else is done."""
        try:
            self._disk.finish()
        except OSError as error:
            raise failed(b"", error) from error

    def __enter__(self) -> PackedDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


class PackedFile:
    """The regular file that is being written, one after the other. Raises `StorageError`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._entry = Entry(b"", "file")
        self._file = -1

    def create(self, entry: Entry) -> None:
        """Begins the next file. Raises `OSError`."""
        self._entry, self._file = entry, self._disk.create(entry)

    def write(self, data: memoryview) -> None:
        """The next bytes of it."""
        try:
            while (done := os.write(self._file, data)) < len(data):
                data = data[done:]
        except OSError as error:
            raise failed(self._entry.path, error) from error

    def seal(self) -> None:
        """The file has its content, and is given the rest."""
        try:
            self._disk.seal(self._file, self._entry)
        except OSError as error:
            raise failed(self._entry.path, error) from error
        self.close()

    def close(self) -> None:
        """Lets go of a file that has not been sealed."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _member(entry: Entry) -> Member:
    """What one reads of an entry in the tar."""
    _, kind, mode, uid, gid, size, mtime, link, _, major, minor, xattrs = entry
    size = size if kind == "file" else 0
    return Member(layer_name(entry), TYPES[kind][0], mode, uid, gid, size, mtime, link, major, minor, xattrs, 0, size)
