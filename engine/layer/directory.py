"""A layer's own directory while it is made, from a blob or from changes: nothing is in it but what was put there."""

from __future__ import annotations

from engine.layer.contents import Contents
from engine.layer.disk import Disk
from engine.layer.entries import Entry


class LayerDirectory:
    """The directory, and the model of what is in it (`contents`). Raises `OSError` for what cannot be written."""

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
