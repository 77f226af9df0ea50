"""A layer's blob as its tar: decompressed and digested in one thread, read in the caller's."""

from __future__ import annotations

import hashlib
import threading
from queue import Queue
from types import TracebackType

from engine.errors import ContentError
from engine.layer.arriving import Arriving, BlobFile
from engine.layer.decompress import open_decompressor

_WAITING = 6
"""Pieces of a MiB at most, or little more."""


class Inflated:
    """The tar in a blob. A context manager; leaving it ends its thread.

    One thread for both: layers are unpacked side by side, and the reader and what feeds it are enough to keep two cores busy. With
    a third thread the one that has the interpreter's lock is the more often not the one that has a core.
    """

    def __init__(self, blob_path: str, *, algorithm: str = "sha256", arriving: Arriving | None = None) -> None:
        self._file = BlobFile(blob_path, arriving)
        self._stop = self._ended = False
        self._digest = hashlib.new(algorithm)
        self.size = 0
        """Bytes of the tar so far."""
        self._chunks: Queue[bytes | BaseException | None] = Queue(_WAITING)
        self._thread = threading.Thread(target=self._inflate, name="inflate", daemon=True)
        self._thread.start()

    def chunk(self) -> bytes:
        """The next piece of the tar, empty at its end; raises `ContentError` for a broken blob."""
        if self._ended:
            return b""
        item = self._chunks.get()
        if isinstance(item, bytes):
            self.size += len(item)
            return item
        self._ended = True
        if item is None:
            return b""
        raise item

    def diff_id(self) -> str:
        """The digest of the tar in hexadecimal, once all of it has been read."""
        if not self._ended:
            raise ContentError("the layer has not been read to its end")
        self._thread.join()
        return self._digest.hexdigest()

    def _inflate(self) -> None:
        try:
            for piece in open_decompressor(self._file.read):
                if self._stop:
                    break
                self._chunks.put(piece)
                self._digest.update(piece)
            self._chunks.put(None)
        except BaseException as error:
            self._chunks.put(error)

    def __enter__(self) -> Inflated:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop = True
        while not self._ended:
            self._ended = not isinstance(self._chunks.get(), bytes)
        self._thread.join()
        self._file.close()
