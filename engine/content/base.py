"""The content store's contract: blobs by digest, in a directory that several processes share.

Life of a blob: a writer gets a temporary file, bytes go in, `commit` checks digest and size, and the file is renamed to its
name. So a name that exists has whole, verified content, whatever was killed when. Committing a blob that is there already
is no error. Nothing here waits for a network; calls are short (a stat, a rename) and therefore synchronous.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from engine.image.digest import Digest


class BlobWriter(Protocol):
    """One blob on its way in. Used as a context manager: leaving it without `commit` removes what was written."""

    path: Path
    """The temporary file; a worker process may write it instead of `write`, then `commit` is told the digest."""

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes and digests them; raises `StorageError` when the disk is full."""

    def commit(self, digest: Digest | None = None, size: int | None = None) -> Digest:
        """Publishes the blob and returns its digest. What was expected of digest and size is checked first, and raises
        `ContentError`. With `written_elsewhere` writers the given digest is taken as computed by whoever wrote it."""

    def __enter__(self) -> BlobWriter: ...

    def __exit__(self, *exc: object) -> None: ...


class ContentStore(Protocol):
    """Blobs by digest."""

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here, whole."""

    def path(self, digest: Digest) -> Path:
        """Where the blob lies, whether or not it is here."""

    def size(self, digest: Digest) -> int | None:
        """Bytes of the blob, None when it is not here."""

    def writer(self, *, expected: Digest | None = None, size: int | None = None, written_elsewhere: bool = False) -> BlobWriter:
        """A new blob of which digest and size may be known beforehand."""

    def put(self, data: bytes) -> Digest:
        """Stores some bytes (a manifest, a config) and returns their digest."""

    def get(self, digest: Digest, limit: int = 8 << 20) -> bytes | None:
        """A small blob whole, its digest checked; None when it is not here; a corrupt one is removed and counts as absent."""

    def remove(self, digest: Digest) -> None:
        """Forgets a blob; no error when it is not here."""
