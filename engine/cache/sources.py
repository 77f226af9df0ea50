"""Where a build looks for results beyond its own machine: entries under tags, and caches that travel in images.

Looking up reads manifests and no layer byte; the layers of what is found are fetched when somebody needs their bytes, from where
`Locations.seen` was told that they are. Nothing that goes wrong ends a build: see `breaker`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress

import anyio

from engine.cache import entries, inline
from engine.cache.base import Record
from engine.cache.breaker import Breaker, guarded
from engine.cache.flight import SingleFlight
from engine.cache.storage import Image, Locations, Patience, Place, Storage
from engine.errors import ContentError, NotFoundError, PlatformError, StorageError
from engine.image.descriptor import MANIFEST_TYPES
from engine.image.digest import Digest
from engine.image.manifest import MAX_MANIFEST_SIZE, Manifest
from engine.image.platform import Platform
from engine.image.reference import Reference

LOOKUPS = 16
"""Manifests that are asked for at once."""


class EntrySource:
    """The entries of one place. `there` is told which keys it turned out to have."""

    def __init__(self, place: Place, storage: Callable[[], Storage], locations: Locations, breaker: Breaker, *,
                 limiter: anyio.CapacityLimiter, patience: Patience, clock: Callable[[], float],
                 there: Callable[[Digest], None]) -> None:
        self._place = place
        self._storage = storage
        self._locations = locations
        self._breaker = breaker
        self._limiter = limiter
        self._patience = patience
        self._clock = clock
        self._there = there

    async def get_many(self, keys: Sequence[Digest]) -> dict[Digest, Record]:
        """The records there are for some keys; all are asked for side by side. Their layers may be there only."""
        found: dict[Digest, Record] = {}
        async with anyio.create_task_group() as group:
            for key in keys:
                group.start_soon(self._look, key, found)
        await _saw(self._locations, self._place.repository, found)
        return found

    async def _look(self, key: Digest, found: dict[Digest, Record]) -> None:
        async with self._limiter:
            if self._breaker.open:
                return
            manifest = None
            try:
                async with guarded(self._breaker, self._patience.lookup):
                    manifest = (await self._storage().manifest(self._place.entry(key))).manifest
            except NotFoundError:
                return
            except ContentError as error:
                self._breaker.broken(str(error))
            if manifest is None:
                return
            with suppress(ContentError):  # what is no entry is none
                record = entries.from_manifest(manifest, key)
                if self._clock() - record.created <= self._patience.ttl:
                    found[key] = record
                    self._there(key)


class InlineSource:
    """The cache in an image, which is read when it is first asked for anything: its manifest and config."""

    def __init__(self, image: Image, storage: Callable[[], Storage], locations: Locations, breaker: Breaker, *,
                 patience: Patience, clock: Callable[[], float]) -> None:
        self._image = image
        self._storage = storage
        self._locations = locations
        self._breaker = breaker
        self._patience = patience
        self._clock = clock
        self._records: Mapping[Digest, Record] | None = None
        self._flight = SingleFlight()

    async def get_many(self, keys: Sequence[Digest]) -> dict[Digest, Record]:
        """The records there are for some keys. Their layers may be in the image's repository only."""
        if self._records is None:
            self._records = await self._flight.run(self._image, self._load)
        found = {key: record for key in keys if (record := self._records.get(key))}
        await _saw(self._locations, self._image.reference, found)
        return found

    async def _load(self) -> dict[Digest, Record]:
        found: dict[Digest, Record] = {}
        for platform in self._image.platforms:
            if self._breaker.open:
                break
            try:
                async with guarded(self._breaker, self._patience.lookup):
                    found |= await self._read(platform)
            except (NotFoundError, PlatformError):
                continue  # a repository of entries need not have an image under the tag
            except ContentError as error:
                self._breaker.broken(str(error))
        now = self._clock()
        return {key: record for key, record in found.items() if now - record.created <= self._patience.ttl}

    async def _read(self, platform: Platform) -> dict[Digest, Record]:
        storage, reference = self._storage(), self._image.reference
        manifest = (await storage.manifest(reference)).manifest
        if not isinstance(manifest, Manifest):
            chosen = manifest.select(platform)
            if chosen.media_type not in MANIFEST_TYPES:
                return {}
            manifest = (await storage.manifest(Reference(reference.registry, reference.repository, None, chosen.digest))).manifest
        if not isinstance(manifest, Manifest) or not inline.may_be_in(manifest):
            return {}
        if manifest.config.size > MAX_MANIFEST_SIZE:
            raise ContentError(f"{reference}: a config of {manifest.config.size} bytes is more than {MAX_MANIFEST_SIZE}")
        async with aclosing(storage.blob(reference, manifest.config)) as parts:
            config = b"".join([part async for part in parts])
        return {record.key: record for record in inline.read(config, manifest.layers)}


async def _saw(locations: Locations, reference: Reference, found: Mapping[Digest, Record]) -> None:
    blobs = [record.layer.blob.digest for record in found.values() if record.layer]
    if blobs:
        with suppress(StorageError):  # then the layers are found missing, and the steps run
            await locations.seen(Reference(reference.registry, reference.repository), blobs)
