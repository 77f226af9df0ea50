"""Where a remote cache keeps its entries: what it needs of a registry, which a directory can give it as well."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from engine.cache import entries
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.platform import Platform
from engine.image.reference import CACHE_LAYOUT, Reference
from engine.registry.base import Fetched


class Storage(Protocol):
    """Manifests under tags, and blobs: as much of `engine.registry.base.Registry` as a cache uses, which says what the calls do.
    `engine.cache.layouts.CacheLayouts` does the same with OCI image layouts."""

    async def resolve(self, reference: Reference) -> Descriptor:
        """What a tag stands for now; raises `NotFoundError`."""

    async def manifest(self, reference: Reference) -> Fetched:
        """A manifest, its digest verified; raises `NotFoundError`, `ContentError`."""

    def blob(self, reference: Reference, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """A blob's bytes, verified at their end."""

    async def has_blob(self, reference: Reference, digest: Digest) -> bool:
        """Whether the repository has a blob."""

    async def push_blob(self, reference: Reference, descriptor: Descriptor, path: Path, *,
                        mount_from: Sequence[Reference] = ()) -> bool:
        """Makes the repository have a blob: has it already, takes it from another repository, or from the file; `StorageError` when
        it comes to that and the file is not there. Returns whether the file's bytes were needed."""

    async def push_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        """Publishes a manifest under the reference's tag. What it points to is there already."""


class Place(Struct, frozen=True):
    """Where entries are: a repository (its tag and digest do not matter), and a scope in it, such as a branch."""

    repository: Reference
    scope: str = ""

    def entry(self, key: Digest) -> Reference:
        """The name of a key's entry."""
        return self.repository.with_tag(entries.tag(key, self.scope))

    @property
    def tier(self) -> str:
        """What sort of cache it is, for people and programs."""
        return "layout" if self.repository.registry == CACHE_LAYOUT else "registry"


class Image(Struct, frozen=True):
    """An image that may have a cache in it (see `inline`). Of several platforms' images, those for `platforms` are looked at."""

    reference: Reference
    platforms: tuple[Platform, ...]
    tier = "inline"


class Patience(Struct, frozen=True):
    """Seconds: `lookup` for one look-up, `push` for one entry, `drain` for what is still to be pushed when a build has ended.
    Entries older than `ttl` seconds count as absent."""

    lookup: float = 5.0
    push: float = 120.0
    drain: float = 30.0
    ttl: float = math.inf


class Locations(Struct, frozen=True):
    """What a remote cache tells and asks about where blobs are: the local cache's catalog, by another name.

    `seen` is told what a repository was found to have, `origins` is asked where a blob can be taken from, `fetch` makes it be in
    the content store.
    """

    seen: Callable[[Reference, Iterable[Digest]], Awaitable[None]]
    origins: Callable[[Digest], Sequence[Reference]]
    fetch: Callable[[Descriptor], Awaitable[None]]


def shown(repository: Reference) -> str:
    """What a repository is called in front of people: a directory by its path."""
    return repository.repository if repository.registry == CACHE_LAYOUT else repository.name
