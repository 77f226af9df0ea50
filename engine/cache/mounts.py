"""Cache mounts: directories that outlive builds, by id and by what they began as.

    mounts/<name>/about.json    for people and for `du`: id, and what it began as
    mounts/<name>/<n>           an instance, the directory that is mounted
    mounts/<name>/<n>.carried   what it was when it was last saved to a registry, or restored (see `engine.cache.carry`)
    mounts/<name>/<n>.used      when it was last used (its modification time)
    mounts/trash/               what was removed and is yet to be deleted

Instance 0 is the one that `shared` and `locked` mounts get; `private` ones get the first that nobody has. A lock per instance,
shared or exclusive, says who has it, so that what a killed build had is free at once. The files may belong to ids that only the
workers' user namespace knows: workers make, measure and remove them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from engine import codec
from engine.cache.flight import FileLocks
from engine.content import claims
from engine.content.faults import storing
from engine.content.gc import Item
from engine.isolate.base import Root
from engine.workers.base import Workers

Sharing = Literal["shared", "private", "locked"]
Seed = tuple[str | Root, str]
"""A directory or root, and the path in it, that a new instance begins as a copy of."""

Bring = Callable[[int, Path], Awaitable[None]]
"""Is called with the number of a mount and its instance's path, where there may be nothing yet, when nobody else has that: it may
put something else there."""

_LEFT = (".new", ".draft", ".old")
"""What instances are called before they are whole, or before they are gone."""

DEFAULT_OWNER = (0o755, 0, 0)
"""Mode, user and group of an instance of which nothing is said."""


class Spec(Protocol):
    """What a Dockerfile says of a cache mount (`engine.dockerfile.mounts.CacheSpec` is one). `mode`, `uid` and `gid` are those
    of a new, empty instance."""

    @property
    def id(self) -> str: ...
    @property
    def sharing(self) -> Sharing: ...
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...


class Usage(Struct, frozen=True):
    """An instance as `du` shows it: bytes on disk, seconds since the epoch, whether a running build has it."""

    name: str
    id: str
    size: int
    used: float
    busy: bool


class CacheMounts:
    """The cache mounts in a directory, shared by any number of processes."""

    def __init__(self, directory: Path, workers: Workers, locks: FileLocks, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._trash = directory / "trash"
        self._workers = workers
        self._locks = locks
        self._clock = clock
        self._sizes: dict[str, int] = {}

    @asynccontextmanager
    async def acquire(self, spec: Spec, seed: Seed | None = None) -> AsyncIterator[Path]:
        """The directory of one mount, for the time of the block. A RUN with several of them uses `acquire_all`."""
        async with self.acquire_all([(spec, seed)]) as (path,):
            yield path

    @asynccontextmanager
    async def acquire_all(self, mounts: Sequence[tuple[Spec, Seed | None]],
                          bring: Bring | None = None) -> AsyncIterator[tuple[Path, ...]]:  # fmt: skip
        """The directories of all cache mounts of a RUN, in their order, for the time of the block.

        `bring` is called for each of them that nobody else has, before it is made if it is not there.

        Waits for `locked` ones that somebody else has; all who wait do so in one order, and therefore not for each other.
        Mounts of one RUN with the same id are one directory. Raises `StorageError`, and `IsolationError` when a seed has no
        such path.
        """
        named = [(_name(spec, seed), spec, seed) for spec, seed in mounts]
        sharing: dict[str, set[Sharing]] = {}
        for name, spec, _ in named:
            sharing.setdefault(name, set()).add(spec.sharing)
        paths: dict[str, Path] = {}
        async with AsyncExitStack() as stack:
            for number, (name, spec, seed) in sorted(enumerate(named), key=lambda mount: mount[1][0]):
                if name not in paths:
                    self._describe(self._directory / name, spec, seed)
                    paths[name] = await self._take(name, sharing[name], stack, partial(bring, number) if bring else None)
                    await self._ensure(paths[name], spec, seed)
            yield tuple(paths[name] for name, _, _ in named)

    @asynccontextmanager
    async def reading(self, path: Path, *, shared: bool) -> AsyncIterator[None]:
        """Has an instance for reading it, for the time of the block: with others that share it, or alone."""
        async with self._locks.hold(_lock(path), shared=shared):
            yield

    async def usage(self) -> list[Usage]:
        """All instances with their sizes, by id."""
        await self.survey()
        out = [Usage(f"{path.parent.name}/{path.name}", self._id(path.parent), self._sizes.get(str(path), 0), _used(path),
                     self._busy(path)) for path in self._instances()]  # fmt: skip
        return sorted(out, key=lambda usage: (usage.id, usage.name))

    async def survey(self) -> None:
        """Measures all instances (part of `engine.content.prune.Holding`)."""
        paths = [str(path) for path in self._instances()]
        if paths:
            from engine.cache import instances  # here: what unpacks and mounts is for worker processes

            self._sizes = dict(zip(paths, await self._workers.call(instances.measure, paths), strict=True))

    def items(self) -> Iterable[Item]:
        """One root for each instance, as large as it was when surveyed."""
        return [Item(("mount", f"{path.parent.name}/{path.name}"), self._sizes.get(str(path), 0), _used(path), root=True,
                     busy=self._busy(path)) for path in self._instances()]  # fmt: skip

    async def detach(self, items: Sequence[Item]) -> None:
        """Moves instances into the trash, but for those that somebody has just taken."""
        for item in items:
            if item.name[0] != "mount":
                continue
            path = self._directory / item.name[1]
            with self._locks.attempt(_lock(path)) as free, storing(path), suppress(FileNotFoundError):
                if free:
                    self._trash.mkdir(exist_ok=True)
                    os.rename(path, self._trash / claims.unique())
                    for beside in (_used_file(path), path.with_name(f"{path.name}.carried")):
                        beside.unlink(missing_ok=True)
                    for left in _LEFT:  # by a process that was killed
                        with suppress(FileNotFoundError):
                            os.rename(path.with_name(path.name + left), self._trash / claims.unique())

    async def purge(self) -> None:
        """Deletes what is in the trash."""
        paths = [str(path) for path in claims.entries(self._trash)]
        if paths:
            from engine.cache import instances

            await self._workers.call(instances.remove, paths)

    async def _take(self, name: str, sharing: set[Sharing], stack: AsyncExitStack,
                    bring: Callable[[Path], Awaitable[None]] | None) -> Path:  # fmt: skip
        """An instance's path, and on the stack what keeps it ours. `bring` is called while we have it alone."""
        if sharing == {"private"}:
            for number in count():
                path = self._directory / name / str(number)
                attempt = ExitStack()
                if attempt.enter_context(self._locks.attempt(_lock(path))):
                    stack.push(attempt)
                    break
                attempt.close()
        else:
            path = self._directory / name / "0"
            if bring and sharing == {"shared"}:
                with self._locks.attempt(_lock(path)) as alone:
                    if alone:
                        await bring(path)
            await stack.enter_async_context(self._locks.hold(_lock(path), shared=sharing == {"shared"}))
        if bring and sharing != {"shared"}:
            await bring(path)
        stack.callback(lambda: _touch(path, self._clock()))
        return path

    async def _ensure(self, path: Path, spec: Spec, seed: Seed | None) -> None:
        """Makes the instance if it is not there."""
        if path.exists():
            return
        async with self._locks.hold(f"{_lock(path)} new"):
            if path.exists():
                return
            from engine.cache import instances

            environment = await self._workers.environment()
            origin, source = seed or (None, "")
            beginning = instances.Beginning(spec.mode, spec.uid, spec.gid, origin, source, environment.xattrs)
            await self._workers.call(instances.make, str(path), beginning)

    @staticmethod
    def _describe(directory: Path, spec: Spec, seed: Seed | None) -> None:
        """Makes the directory of a mount's instances, if it is not there."""
        path = directory / "about.json"
        if not path.exists():
            with storing(path):
                directory.mkdir(parents=True, exist_ok=True)
                about = {"id": spec.id, "mode": spec.mode, "uid": spec.uid, "gid": spec.gid, "from": seed[1] if seed else None}
                path.write_bytes(codec.encode(about))

    def _instances(self) -> list[Path]:
        found = (path for directory in claims.entries(self._directory) if directory != self._trash
                 for path in claims.entries(directory))  # fmt: skip
        return sorted(path for path in found if path.name.isdecimal())

    def _busy(self, path: Path) -> bool:
        with self._locks.attempt(_lock(path)) as free:
            return not free

    @staticmethod
    def _id(directory: Path) -> str:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(codec.decode((directory / "about.json").read_bytes())["id"])
        return ""


def _name(spec: Spec, seed: Seed | None) -> str:
    """What mounts that share instances have in common. As with BuildKit that is the id and, where a mount says so, the state
    it begins as or the owner and mode; the path of a context's directory does not count, for it may be another every time."""
    parts = [spec.id]
    owner = (spec.mode, spec.uid, spec.gid)
    if seed is not None:
        parts += ["" if isinstance(seed[0], str) else repr(seed[0]), seed[1]]
    elif owner != DEFAULT_OWNER:
        parts.append(repr(owner))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _lock(path: Path) -> str:
    return f"mount {path.parent.name}/{path.name}"


def _used_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.used")


def _used(path: Path) -> float:
    for candidate in (_used_file(path), path.parent / "about.json"):
        with suppress(OSError):
            return candidate.stat().st_mtime
    return 0.0


def _touch(path: Path, now: float) -> None:
    with suppress(OSError):  # the time of the last use is not worth an error
        file = _used_file(path)
        file.touch()
        os.utime(file, (now, now))
