"""A blob that is sent while it is still being written, here: the mirror of `arriving`."""

from __future__ import annotations

import os
from contextlib import suppress
from types import TracebackType

WORTH = 2 << 20
"""Bytes by which a file has to grow for that to be said: less is not worth being sent by itself."""


class Signals:
    """Says that a file has grown, to whoever has made the fifo at this path and reads it; without a path, to nobody. A context
    manager."""

    def __init__(self, path: str) -> None:
        self._fd = -1
        self._said = 0
        if path:
            with suppress(OSError):  # nobody reads it any more
                self._fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def grown(self, size: int) -> None:
        """So many bytes are in the file now. Who is far behind need not be told again, nor who has gone."""
        if self._fd >= 0 and size >= self._said + WORTH:
            self._said = size
            with suppress(OSError):
                os.write(self._fd, b"+")

    def __enter__(self) -> Signals:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._fd >= 0:
            os.close(self._fd)
