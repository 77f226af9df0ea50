"""Opening files below a directory that others may be changing, without ever following a link out of it."""

from __future__ import annotations

import os
from types import TracebackType

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a fifo in a file's place must not make us wait


class Below:
    """A directory. Paths are walked a name at a time, and directories on the way to the last one are kept open: paths are best
    asked for in their order. A context manager. Raises `OSError`."""

    def __init__(self, directory: str) -> None:
        self._open = [(b"", os.open(directory, _DIRECTORY))]

    def directory(self, path: bytes) -> int:
        """A descriptor of a directory, valid until the next call."""
        names = path.split(b"/") if path else []
        common = 0
        while common < min(len(names), len(self._open) - 1) and self._open[common + 1][0] == names[common]:
            common += 1
        while len(self._open) > common + 1:
            os.close(self._open.pop()[1])
        for name in names[common:]:
            self._open.append((name, os.open(name, _DIRECTORY, dir_fd=self._open[-1][1])))
        return self._open[-1][1]

    def file(self, path: bytes) -> int:
        """A new descriptor of what has this path, opened for reading, which the caller closes."""
        above, _, name = path.rpartition(b"/")
        return os.open(name, _FILE, dir_fd=self.directory(above))

    def __enter__(self) -> Below:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._open:
            os.close(self._open.pop()[1])
