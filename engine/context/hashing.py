"""Digests of the files of a context: those that are known from earlier builds, and the others by reading them.

Small files are hashed one after the other in few jobs: taking turns with another thread at every small read costs more than it
gives. So by default one thread does them all; worker processes share them when there are many; large files go side by side.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.to_thread

from engine.context.digests import DigestStore, FileKey
from engine.context.faults import show, unreadable
from engine.errors import ContextError, EngineError

EMPTY = hashlib.sha256(b"").hexdigest()

Call = Callable[..., Awaitable[list[str | None]]]
"""Runs a module-level function with arguments somewhere and gives what it returns (`Workers.call`)."""

Files = list[tuple[bytes, FileKey]]
Row = tuple[bytes, int, int, int, int]
"""An absolute path, and of its key inode, size, mtime and ctime. A plain tuple, which goes to another process much faster than a
key does."""

_CHUNK = 1 << 20
_JOB_BYTES = 64 << 20
_JOB_FILES = 4000
_MANY_FILES = 4000
"""From here on starting worker processes pays."""
_LARGE, _HUGE = 1 << 20, 1 << 63


def hash_files(files: list[Row]) -> list[str | None]:
    """sha256 (hexadecimal) of files; None for one that is not, or does not stay, what its key says. Raises `OSError` with the
    file's name."""
    out: list[str | None] = []
    for row in files:
        path = row[0]
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            out.append(_hash(descriptor, row))
        except OSError as error:
            error.filename = path
            raise
        finally:
            os.close(descriptor)
    return out


def _hash(descriptor: int, row: Row) -> str | None:
    _, inode, size, mtime, ctime = row
    digest = hashlib.sha256()
    left = size
    while left > 0 and (data := os.read(descriptor, left if left < _CHUNK else _CHUNK)):
        digest.update(data)
        left -= len(data)
    status = os.fstat(descriptor)
    same = not left and status.st_ino == inode and (status.st_size, status.st_mtime_ns, status.st_ctime_ns) == (size, mtime, ctime)
    return digest.hexdigest() if same else None


class Hasher:
    """Digests of files by their keys. One is shared by all contexts of an engine: it reads with two threads at most, and with
    worker processes if it is given their `call`."""

    def __init__(self, store: DigestStore | None, call: Call | None = None) -> None:
        self._store = store
        self._call = call
        self._small = anyio.CapacityLimiter(1)
        self._large = anyio.CapacityLimiter(1)

    async def digests(self, root: bytes, paths: Sequence[bytes], keys: Sequence[FileKey]) -> dict[bytes, str]:
        """sha256 of the files `paths` below the directory `root`. Raises `ContextError` for a file that cannot be read or that
        changes while it is."""
        out = {path: EMPTY for path, key in zip(paths, keys, strict=True) if not key.size}
        wanted = [(path, key) for path, key in zip(paths, keys, strict=True) if key.size]
        known = await self._known([key for _, key in wanted])
        missing: list[tuple[bytes, FileKey]] = []
        for (path, key), digest in zip(wanted, known, strict=True):
            if digest is None:
                missing.append((path, key))
            else:
                out[path] = digest
        if missing:
            began = time.time_ns()
            for (path, _), digest in zip(missing, await self._hash(root, missing), strict=True):
                out[path] = digest
            if self._store is not None:
                pairs = [(key, out[path]) for path, key in missing]
                await anyio.to_thread.run_sync(self._store.store, pairs, began)
        return out

    async def _known(self, keys: list[FileKey]) -> list[str | None]:
        if self._store is None or not keys:
            return [None] * len(keys)
        return await anyio.to_thread.run_sync(self._store.lookup, keys)

    async def _hash(self, root: bytes, files: Files) -> list[str]:
        prefix = root + b"/"
        absolute: list[Row] = [(prefix + path, *key[1:]) for path, key in files]
        places: list[tuple[list[int], anyio.CapacityLimiter]] = [
            *((job, self._small) for job in _divide(absolute, 0, _LARGE)),
            *((job, self._large) for job in _divide(absolute, _LARGE, _HUGE)),
        ]
        found: list[str | None] = [None] * len(files)
        errors: list[EngineError] = []
        elsewhere = self._call if len(files) >= _MANY_FILES else None

        async def one(places: list[int], limiter: anyio.CapacityLimiter) -> None:
            job = [absolute[place] for place in places]
            try:
                if elsewhere is not None:
                    digests = await elsewhere(hash_files, job)
                else:
                    digests = await anyio.to_thread.run_sync(hash_files, job, limiter=limiter, abandon_on_cancel=True)
            except OSError as error:
                errors.append(unreadable(os.fsencode(error.filename or b"").removeprefix(root + b"/"), error))
                group.cancel_scope.cancel()
            except EngineError as error:
                errors.append(error)
                group.cancel_scope.cancel()
            else:
                for place, digest in zip(places, digests, strict=True):
                    found[place] = digest

        async with anyio.create_task_group() as group:
            for job in places:
                group.start_soon(one, *job)
        if errors:
            raise errors[0]
        return [_same(path, digest) for (path, _), digest in zip(files, found, strict=True)]


def _same(path: bytes, digest: str | None) -> str:
    if digest is None:
        raise ContextError(f"{show(path)} changed while the build read it",
                           hint="nothing may write to the build context during a build")
    return digest


def _divide(files: list[Row], least: int, most: int) -> list[list[int]]:
    """The places of the files of `least` bytes and more, but less than `most`, in jobs of about equal weight."""
    jobs: list[list[int]] = []
    job: list[int] = []
    weight = 0
    for place, (_, _, size, _, _) in enumerate(files):
        if least <= size < most:
            if not job or weight > _JOB_BYTES or len(job) >= _JOB_FILES:
                job = []
                jobs.append(job)
                weight = 0
            job.append(place)
            weight += size
    return jobs
