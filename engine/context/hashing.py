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
from engine.context.filekeys import DirectoryFiles
from engine.context.files import Files, Row
from engine.errors import ContextError, EngineError
from engine.layer.entries import join
from engine.layer.hashing import Hash, content_hash

Call = Callable[..., Awaitable[Any]]
"""Runs a module-level function with arguments somewhere and gives what it returns (`Workers.call`)."""

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

    async def digests(self, root: bytes, directory: bytes, files: Files) -> list[bytes]:
        """Digests of files below a directory of the context that lies at `root`, by reading them. Raises `ContextError` for
        one that cannot be read or that changes while it is."""
        found: list[bytes | None] = [None] * len(files)
        if len(files):
            await self._hash(root + b"/", directory, files, found)
            if None in found:
                raise ContextError(f"{show(join(directory, files.path(found.index(None))))} changed while the build read it",
                                   hint="nothing may write to the build context during a build")
        return [digest for digest in found if digest is not None]

    async def keep(self, directories: Iterable[DirectoryFiles], read_after: int) -> None:
        """Keeps digests of files that were read after a time (nanoseconds since the epoch) for later builds, if that can be."""
        if self._store is not None:
            await anyio.to_thread.run_sync(self._store.store, directories, read_after)

    async def _hash(self, prefix: bytes, directory: bytes, files: Files, found: list[bytes | None]) -> None:
        sizes, above = files.sizes(), prefix + directory + b"/" if directory else prefix
        places: list[tuple[list[int], anyio.CapacityLimiter]] = [
            *((job, self._small) for job in _divide(range(len(files)), sizes, 0, _LARGE)),
            *((job, self._large) for job in _divide(range(len(files)), sizes, _LARGE, _HUGE)),
        ]
        errors: list[EngineError] = []
        elsewhere = self._call if len(files) >= MANY_FILES else None
        few = anyio.CapacityLimiter(_JOBS)

        async def one(places: list[int], limiter: anyio.CapacityLimiter) -> None:
            async with few if elsewhere is not None else limiter:
                job = files.rows(above, places)
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
