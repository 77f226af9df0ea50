"""The cache in a registry: an OCI artifact (see `entries`) under a tag for each key, in a repository of its own.

Looking up a key reads a manifest and no layer byte; a layer is fetched when somebody needs its bytes, from the repository that
`seen` was told of. What a build adds is pushed in the background. Nothing that a registry does or fails to do ends a build: the
first failure costs a warning, and the build goes on without it (see `breaker`).
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType

import anyio
from anyio.abc import TaskGroup

from engine.cache import entries
from engine.cache.base import Record
from engine.cache.breaker import Breaker
from engine.content.base import ContentStore
from engine.errors import ContentError, EngineError, NotFoundError, StorageError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.registry.base import Registry

LOOKUPS = 16
"""Manifests that are asked for at once."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where entries are: a repository (its tag and digest do not matter), and a scope in it, such as a branch."""

    repository: Reference
    scope: str = ""

    def entry(self, key: Digest) -> Reference:
        """The name of a key's entry."""
        return self.repository.with_tag(entries.tag(key, self.scope))


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: `lookup` for one look-up, `push` for one entry, `drain` for what is still to be pushed when a build has ended.
    Entries older than `ttl` seconds count as absent."""

    lookup: float = 5.0
    push: float = 120.0
    drain: float = 30.0
    ttl: float = math.inf


class Locations:
    """What the cache tells and asks about where blobs are; the local cache's catalog, by another name.

    `seen` is told what a repository was found to have, `origins` is asked where a blob can be mounted from.
    """

    def __init__(self, seen: Callable[[Reference, Iterable[Digest]], Awaitable[None]],
                 origins: Callable[[Digest], Sequence[Reference]]) -> None:
        self.seen = seen
        self.origins = origins


class RegistryCache:
    """The registry tier of one build: reads `sources` in their order, writes to `target` if there is one.

    An async context manager: `put` pushes in the background, leaving the block waits for that within `Patience.drain` and
    gives up the rest. `target` is where it writes. `warn` gets sentences for people. `clock` gives seconds since the epoch.
    """

    def __init__(self, registry: Callable[[], Registry], content: ContentStore, locations: Locations, *,
                 sources: Sequence[Place], target: Place | None, warn: Callable[[str], None], patience: Patience | None = None,
                 clock: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._content = content
        self._locations = locations
        self.target = target
        self._warn = warn
        self._patience = patience or Patience()
        self._clock = clock
        self._lookups = anyio.CapacityLimiter(LOOKUPS)
        self._group: TaskGroup | None = None
        self._pushing = 0
        self._pushed = anyio.Event()
        self._config_there = False
        self._there: set[Digest] = set()
        self._sources = [(place, self._breaker("read", place, self._patience.lookup)) for place in sources]
        self._target_breaker = self._breaker("write", target, self._patience.push) if target else None

    async def get(self, key: Digest) -> Record | None:
        """The record of the first source that has it. Its layer may be in the registry only."""
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Sequence[Digest]) -> dict[Digest, Record]:
        """The records there are for some keys; all are asked for side by side."""
        found: dict[Digest, Record] = {}
        for place, breaker in self._sources:
            here: dict[Digest, Record] = {}
            async with anyio.create_task_group() as group:
                for key in keys:
                    if key not in found:
                        group.start_soon(self._look, place, breaker, key, here)
            blobs = [record.layer.blob.digest for record in here.values() if record.layer]
            if blobs:
                with suppress(StorageError):  # then the layers are found missing, and the steps run
                    await self._locations.seen(place.repository, blobs)
            found |= here
        return found

    async def put(self, *records: Record, replace: bool = False) -> None:
        """Begins to publish records; returns at once. Without effect when there is no target, or outside of the block."""
        for record in records:
            if record.key in self._there and not replace:
                continue
            if self.target and self._target_breaker and not self._target_breaker.open and self._group:
                self._there.add(record.key)
                self._pushing += 1
                self._group.start_soon(self._publish, self.target, self._target_breaker, record, replace)

    async def settle(self) -> None:
        """Waits for what is being pushed, no longer than `Patience.drain`: what the cache has then can be mounted from it."""
        with anyio.move_on_after(self._patience.drain):
            while self._pushing and self._group is not None:
                await self._pushed.wait()

    async def __aenter__(self) -> RegistryCache:
        self._group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        traceback: TracebackType | None) -> bool | None:
        group, self._group = self._group, None
        assert group is not None
        if error is not None and not isinstance(error, Exception):  # cancelled: so are the pushes
            return await group.__aexit__(kind, error, traceback)
        group.cancel_scope.deadline = anyio.current_time() + self._patience.drain
        await group.__aexit__(None, None, None)
        if self.target and self._pushing:
            self._warn(f"cache {self.target.repository.name}: {self._pushing} entries were not written within "
                       f"{self._patience.drain:g} seconds after the build")
        return None

    def _breaker(self, verb: str, place: Place, timeout: float) -> Breaker:
        return Breaker(f"cannot {verb} cache {place.repository.name}", timeout, self._warn)

    async def _look(self, place: Place, breaker: Breaker, key: Digest, found: dict[Digest, Record]) -> None:
        async with self._lookups:
            if breaker.open:
                return
            with suppress(NotFoundError, ContentError):  # what is no entry is none
                async with _guarded(breaker, self._patience.lookup):
                    fetched = await self._registry().manifest(place.entry(key))
                    record = entries.from_manifest(fetched.manifest, key)
                    if self._clock() - record.created <= self._patience.ttl:
                        found[key] = record
                        if place == self.target:
                            self._there.add(key)

    async def _publish(self, place: Place, breaker: Breaker, record: Record, replace: bool) -> None:
        if not breaker.open:
            try:
                async with _guarded(breaker, self._patience.push):
                    await self._push(place, record, replace)
            except EngineError as error:  # a push that finds nothing or meets broken content has failed too
                breaker.failed(str(error))
        self._pushing -= 1
        if not self._pushing:
            self._pushed.set()
            self._pushed = anyio.Event()

    async def _push(self, place: Place, record: Record, replace: bool) -> None:
        registry, entry = self._registry(), place.entry(record.key)
        if not replace and await self._is_there(registry, entry, record.key):
            return
        if record.layer and not await self._push_blob(registry, place.repository, record.layer.blob):
            return
        if not self._config_there:
            self._content.put(entries.EMPTY)
            await self._push_blob(registry, place.repository, entries.EMPTY_DESCRIPTOR)
            self._config_there = True
        manifest = entries.to_manifest(record)
        await registry.push_manifest(entry, manifest.raw, manifest.media_type)

    async def _is_there(self, registry: Registry, entry: Reference, key: Digest) -> bool:
        """Whether there is an entry that another builder could use: the first one stays."""
        try:
            if self._patience.ttl == math.inf:
                await registry.resolve(entry)
                return True
            record = entries.from_manifest((await registry.manifest(entry)).manifest, key)
        except (NotFoundError, ContentError):
            return False
        return self._clock() - record.created <= self._patience.ttl

    async def _push_blob(self, registry: Registry, repository: Reference, blob: Descriptor) -> bool:
        """Makes the repository have a blob; returns whether it has it: it cannot when the blob is somewhere else only."""
        if self._content.size(blob.digest) != blob.size:
            return await registry.has_blob(repository, blob.digest)
        origins = [origin for origin in self._locations.origins(blob.digest) if origin.registry == repository.registry]
        await registry.push_blob(repository, blob, self._content.path(blob.digest), mount_from=origins)
        await self._locations.seen(repository, [blob.digest])
        return True


@asynccontextmanager
async def _guarded(breaker: Breaker, seconds: float) -> AsyncIterator[None]:
    """A call to a registry: what goes wrong opens the breaker, but for the two answers that are none of its faults."""
    begun = anyio.current_time()
    with anyio.move_on_after(seconds) as scope:
        try:
            yield
        except (NotFoundError, ContentError):
            breaker.took(anyio.current_time() - begun)
            raise
        except EngineError as error:
            breaker.failed(str(error))
    if scope.cancelled_caught:
        breaker.timed_out()
    else:
        breaker.took(anyio.current_time() - begun)
