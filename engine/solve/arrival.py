"""The sending side of `engine.layer.arriving`: a download that tells a worker process, which unpacks it, how far it is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import anyio

from engine.layer.arriving import Arriving


class Arrival:
    """A blob on its way into the content store. A context manager; `signals` is the path of a fifo that it makes and removes."""

    def __init__(self, signals: Path) -> None:
        self._signals = signals
        self._path: Path | None = None
        self._decided = anyio.Event()
        self._fd = -1

    async def arriving(self) -> Arriving | None:
        """What to read from, as soon as that is known; None when the blob does not come by this way, but as a whole."""
        await self._decided.wait()
        return Arriving(str(self._path), str(self._signals)) if self._path else None

    def begin(self, path: Path) -> None:
        """The download begins, into this file. Should it begin anew, into another one, who reads has to do so too."""
        if not self._decided.is_set():
            self._path = path
            self._decided.set()

    def more(self) -> None:
        """There is more to read. A reader that is far behind need not be told again."""
        with suppress(BlockingIOError):
            os.write(self._fd, b"+")

    def end(self) -> None:
        """Nothing more comes."""
        self._decided.set()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Arrival:
        os.mkfifo(self._signals, 0o600)
        self._fd = os.open(self._signals, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # also for reading: no reader is no error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()
        self._signals.unlink(missing_ok=True)
