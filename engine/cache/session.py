"""The cache as one build sees it: looks into all tiers, holds on to what it finds, and passes on what others are to have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from engine.cache.base import BulkCache, Record
from engine.cache.local import LocalCache
from engine.cache.tiers import Hit, TieredCache
from engine.content.base import ContentStore
from engine.content.leases import Lease, Name
from engine.errors import StorageError
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.layer.base import Layer

if TYPE_CHECKING:
    from engine.cache.remote import RemoteCache

_SIMILAR = 24
"""Earlier records that a miss is compared with."""


class CacheSession:
    """One build's cache. `near` are the tiers of this machine, the local cache being the last of them; `remote` is what is
    beyond it, if the build has such. What is found or published is leased before it is looked at, so that no prune takes it away
    from the build. `gone` are blobs that turned out to be nowhere: what needs them is not found."""

    def __init__(self, content: ContentStore, records: LocalCache, near: Sequence[tuple[str, BulkCache]], lease: Lease, *,
                 remote: RemoteCache | None = None, gone: Collection[Digest] = (),
                 warn: Callable[[str], None]) -> None:  # fmt: skip
        self._content = content
        self._records = records
        self._lease = lease
        self._near = TieredCache(near, warn)
        self._tiers = TieredCache(near, warn, remote.tiers) if remote else self._near
        self._remote = remote
        self._gone = gone
        self._lost: set[Digest] = set()
        """Keys whose records have such layers: what others are to find in their place is what is made now."""

    async def find(self, key: Digest, *, share: bool = True) -> Hit | None:
        """The record under a key, if its layer can be had. With `share` a remote cache that is written gets it too."""
        hit = (await self._tiers.find([key])).get(key)
        if hit is None:
            return None
        layer = hit.record.layer
        if layer is not None:
            if layer.blob.digest in self._gone:
                self._lost.add(key)
                return None
            await self._lease.protect([("record", str(key)), *names_of(layer)])
            if self._content.size(layer.blob.digest) != layer.blob.size and not (await self._tiers.find([key])):
                return None
        if share and self._remote:
            await self._remote.put(hit.record)
        return hit

    async def publish(self, records: Sequence[Record], *, replace: bool = False, share: bool = True) -> None:
        """Publishes what was made, with `replace` in place of what is there; with `share` in a remote cache that is written, too.
        Raises `StorageError` when it cannot be kept on this machine."""
        await self._lease.protect(("record", str(record.key)) for record in records)
        lost = [record for record in records if record.key in self._lost]
        fresh = [record for record in records if record.key not in self._lost]
        for some, over in ((fresh, replace), (lost, True)):
            if share and self._remote and some:
                await self._remote.put(*some, replace=over)
            if some:
                await self._near.put(*some, replace=over)

    async def protect(self, layers: Iterable[Layer]) -> None:
        """Keeps layers, and all that is known of them, from being pruned before the build ends."""
        await self._lease.protect([name for layer in layers for name in names_of(layer)])

    async def settle(self, near: Collection[str]) -> None:
        """Waits until a remote cache in one of the `near` registries has what it is being given: repositories there can mount the
        layers then, and need not be sent them a second time."""
        if self._remote and self.is_given(near):
            await self._remote.settle()

    async def used_base(self, reference: Reference, digest: Digest, documents: Sequence[Digest], layers: Sequence[Layer]) -> None:
        """Remembers an image that the build starts from, so that what is here of it stays for as long as it is used."""
        names: list[Name] = [("blob", str(document)) for document in documents]
        names += [name for layer in layers for name in names_of(layer)]
        with suppress(StorageError):  # it only helps a prune to choose
            await self._records.catalog.use_base(reference, digest, names)

    async def pushed(self, names: Sequence[Reference], digest: Digest, blobs: Sequence[Digest]) -> None:
        """Remembers what names stand for now, and that their repositories have some blobs. What is known is not written again."""
        catalog = self._records.catalog
        with suppress(StorageError):
            for repository in dict.fromkeys(Reference(name.registry, name.repository) for name in names):
                new = [blob for blob in blobs if repository not in catalog.origins(blob)]
                if new:
                    await catalog.saw(repository, new)
            known = {name: built for name, built, _ in catalog.images()}
            if any(known.get(name) != digest for name in names):
                await catalog.built(names, digest)

    def is_given(self, registries: Collection[str]) -> bool:
        """Whether a remote cache in one of these registries is given what is made: repositories there can mount it."""
        return self._remote is not None and self._remote.is_in(registries)

    def may_have(self, instruction: str) -> bool:
        """Whether results of an instruction (`RUN`) may be found: there are some on this machine, or others are asked."""
        return self._remote is not None or bool(self._records.similar(f"{instruction} ", 1))

    def similar(self, step: str) -> list[Record]:
        """The latest records of an instruction like this one, newest first."""
        return self._records.similar(step, _SIMILAR)


def names_of(layer: Layer) -> tuple[Name, Name, Name]:
    """What belongs to a layer in the state directory: its blob, its unpacked files and its index."""
    return ("blob", str(layer.blob.digest)), ("layer", str(layer.diff_id)), ("index", str(layer.diff_id))
