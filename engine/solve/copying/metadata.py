"""Owner, mode and kind of what is copied."""

from __future__ import annotations

from engine.layer.entries import Entry
from engine.solve.copying.modes import Mode, parse_mode
from engine.solve.copying.request import CopyRequest

CAPABILITY = "security.capability"
"""The one extended attribute that layers keep."""


class Metadata:
    """What `--chown`, `--chmod` and the kind of source make of entries."""

    def __init__(self, request: CopyRequest) -> None:
        self.mode: Mode | None = parse_mode(request.mode) if request.mode else None
        self.owner: tuple[int, int] = request.owner or (0, 0)
        """Of directories that are made on the way."""
        self.made_mode: int = 0o755
        if self.mode is not None and self.mode.octal is not None:
            self.made_mode = self.mode.octal & 0o777
        self._forced = request.owner or (None if request.keep_owner else (0, 0))
        self._keep_capability = request.keep_owner

    def entry(self, path: bytes, source: Entry) -> Entry:
        """The entry that a source becomes at `path`."""
        _, kind, mode, uid, gid, size, mtime, link, digest, major, minor, xattrs = source
        if self._forced is not None:
            uid, gid = self._forced
        if self.mode is not None and kind != "symlink":
            mode = self.mode.apply(mode, kind == "dir")
        if kind == "block":
            kind = "char"
        if xattrs:
            xattrs = tuple(pair for pair in xattrs if pair[0] == CAPABILITY) if self._keep_capability else ()
        return Entry(path, kind, mode, uid, gid, size, mtime, link, digest, major, minor, xattrs)
