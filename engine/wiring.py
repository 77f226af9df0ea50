"""Settings → concrete objects: the only place that picks an implementation. What is dear to start is started when first used."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from msgspec.structs import replace

from engine import __version__
from engine.cache.base import BulkCache
from engine.cache.flight import FileLocks, Turns
from engine.cache.local import LocalCache
from engine.cache.memory import MemoryCache
from engine.cache.mounts import CacheMounts
from engine.cache.session import CacheSession
from engine.content.faults import storing
from engine.content.leases import Leases
from engine.content.scratch import Scratch
from engine.content.store import DirectoryStore
from engine.context.digests import DigestStore
from engine.context.hashing import Hasher
from engine.errors import EngineError, StorageError
from engine.image.digest import Digest
from engine.image.reference import CACHE_LAYOUT, OCI_LAYOUT, Reference
from engine.layer.index import IndexStore
from engine.progress.reporter import Reporter
from engine.request import BuildRequest, CacheLocation
from engine.settings import Settings
from engine.solve.limits import Limiters
from engine.solve.mechanisms import Mechanisms
from engine.solve.network import network_files
from engine.solve.state import Blobs, Trees
from engine.workers.pool import WorkerPool

if TYPE_CHECKING:
    from engine.cache.carry.carrier import Carrier
    from engine.cache.layouts import CacheLayouts
    from engine.cache.remote import RemoteCache
    from engine.cache.storage import Image, Place, Storage
    from engine.registry.base import Puller, Registry
    from engine.snapshot.base import Snapshotter
    from engine.workers.spawn import Spawned

CLOSE_SECONDS = 30
"""How long the end of an engine may take to remove what is left."""

DISK_SECONDS = 600.0
"""How long a build waits for a cache to be written to a directory: that is no matter of somebody else's being there."""


class Wiring:
    """The objects of one engine, and how they end. Made inside an event loop; used as an async context manager."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time, spawned: Spawned | None = None) -> None:
        self.settings = settings
        self._spawned = spawned
        self._clock = clock
        self._stack = AsyncExitStack()
        self._registry: Registry | None = None
        self._snapshots: Snapshotter | None = None
        self._snapshots_lock = anyio.Lock()

    async def __aenter__(self) -> Wiring:
        state = self.settings.state_dir
        with storing(state):
            state.mkdir(parents=True, exist_ok=True, mode=0o755)
        self.limiters = Limiters.of(self.settings.limits)
        self.content = DirectoryStore(state)
        self.indexes = IndexStore(state / "indexes")
        self.scratch = Scratch(state / "tmp")
        try:
            sockets = self.scratch.directory("workers")
        except StorageError:
            self.scratch.close()
            raise
        self.workers = WorkerPool(self.settings, self.limiters.workers, sockets, self._spawned)
        self.digests = DigestStore(state / "digests.sqlite", time.time_ns)
        self.hasher = Hasher(self.digests, self.workers.call)
        self.locks = FileLocks(state / "locks")
        self.records = LocalCache(state / "cache", self.content, clock=self._clock)
        self.memory = MemoryCache(self.content)
        self.leases = Leases(state / "leases")
        self._stack.push_async_callback(self._close)
        self.mechanisms = self._mechanisms(sockets)
        return self

    def _mechanisms(self, scratch: Path) -> Mechanisms:
        blobs = Blobs(self.content, self.puller, self.records.catalog, scratch)
        trees = Trees(self.indexes, blobs, self.content, self.workers)
        mounts = CacheMounts(self.settings.state_dir / "mounts", self.workers, self.locks)
        return Mechanisms(
            content=self.content, indexes=self.indexes, workers=self.workers, snapshots=self.snapshots, registry=self.registry,
            cache=self.records, locks=self.locks, cache_mounts=mounts, blobs=blobs, trees=trees, digests=self.digests,
            limiters=self.limiters, turns=Turns(), clock=self._clock, network_files=network_files,
        )  # fmt: skip

    @asynccontextmanager
    async def cache(self, request: BuildRequest, warn: Callable[[str], None],
                    gone: Collection[Digest] = ()) -> AsyncIterator[CacheSession]:  # fmt: skip
        """The cache of one build. When it ends, what is still being written to a remote cache is waited for, within bounds."""
        near: list[tuple[str, BulkCache]] = [("memory", self.memory), ("local", self.records)]
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(self.leases.hold())
            remote = self._remote(request, warn)
            if remote:
                await stack.enter_async_context(remote)
            yield CacheSession(self.content, self.records, near, lease, remote=remote, gone=gone, warn=warn)

    def _remote(self, request: BuildRequest, warn: Callable[[str], None]) -> RemoteCache | None:
        if not request.cache_from and request.cache_to is None:
            return None
        from engine.cache.remote import RemoteCache
        from engine.cache.storage import Locations, Patience

        target = _places(request.cache_to, request.cache_scopes)[0] if request.cache_to else None
        sources = [source for location in request.cache_from if self._is_there(location, request.cache_to, warn)
                   for source in _sources(location, request)]  # fmt: skip
        patience = Patience(ttl=request.cache_ttl) if request.cache_ttl is not None else Patience()
        if request.cache_to and request.cache_to.repository.registry == CACHE_LAYOUT:
            patience = replace(patience, push=DISK_SECONDS, drain=DISK_SECONDS)
        catalog = self.records.catalog
        return RemoteCache(self._storage, self.content, Locations(catalog.saw, catalog.origins, self.mechanisms.blobs.ensure),
                           sources=sources, target=target, warn=warn, patience=patience, clock=self._clock)  # fmt: skip

    def _is_there(self, location: CacheLocation, target: CacheLocation | None, warn: Callable[[str], None]) -> bool:
        """Whether it is worth looking: a directory that is to be read may not be there, as before the first build."""
        repository = location.repository
        if repository.registry != CACHE_LAYOUT or self.layouts.is_there(repository):
            return True
        if target is None or target.repository.repository != repository.repository:
            warn(f"cannot read cache {repository.repository}: there is none")
        return False

    def _storage(self, reference: Reference) -> Storage:
        """Who keeps the entries of a cache: a registry, or a directory."""
        return self.layouts if reference.registry == CACHE_LAYOUT else self.registry()

    @cached_property
    def layouts(self) -> CacheLayouts:
        """The caches in directories."""
        from engine.cache.layouts import CacheLayouts

        return CacheLayouts()

    def carrier(self, request: BuildRequest, report: Reporter, scratch: Path) -> Carrier | None:
        """Who carries the cache mounts of one build, if they are to be carried; `scratch` is a directory of the build's."""
        if not request.cache_mounts_from and request.cache_mounts_to is None:
            return None
        from engine.cache.carry.artifact import place
        from engine.cache.carry.carrier import Carrier
        from engine.cache.carry.remote import Remote

        target = place(request.cache_mounts_to) if request.cache_mounts_to else None
        sources = [place(reference) for reference in request.cache_mounts_from]
        return Carrier(self.mechanisms.cache_mounts, self.workers, lambda: Remote(self.registry, scratch, self.content), report,
                       sources=sources, target=target, clock=self._clock)  # fmt: skip

    def registry(self) -> Registry:
        """The registry client, made when it is first needed."""
        if self._registry is None:
            from engine.registry.client import RegistryClient
            from engine.registry.credentials import Credentials

            settings = self.settings
            self._registry = RegistryClient(
                credentials=Credentials(settings.auth, settings.environment), insecure=settings.insecure_registries,
                downloads=self.limiters.downloads, uploads=self.limiters.uploads, ca_file=settings.ca_file,
                user_agent=f"aniko/{__version__}", environment=settings.environment,
            )  # fmt: skip
        return self._registry

    def puller(self, reference: Reference) -> Puller:
        """Who reads the images and layers that a reference is about: a registry, or an OCI layout on disk."""
        if reference.registry == CACHE_LAYOUT:
            return self.layouts
        if reference.registry != OCI_LAYOUT:
            return self.registry()
        from engine.registry.layout import OciLayouts

        return OciLayouts()

    async def snapshots(self) -> Snapshotter:
        """The snapshotter that this machine can have; raises `IsolationError` when the settings want another."""
        async with self._snapshots_lock:
            if self._snapshots is None:
                from engine.snapshot.overlay import OverlaySnapshotter
                from engine.snapshot.walk import WalkSnapshotter

                environment = await self.workers.environment()
                mechanisms = self.settings.state_dir, self.content, self.workers, self.indexes
                if environment.snapshots == "overlay":
                    self._snapshots = OverlaySnapshotter(*mechanisms)
                else:
                    self._snapshots = WalkSnapshotter(*mechanisms, side_by_side=self.settings.limits.workers)
        return self._snapshots

    async def remove_tree(self, path: Path) -> None:
        """Removes a directory whoever owns what is in it."""
        from engine.snapshot.layers import remove_tree

        await self.workers.call(remove_tree, str(path))

    async def _close(self) -> None:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            if self._registry is not None:
                await self._registry.aclose()
            with suppress(StorageError):  # a last use that is not written down is no reason to fail a build
                await self.records.aclose()
            if self._snapshots is not None:  # only steps that ran can have left files of other owners
                with suppress(EngineError):
                    await self._snapshots.aclose()
                await self.scratch.aclose(self.remove_tree)
            await self._tidy()
            await self.workers.aclose()
            self.scratch.close()

    async def _tidy(self) -> None:
        """Removes what killed processes have left. It costs the listing of two directories when there is nothing."""
        async def remove_own(path: Path) -> None:
            await anyio.to_thread.run_sync(shutil.rmtree, path)

        with suppress(OSError):
            self.leases.reclaim()
            await self.scratch.reclaim(remove_own if self._snapshots is None else self.remove_tree)

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.__aexit__(None, None, None)


def _places(location: CacheLocation, scopes: Sequence[str]) -> list[Place]:
    """The parts of a cache repository that a build uses."""
    from engine.cache.storage import Place

    tag = location.repository.tag or ""
    return [Place(location.repository, scope) for scope in scopes or [tag if tag != "latest" else ""]]


def _sources(location: CacheLocation, request: BuildRequest) -> list[Place | Image]:
    """What a build looks into: the image of that name before the entries, for it is asked for once, and these for every key."""
    from engine.cache.storage import Image
    from engine.solve.build import host_platform

    images = [Image(location.repository, request.platforms or (host_platform(),))] if location.image else []
    return [*images, *_places(location, request.cache_scopes)]
