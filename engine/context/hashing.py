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
from engine.errors import ContextError

EMPTY = hashlib.sha256(b"").hexdigest()

Call = Callable[..., Awaitable[list[str | None]]]
"""Runs a module-level function with arguments somewhere and gives what it returns (`Workers.call`)."""

Job = list[tuple[bytes, FileKey]]

_CHUNK = 1 << 20
_JOB_BYTES = 64 << 20
_JOB_FILES = 4000
_MANY_FILES = 4000
"""From here on starting worker processes pays."""


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
    """Digests of files by their keys. `call` is for worker processes, if there are any."""

    def __init__(self, store: DigestStore | None, call: Call | None = None) -> None:
        self._store = store
        self._call = call

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
        jobs = _divide([(root + b"/" + path, key) for path, key in files])
        out: list[list[str | None]] = [[] for _ in jobs]
        elsewhere = self._call if self._call is not None and len(files) >= _MANY_FILES else None
        limiter = anyio.CapacityLimiter(2 if elsewhere is None else len(jobs))

        async def one(number: int, job: Job) -> None:
            try:
                if elsewhere is not None:
                    out[number] = await elsewhere(hash_files, job)
                else:
                    out[number] = await anyio.to_thread.run_sync(hash_files, job, limiter=limiter, abandon_on_cancel=True)
            except OSError as error:
                raise unreadable(os.fsencode(error.filename or b"").removeprefix(root + b"/"), error) from error

        await _together([(one, number, job) for number, job in enumerate(jobs)])
        found = [digest for part in out for digest in part]
        for (path, _), digest in zip(files, found, strict=True):
            if digest is None:
                raise ContextError(f"{show(path)} changed while the build read it",
                                   hint="nothing may write to the build context during a build")
        return [digest for digest in found if digest is not None]


async def _together(tasks: Sequence[tuple[Callable[[int, Job], Awaitable[None]], int, Job]]) -> None:
    """Runs tasks side by side; the first error is raised as it is, not in a group."""
    errors: list[ContextError] = []
    async with anyio.create_task_group() as group:
        async def guarded(function: Callable[[int, Job], Awaitable[None]], number: int, job: Job) -> None:
            try:
                await function(number, job)
            except ContextError as error:
                errors.append(error)
                group.cancel_scope.cancel()

        for task in tasks:
            group.start_soon(guarded, *task)
    if errors:
        raise errors[0]


def _divide(files: Job) -> list[Job]:
    """Jobs of about equal weight, in the order of the files."""
    jobs: list[Job] = []
    weight = 0
    for file in files:
        if not jobs or weight > _JOB_BYTES or len(jobs[-1]) >= _JOB_FILES:
            jobs.append([])
            weight = 0
        jobs[-1].append(file)
        weight += file[1].size
    return jobs
