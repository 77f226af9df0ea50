"""Blobs that are being written, as slowly as a test wants."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from types import TracebackType

from engine.image.descriptor import OCTETS, Descriptor
from engine.image.digest import Digest
from engine.layer.departing import WORTH, Signals
from engine.solve.departure import Departure

PIECE = WORTH
"""Bytes of a piece."""


class Writing:
    """A blob's file and who writes it: `write` appends a piece, `end` publishes the blob as the content store does."""

    def __init__(self, folder: Path, pieces: int = 3, seed: int = 0) -> None:
        self.data = random.Random(seed).randbytes(pieces * PIECE + 5)
        self.blob = Descriptor(OCTETS, Digest("sha256", hashlib.sha256(self.data).hexdigest()), len(self.data))
        self._path, self._final = folder / f"growing-{seed}", folder / f"blob-{seed}"
        self._path.touch()
        self.departure = Departure(self._path, folder / f"signals-{seed}")
        self._written = 0

    def write(self, size: int = PIECE) -> None:
        """The next piece."""
        with open(self._path, "ab") as file:
            file.write(self.data[self._written : self._written + size])
        self._written = min(self._written + size, len(self.data))
        self._signals.grown(self._written)

    def end(self) -> None:
        """What is left, and the end."""
        self.write(len(self.data))
        self._path.rename(self._final)
        self.departure.made(self.blob, self._final)
        self.__exit__(None, None, None)

    def __enter__(self) -> Writing:
        self.departure.__enter__()
        self._signals = Signals(str(self.departure.signals))
        self._open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Without `end` it was given up."""
        if self._open:
            self._open = False
            self._signals.__exit__(None, None, None)
            self._path.unlink(missing_ok=True)
            self.departure.__exit__(None, None, None)
