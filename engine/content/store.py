"""Blobs in a directory: `blobs/<algorithm>/<hex>`, laid out as in an OCI image layout, and `ingest/` for what is on its way.

Why nothing here calls fsync. A killed process loses nothing: the bytes are the kernel's by then. A machine that loses power
may lose what was written in its last half minute, and a blob is a thing that can be had again. What must not happen is that
half a blob counts as whole. Filesystems that write data before the size that covers it (ext4 as it comes, xfs, btrfs, f2fs)
leave such a file shorter than it was, most often empty; so an empty file is no blob here, `size` is compared by everyone who
knows what it should be (cache records and descriptors do), `commit` puts a new file in place of an old one, and small blobs
are digested whenever they are read. Waiting for the disk instead would cost 4 ms for each small blob and as long as the disk
takes for the big ones, on every build, for a case in which the machine has lost power.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from engine.content import claims
from engine.content.faults import storage_error, storing
from engine.errors import ContentError, StorageError
from engine.image.digest import Digest

_EMPTY = {"sha256": hashlib.sha256().hexdigest(), "sha512": hashlib.sha512().hexdigest()}


class FileWriter:
    """A blob that is being written into a file in `ingest/`, which this object has claimed."""

    def __init__(self, store: DirectoryStore, expected: Digest | None, size: int | None, elsewhere: bool) -> None:
        self._store = store
        self._expected = expected
        self._size = size
        self._hash = None if elsewhere else hashlib.new(expected.algorithm if expected else "sha256", usedforsecurity=False)
        self._written = 0
        self._fd, self.path = store.claim()

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes and digests them; raises `StorageError` when they cannot be written, `ContentError` as soon as there
        are more than were announced."""
        if self._hash is None:
            raise ValueError("this blob is written elsewhere")
        self._written += len(data)
        if self._size is not None and self._written > self._size:
            raise ContentError(f"blob {self._expected or ''} is larger than the announced {self._size} bytes")
        self._hash.update(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view):]
        except OSError as error:
            raise storage_error(error, self.path) from error

    def commit(self, digest: Digest | None = None, size: int | None = None) -> Digest:
        """Publishes the blob under its digest, see `BlobWriter.commit`. A blob written elsewhere must be given a digest here
        or when the writer was made."""
        actual = self._check(digest, size)
        with storing(self.path):
            self._store.publish(self.path, actual)
        self._close()
        return actual

    def _check(self, digest: Digest | None, size: int | None) -> Digest:
        found = os.fstat(self._fd).st_size
        for wanted_size in (self._size, size, self._written if self._hash else None):
            if wanted_size is not None and found != wanted_size:
                raise ContentError(f"blob {digest or self._expected or ''} has {found} bytes instead of {wanted_size}")
        if self._hash is not None:
            algorithm = self._hash.name
            if digest is not None and digest.algorithm != algorithm:
                raise ValueError(f"the blob was digested with {algorithm}, not {digest.algorithm}")
            actual = Digest(algorithm, self._hash.hexdigest())
        elif (given := digest or self._expected) is None:
            raise ValueError("a blob that was written elsewhere needs a digest")
        else:
            actual = given
        for wanted in (self._expected, digest):
            if wanted is not None and wanted != actual:
                raise ContentError(f"blob has digest {actual} instead of {wanted}",
                                   hint="the bytes were changed on their way; try again")
        return actual

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._close()


class DirectoryStore:
    """The content store in a directory, which is made when the first blob is written. Any number of processes and threads may
    use it at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._ingest = root / "ingest"
        self._blobs = f"{root}/blobs"
        self._reclaimed = False

    def path(self, digest: Digest) -> Path:
        """Where the blob lies, whether or not it is here."""
        return Path(f"{self._blobs}/{digest.algorithm}/{digest.hex}")

    def size(self, digest: Digest) -> int | None:
        """Bytes of the blob, None when it is not here."""
        try:
            size = os.stat(f"{self._blobs}/{digest.algorithm}/{digest.hex}").st_size
        except OSError:
            return None
        return size if size or digest.hex == _EMPTY[digest.algorithm] else None

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here. Who knows its size compares that with `size`, see above."""
        return self.size(digest) is not None

    def writer(self, *, expected: Digest | None = None, size: int | None = None, written_elsewhere: bool = False) -> FileWriter:
        """A new blob, see `ContentStore.writer`; raises `StorageError` when the directory cannot be written."""
        return FileWriter(self, expected, size, written_elsewhere)

    def put(self, data: bytes) -> Digest:
        """Stores some bytes and returns their digest; nothing is written when they are here."""
        digest = Digest.of(data)
        if self.size(digest) != len(data):
            with self.writer(expected=digest, size=len(data)) as writer:
                writer.write(data)
                writer.commit()
        return digest

    def get(self, digest: Digest, limit: int = 8 << 20) -> bytes | None:
        """A small blob whole, see `ContentStore.get`; raises `ContentError` when it is larger than `limit` bytes."""
        path = self.path(digest)
        try:
            with open(path, "rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        if len(data) > limit:
            raise ContentError(f"blob {digest} is larger than the limit of {limit} bytes")
        if hashlib.new(digest.algorithm, data, usedforsecurity=False).hexdigest() != digest.hex:
            self.remove(digest)
            return None
        return data

    def remove(self, digest: Digest) -> None:
        """Forgets a blob; no error when it is not here."""
        with storing(self.path(digest)):
            self.path(digest).unlink(missing_ok=True)

    def blobs(self) -> list[tuple[Digest, int, float]]:
        """All blobs: digest, size in bytes (0 for one that was cut off) and when it was stored, seconds since the epoch."""
        out: list[tuple[Digest, int, float]] = []
        for algorithm in _EMPTY:
            for path in claims.entries(Path(self._blobs) / algorithm):
                with suppress(OSError, ContentError):
                    stat = path.stat()
                    out.append((Digest(algorithm, path.name), stat.st_size, stat.st_mtime))
        return out

    def reclaim(self) -> int:
        """Removes what writers left in `ingest/` whose processes are gone; returns how many. Done once by itself, before the
        first write."""
        self._reclaimed = True
        count = 0
        for path in claims.entries(self._ingest):
            with claims.abandoned(path) as dead:
                if dead:
                    with suppress(OSError):
                        path.unlink()
                        count += 1
        return count

    def claim(self) -> tuple[int, Path]:
        """A new file in `ingest/` for a writer: descriptor and path."""
        with storing(self._ingest):
            if not self._reclaimed:
                self.reclaim()
            return claims.new_file(self._ingest)

    def publish(self, path: Path, digest: Digest) -> None:
        """Gives a verified file of `ingest/` its final name, in place of what has it. Raises `OSError`."""
        target = f"{self._blobs}/{digest.algorithm}/{digest.hex}"
        try:
            os.rename(path, target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(path, target)
