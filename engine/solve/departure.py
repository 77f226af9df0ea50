"""The receiving side of `engine.layer.departing`: a worker process that writes a blob tells how far it is, and others send it."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import anyio

from engine.image.descriptor import Descriptor
from engine.layer.departing import WORTH


class Departure:
    """A blob on its way into the content store; implements `engine.registry.base.Growing`. A context manager around the writing;
    `signals` is the path of a fifo that it makes and removes. Left before `made` was called, nothing came of it."""

    def __init__(self, path: Path, signals: Path) -> None:
        self.path = path
        self.signals = signals
        self.blob: Descriptor | None = None
        self._size = 0
        self._grown = anyio.Event()
        self._ended = anyio.Event()
        self._fifo = self._file = -1

    def open(self) -> int:
        """See `Growing.open`."""
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    async def more(self, have: int) -> int:
        """See `Growing.more`."""
        while not self._ended.is_set():
            size = os.fstat(self._file).st_size
            if size >= have + WORTH:
                return size
            await self._grown.wait()
        return self._size

    async def outcome(self) -> tuple[Descriptor, Path] | None:
        """See `Growing.outcome`."""
        await self._ended.wait()
        return (self.blob, self.path) if self.blob else None

    def made(self, blob: Descriptor, path: Path) -> None:
        """The blob is whole, and lies there now."""
        self.blob, self.path, self._size = blob, path, blob.size

    def _more(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fifo, 1 << 16)
        self._grown.set()
        self._grown = anyio.Event()

    def __enter__(self) -> Departure:
        os.mkfifo(self.signals, 0o600)
        self._fifo = os.open(self.signals, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # also for writing: no writer is not the end
        self._file = self.open()
        asyncio.get_running_loop().add_reader(self._fifo, self._more)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.get_running_loop().remove_reader(self._fifo)
        os.close(self._fifo)
        os.close(self._file)
        self.signals.unlink(missing_ok=True)
        self._ended.set()
        self._grown.set()
