"""The cache beyond this machine: OCI artifacts (see `entries`) under a tag for each key, in a repository or in a directory that is
an OCI image layout; and caches in images, which are only read.

It is the same for all of them but for the `Storage`. What a build adds is pushed in the background. Nothing that a registry or a
disk does or fails to do ends a build: the first failure costs a warning, and the build goes on without it (see `breaker`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from types import TracebackType

import anyio
from anyio.abc import TaskGroup

from engine.cache import entries
from engine.cache.base import Record
from engine.cache.breaker import Breaker, guarded
from engine.cache.sources import LOOKUPS, EntrySource, InlineSource
from engine.cache.storage import Image, Locations, Patience, Place, Storage, shown
from engine.cache.tiers import Source
from engine.content.base import ContentStore
from engine.errors import ContentError, EngineError, NotFoundError, StorageError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference


class RemoteCache:
    """What one build reads and writes beyond its machine: `tiers` to look into, in the order of `sources`, and `target`, where
    `put` writes, if there is one.

    An async context manager: `put` pushes in the background, leaving the block waits for that within `Patience.drain` and
    gives up the rest. `storage` says who keeps what a reference is about. `warn` gets sentences for people. `clock` gives seconds
    since the epoch.
    """

    def __init__(self, storage: Callable[[Reference], Storage], content: ContentStore, locations: Locations, *,
                 sources: Sequence[Place | Image], target: Place | None, warn: Callable[[str], None],
                 patience: Patience | None = None, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
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
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self.tiers: Sequence[tuple[str, Source]] = [(source.tier, self._source(source)) for source in sources]
        self._target_breaker = self._breaker("write", target.repository, self._patience.push) if target else None

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

    def is_in(self, registries: Collection[str]) -> bool:
        """Whether it writes to one of these registries: repositories there can mount what it is given."""
        return self.target is not None and self.target.repository.registry in registries

    async def __aenter__(self) -> RemoteCache:
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
            self._warn(f"cache {shown(self.target.repository)}: {self._pushing} entries were not written within "
                       f"{self._patience.drain:g} seconds after the build")
        return None

    def _source(self, source: Place | Image) -> Source:
        if isinstance(source, Image):
            return InlineSource(source, lambda: self._storage(source.reference), self._locations,
                                self._breaker("read", source.reference, self._patience.lookup), patience=self._patience,
                                clock=self._clock)  # fmt: skip

        def there(key: Digest) -> None:
            if source == self.target:
                self._there.add(key)

        return EntrySource(source, lambda: self._storage(source.repository), self._locations,
                           self._breaker("read", source.repository, self._patience.lookup), limiter=self._lookups,
                           patience=self._patience, clock=self._clock, there=there)  # fmt: skip

    def _breaker(self, verb: str, repository: Reference, timeout: float) -> Breaker:
        """One for each repository and what is done with it: the scopes of a repository fail together."""
        name = shown(repository)
        return self._breakers.setdefault((verb, name), Breaker(f"cannot {verb} cache {name}", timeout, self._warn))

    async def _publish(self, place: Place, breaker: Breaker, record: Record, replace: bool) -> None:
        if not breaker.open:
            try:
                async with guarded(breaker, self._patience.push):
                    await self._push(place, record, replace)
            except EngineError as error:  # a push that finds nothing or meets broken content has failed too
                breaker.failed(str(error))
        self._pushing -= 1
        if not self._pushing:
            self._pushed.set()
            self._pushed = anyio.Event()

    async def _push(self, place: Place, record: Record, replace: bool) -> None:
        storage, entry = self._storage(place.repository), place.entry(record.key)
        if not replace and await self._is_there(storage, entry, record.key):
            return
        if record.layer and not await self._push_layer(storage, place.repository, record.layer.blob):
            return
        if not self._config_there:
            self._content.put(entries.EMPTY)
            path = self._content.path(entries.EMPTY_DESCRIPTOR.digest)
            await storage.push_blob(place.repository, entries.EMPTY_DESCRIPTOR, path)
            self._config_there = True
        manifest = entries.to_manifest(record)
        await storage.push_manifest(entry, manifest.raw, manifest.media_type)

    async def _is_there(self, storage: Storage, entry: Reference, key: Digest) -> bool:
        """Whether there is an entry that another builder could use: the first one stays."""
        try:
            if self._patience.ttl == math.inf:
                await storage.resolve(entry)
                return True
            record = entries.from_manifest((await storage.manifest(entry)).manifest, key)
        except (NotFoundError, ContentError):
            return False
        return self._clock() - record.created <= self._patience.ttl

    async def _push_layer(self, storage: Storage, repository: Reference, blob: Descriptor) -> bool:
        """Makes the repository have a layer; returns whether it has it: it cannot when the blob is nowhere."""
        origins = [origin for origin in self._locations.origins(blob.digest) if origin.registry == repository.registry]
        if self._content.size(blob.digest) != blob.size:
            if await storage.has_blob(repository, blob.digest):
                return True
            try:
                return await self._give(storage, repository, blob, origins)
            except StorageError:  # the bytes are wanted, which are somewhere else
                try:
                    await self._locations.fetch(blob)
                except EngineError:
                    return False
        return await self._give(storage, repository, blob, origins)

    async def _give(self, storage: Storage, repository: Reference, blob: Descriptor, origins: Sequence[Reference]) -> bool:
        await storage.push_blob(repository, blob, self._content.path(blob.digest), mount_from=origins)
        await self._locations.seen(repository, [blob.digest])
        return True
