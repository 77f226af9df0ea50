"""Digests of the files of a context: those that are known from earlier builds, and the others by reading them.

Small files are hashed one after the other in few jobs: taking turns with another thread at every small read costs more than it
gives. So by default one thread does them all; worker processes share them when there are many; large files go side by side.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import anyio
import anyio.to_thread

from engine.context.digests import DigestStore
from engine.context.faults import show, unreadable
from engine.context.filekeys import DirectoryFiles, FileKey
from engine.context.files import Files
from engine.errors import ContextError, EngineError
from engine.layer.hashing import Hash, content_hash

Call = Callable[..., Awaitable[Any]]
"""Runs a module-level function with arguments somewhere and gives what it returns (`Workers.call`)."""

Row = tuple[bytes, int, int, int, int]
"""An absolute path, and of its key inode, size, mtime and ctime. A plain tuple, which goes to another process much faster than a
key does."""

_CHUNK = 1 << 20
_JOB_BYTES = 64 << 20
_JOB_FILES = 4000
MANY_FILES = 4000
"""From here on starting worker processes pays."""
_LARGE, _HUGE = 1 << 20, 1 << 63
_JOBS = 4
"""Jobs for worker processes that are made ready at a time."""


def hash_files(files: list[Row]) -> list[bytes | None]:
    """Digests of files' contents; None for one that is not, or does not stay, what its key says. Raises `OSError` with the
    file's name."""
    new = content_hash()
    out: list[bytes | None] = []
    for row in files:
        path = row[0]
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            out.append(_hash(new(), descriptor, row))
        except OSError as error:
            error.filename = path
            raise
        finally:
            os.close(descriptor)
    return out


def _hash(digest: Hash, descriptor: int, row: Row) -> bytes | None:
    _, inode, size, mtime, ctime = row
    left = size
    while left > 0 and (data := os.read(descriptor, left if left < _CHUNK else _CHUNK)):
        digest.update(data)
        left -= len(data)
    status = os.fstat(descriptor)
    same = not left and status.st_ino == inode and (status.st_size, status.st_mtime_ns, status.st_ctime_ns) == (size, mtime, ctime)
    return digest.digest() if same else None


class Hasher:
    """Digests of files by their keys. One is shared by all contexts of an engine: it reads with two threads at most, and with
    worker processes if it is given their `call`."""

    def __init__(self, store: DigestStore | None, call: Call | None = None) -> None:
        self._store = store
        self._call = call
        self._small = anyio.CapacityLimiter(1)
        self._large = anyio.CapacityLimiter(1)

    async def recall(self, files: Files) -> None:
        """Has files learn those digests that are known from earlier builds."""
        if self._store is not None and len(files):
            known = await anyio.to_thread.run_sync(self._store.lookup, (group.files for group in files.groups))
            for group, digests in zip(files.groups, known, strict=False):
                if digests:
                    group.listing.learn_all(group.places, digests)

    async def digests(self, root: bytes, path: Callable[[int], bytes], keys: Sequence[FileKey]) -> list[bytes]:
        """Digests of files below the directory `root`, `path` being that of each key, by reading them. Raises `ContextError` for a
        file that cannot be read or that changes while it is."""
        found: list[bytes | None] = [None] * len(keys)
        if len(keys):
            await self._hash(root, path, keys, found)
            if None in found:
                raise ContextError(f"{show(path(found.index(None)))} changed while the build read it",
                                   hint="nothing may write to the build context during a build")
        return [digest for digest in found if digest is not None]

    async def keep(self, directories: Iterable[DirectoryFiles], read_after: int) -> None:
        """Keeps digests of files that were read after a time (nanoseconds since the epoch) for later builds, if that can be."""
        if self._store is not None:
            await anyio.to_thread.run_sync(self._store.store, directories, read_after)

    async def _hash(self, root: bytes, path: Callable[[int], bytes], keys: Sequence[FileKey],
                    found: list[bytes | None]) -> None:
        prefix = root + b"/"
        sizes = [key.size for key in keys]
        places: list[tuple[list[int], anyio.CapacityLimiter]] = [
            *((job, self._small) for job in _divide(range(len(keys)), sizes, 0, _LARGE)),
            *((job, self._large) for job in _divide(range(len(keys)), sizes, _LARGE, _HUGE)),
        ]
        errors: list[EngineError] = []
        elsewhere = self._call if len(keys) >= MANY_FILES else None
        few = anyio.CapacityLimiter(_JOBS)

        async def one(places: list[int], limiter: anyio.CapacityLimiter) -> None:
            async with few if elsewhere is not None else limiter:
                job: list[Row] = [(prefix + path(at), *keys[at][1:]) for at in places]
                try:
                    if elsewhere is not None:
                        digests: list[bytes | None] = await elsewhere(hash_files, job)
                    else:
                        digests = await anyio.to_thread.run_sync(hash_files, job, abandon_on_cancel=True)
                except OSError as error:
                    errors.append(unreadable(os.fsencode(error.filename or b"").removeprefix(prefix), error))
                    group.cancel_scope.cancel()
                except EngineError as error:
                    errors.append(error)
                    group.cancel_scope.cancel()
                else:
                    for at, digest in zip(places, digests, strict=True):
                        found[at] = digest

        async with anyio.create_task_group() as group:
            for job in places:
                group.start_soon(one, *job)
        if errors:
            raise errors[0]


def _divide(places: Sequence[int], sizes: list[int], least: int, most: int) -> list[list[int]]:
    """The places of the files of `least` bytes and more, but less than `most`, in jobs of about equal weight."""
    jobs: list[list[int]] = []
    job: list[int] = []
    weight = 0
    for place, size in zip(places, sizes, strict=True):
        if least <= size < most:
            if not job or weight > _JOB_BYTES or len(job) >= _JOB_FILES:
                job = []
                jobs.append(job)
                weight = 0
            job.append(place)
            weight += size
    return jobs
