"""The files of a cache that is an OCI image layout (OCI image spec, image-layout.md), in a directory that others may write to.

Nothing in the directory is followed: every step of a path below it is opened relative to the one before, and a symbolic link, a
pipe or a device there is an error. What is read is bounded. New files are written under `ingest/`, locked by their writer, and get
their names when they are whole; what dead writers have left there, the next one removes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from engine.content import claims
from engine.errors import ContentError, NotFoundError, StorageError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest

INDEX, LAYOUT, LAYOUT_TEXT = "index.json", "oci-layout", b'{"imageLayoutVersion":"1.0.0"}'
MOST_INDEX = 16 << 20
"""Bytes of an index that are read: some 40,000 entries."""
CHUNK = 1 << 20

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe is opened without waiting, and refused then
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Stamp = tuple[int, int, int, int]
"""What changes when a file is replaced: device, inode, size and time."""


class LayoutFiles:
    """One directory; it need not be there before it is written to. All calls wait for the disk: they are made in threads.

    They raise `StorageError` for the directory as a whole, `NotFoundError` and `ContentError` for a blob.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether there is a cache, or something in its place that reading will tell of."""
        return os.path.lexists(f"{self.path}/{INDEX}")

    def index(self, known: Stamp | None = None) -> tuple[bytes | None, Stamp]:
        """The index's bytes, None if it is the known one; raises `NotFoundError` or `StorageError`."""
        with self._failing("read"):
            fd = _open_in(os.open(self.path, _FOLDER), INDEX)
            with open(fd, "rb", buffering=0) as file:
                status = os.fstat(fd)
                stamp = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
                if stamp == known:
                    return None, stamp
                if status.st_size > MOST_INDEX:
                    raise StorageError(f"its {INDEX} has {status.st_size} bytes, more than the limit of {MOST_INDEX}")
                return _read(file.read, status.st_size), stamp

    def size(self, digest: Digest) -> int | None:
        """Bytes of a blob, None when it is not there, or is no regular file."""
        try:
            folder = self._folder("blobs", digest.algorithm)
            try:
                status = os.stat(digest.hex, dir_fd=folder, follow_symlinks=False)
            finally:
                os.close(folder)
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def open(self, blob: Descriptor) -> int:
        """A blob's descriptor for reading; its size is right. Raises `NotFoundError`, `ContentError`."""
        try:
            fd = _open_in(self._folder("blobs", blob.digest.algorithm), blob.digest.hex)
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.path} has no blob {blob.digest}") from error
        except OSError as error:
            raise ContentError(f"blob {blob.digest} in {self.path} cannot be read: {error.strerror}") from error
        if (size := os.fstat(fd).st_size) != blob.size:
            os.close(fd)
            raise ContentError(f"blob {blob.digest} in {self.path} has {size} bytes instead of {blob.size}")
        return fd

    def read(self, blob: Descriptor, limit: int) -> bytes:
        """A small blob whole, its digest checked. Raises `NotFoundError`, `ContentError`."""
        if blob.size > limit:
            raise ContentError(f"blob {blob.digest} in {self.path} has {blob.size} bytes, more than the limit of {limit}")
        with open(self.open(blob), "rb", buffering=0) as file:
            try:
                data = _read(file.read, blob.size)
            except OSError as error:
                raise ContentError(f"blob {blob.digest} in {self.path} cannot be read: {error.strerror}") from error
        if hashlib.new(blob.digest.algorithm, data).hexdigest() != blob.digest.hex:
            raise ContentError(f"blob {blob.digest} in {self.path} does not have the digest it is named for")
        return data

    def add(self, blob: Descriptor, read: Callable[[int], bytes], stopped: Callable[[], object]) -> None:
        """Writes a blob, in place of what has its name; raises `ContentError` when `read` gives other bytes. `stopped` is asked now
        and then, and may raise."""
        digest, left = hashlib.new(blob.digest.algorithm), blob.size
        with self._failing("write"), self._new() as (ingest, fd, name):
            while data := read(CHUNK):
                stopped()
                digest.update(data)
                left -= len(data)
                if left < 0:
                    break
                _write(fd, data)
            if left or digest.hexdigest() != blob.digest.hex:
                raise ContentError(f"blob {blob.digest} is not what it should be: it cannot be put into {self.path}")
            folder = self._folder("blobs", blob.digest.algorithm, make=True)
            try:
                os.rename(name, blob.digest.hex, src_dir_fd=ingest, dst_dir_fd=folder)
            finally:
                os.close(folder)

    def lock(self) -> int:
        """The directory's descriptor, to be locked with `flock` by who changes the index (so does the output of type oci)."""
        with self._failing("write"):
            os.makedirs(self.path, exist_ok=True)
            return os.open(self.path, _FOLDER)

    def replace_index(self, data: bytes) -> None:
        """Writes the index, whole; the lock is held. It is the one file that is waited for to be on the disk: a lost blob is a
        miss, a lost index the loss of all."""
        if len(data) > MOST_INDEX:
            raise StorageError(f"cannot write {self.path}: its {INDEX} would have more than {MOST_INDEX} bytes",
                               hint="write to a new directory: what is found with --cache-from is copied there")  # fmt: skip
        with self._failing("write"):
            if not os.path.lexists(f"{self.path}/{LAYOUT}"):
                self._put(LAYOUT, LAYOUT_TEXT)
            self._put(INDEX, data)

    def _put(self, target: str, data: bytes) -> None:
        with self._new() as (ingest, fd, name):
            _write(fd, data)
            os.fsync(fd)
            root = os.open(self.path, _FOLDER)
            try:
                os.rename(name, target, src_dir_fd=ingest, dst_dir_fd=root)
            finally:
                os.close(root)

    @contextmanager
    def _new(self) -> Iterator[tuple[int, int, str]]:
        """A new file in `ingest/`: that folder's descriptor, its own and its name. What is not renamed in the end is removed."""
        os.makedirs(self.path, exist_ok=True)
        folder = self._folder("ingest", make=True)
        try:
            fd, name = _claim(folder)
            try:
                yield folder, fd, name
            finally:
                with suppress(OSError):
                    if _is_at(fd, folder, name):
                        os.unlink(name, dir_fd=folder)
                os.close(fd)
        finally:
            os.close(folder)

    def sweep(self) -> None:
        """Removes what dead writers have left."""
        with suppress(OSError):
            folder = self._folder("ingest")
            try:
                for name in os.listdir(folder):
                    with suppress(OSError):
                        _reclaim(folder, name)
            finally:
                os.close(folder)

    def _folder(self, *names: str, make: bool = False) -> int:
        fd = os.open(self.path, _FOLDER)
        for name in names:
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=fd)
                below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    @contextmanager
    def _failing(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if verb == "read" and error.errno == errno.ENOENT:
                raise NotFoundError(f"{self.path}: there is no cache") from error
            raise StorageError(f"{self.path}: {error.strerror}") from error


def _open_in(folder: int, name: str) -> int:
    """A regular file in a folder, whose descriptor is closed."""
    try:
        fd = os.open(name, _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, f"{name} is no regular file")
    return fd


def _read(read: Callable[[int], bytes], size: int) -> bytes:
    """So many bytes and no more, of a file that may change meanwhile."""
    parts: list[bytes] = []
    while size > 0 and (data := read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def _claim(folder: int) -> tuple[int, str]:
    while True:
        name = claims.unique()
        fd = os.open(name, _NEW, 0o644, dir_fd=folder)
        if claims.try_lock(fd) and _is_at(fd, folder, name):
            return fd, name
        os.close(fd)  # swept away before it was locked


def _reclaim(folder: int, name: str) -> None:
    fd = os.open(name, _FILE, dir_fd=folder)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(fd, folder, name):
            os.unlink(name, dir_fd=folder)
    finally:
        os.close(fd)


def _is_at(fd: int, folder: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False
