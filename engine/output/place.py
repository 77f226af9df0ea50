"""Where a file output goes, and how far it has come."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from anyio import from_thread
from msgspec import Struct

from engine.output.blobs import Progress

_TELL = 4 << 20


class Place(Struct, frozen=True):
    """Where files go: a path, or a file that is open for writing (then always an archive)."""

    destination: Path | BinaryIO
    archive: bool = True

    def __str__(self) -> str:
        return str(self.destination) if isinstance(self.destination, Path) else "standard output"


class Meter:
    """Counts what is written, in the thread that writes: tells of it now and then, and ends the work when it is cancelled."""

    def __init__(self, what: str, total: int, progress: Progress | None) -> None:
        self._what, self._total, self._progress = what, total, progress
        self._done = self._told = 0

    def moved(self, count: int) -> None:
        """So many bytes more."""
        from_thread.check_cancelled()
        self._done += count
        if self._progress and self._done - self._told >= _TELL:
            self._told = self._done
            from_thread.run_sync(self._progress, self._what, min(self._done, self._total), self._total)
