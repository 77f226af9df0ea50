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

Job = list[tuple[bytes, FileKey]]

_CHUNK = 1 << 20
_JOB_BYTES = 64 << 20
_JOB_FILES = 4000
_MANY_FILES = 4000
"""From here on starting worker processes pays."""
_LARGE = 1 << 20


def hash_files(files: Job) -> list[str | None]:
    """sha256 (hexadecimal) of files by absolute path; None for one that is not, or does not stay, what its key says. Raises
    `OSError` with the file's name."""
    out: list[str | None] = []
    for path, key in files:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            out.append(_hash(descriptor, key))
        except OSError as error:
            error.filename = path
            raise
        finally:
            os.close(descriptor)
    return out


def _hash(descriptor: int, key: FileKey) -> str | None:
    digest = hashlib.sha256()
    left = key.size
    while left > 0 and (data := os.read(descriptor, min(left, _CHUNK))):
        digest.update(data)
        left -= len(data)
    status = os.fstat(descriptor)
    same = not left and (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino) == (*key[2:], key.inode)
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

    async def _hash(self, root: bytes, files: Job) -> list[str]:
        absolute = [(root + b"/" + path, key) for path, key in files]
        places: list[tuple[list[int], anyio.CapacityLimiter]] = [
            *((job, self._small) for job in _divide(files, lambda size: size < _LARGE)),
            *((job, self._large) for job in _divide(files, lambda size: size >= _LARGE)),
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


def _divide(files: Job, chosen: Callable[[int], bool]) -> list[list[int]]:
    """The places of the files whose size is chosen, in jobs of about equal weight."""
    jobs: list[list[int]] = []
    weight = 0
    for place, (_, key) in enumerate(files):
        if not chosen(key.size):
            continue
        if not jobs or weight > _JOB_BYTES or len(jobs[-1]) >= _JOB_FILES:
            jobs.append([])
            weight = 0
        jobs[-1].append(place)
        weight += key.size
    return jobs
