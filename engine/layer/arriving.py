"""A blob that is read while it is still being written: by a download in another process, into a file that grows."""

from __future__ import annotations

import os

from msgspec import Struct

from engine.errors import StorageError


class Arriving(Struct, frozen=True):
    """The file at `path` is growing. The fifo at `signals` says so: something comes out of it when there is more to read, and its
    end is the end of the writing, whether or not all has come. A blob that is cut short looks like any other that is."""

    path: str
    signals: str


class BlobFile:
    """A blob to be read from its beginning to its end. `arriving` may have come to its end, and have been moved to `path`, by
    now. Raises `StorageError` when there is nothing to read."""

    def __init__(self, path: str, arriving: Arriving | None = None) -> None:
        self._signals = -1
        try:
            if arriving is not None:
                self._signals = os.open(arriving.signals, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # waits for no writer
                os.set_blocking(self._signals, True)
                try:
                    self._file = os.open(arriving.path, os.O_RDONLY | os.O_CLOEXEC)
                    return
                except FileNotFoundError:
                    self._end_of_signals()
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._end_of_signals()
            raise StorageError(f"cannot read {path}: {error.strerror}") from error

    def read(self, size: int) -> bytes:
        """Up to so many bytes, as soon as there are some; none at the end."""
        while True:
            ended = self._signals < 0
            data = os.read(self._file, size)
            if data or ended:
                return data
            if not os.read(self._signals, 1 << 16):
                self._end_of_signals()

    def close(self) -> None:
        """Closes the file."""
        self._end_of_signals()
        os.close(self._file)

    def _end_of_signals(self) -> None:
        if self._signals >= 0:
            os.close(self._signals)
            self._signals = -1
