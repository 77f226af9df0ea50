"""Root filesystem states as the solver sees them, and what can be asked of them: their blobs, and the tree of their files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from engine.cache.flight import SingleFlight
from engine.content.base import ContentStore
from engine.content.faults import storing
from engine.errors import ContentError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.layer.apply import scan
from engine.layer.base import Chain, Layer
from engine.layer.index import Index, IndexStore
from engine.layer.tree import Tree
from engine.registry.base import Puller
from engine.workers.base import Workers

FetchProgress = Callable[[Descriptor, int], None]
"""Called with a blob and how many bytes of it have come."""


@dataclass(frozen=True, slots=True)
class State:
    """The layers of a root filesystem, and when the newest of them was made (seconds since the epoch, 0 when unknown)."""

    chain: Chain
    created: float = 0

    def grown(self, layer: Layer | None, created: float) -> State:
        """The state after one more layer (or none)."""
        return State((*self.chain, layer), created) if layer else self


class Blobs:
    """Gets layer blobs into the content store, each once, from wherever they are known to lie."""

    def __init__(self, content: ContentStore, puller: Callable[[Reference], Puller]) -> None:
        self._content = content
        self._puller = puller
        self._origins: dict[Digest, tuple[Reference, Descriptor]] = {}
        self._flight: SingleFlight = SingleFlight()

    def remember(self, reference: Reference, descriptor: Descriptor) -> None:
        """Notes that a repository has a blob."""
        self._origins.setdefault(descriptor.digest, (reference, descriptor))

    def origin(self, digest: Digest) -> Reference | None:
        """A repository that is known to have a blob."""
        known = self._origins.get(digest)
        return known[0] if known else None

    async def ensure(self, blob: Descriptor, progress: FetchProgress | None = None) -> None:
        """Makes the blob be in the content store; raises `RegistryError` or `ContentError`."""
        if not self._content.has(blob.digest):
            await self._flight.run(blob.digest, lambda: self._fetch(blob, progress))

    async def _fetch(self, blob: Descriptor, progress: FetchProgress | None) -> None:
        if self._content.has(blob.digest):
            return
        known = self._origins.get(blob.digest)
        if known is None:
            raise ContentError(f"layer blob {blob.digest} is gone from the state directory and nobody else is known to have it",
                               hint="build again with --no-cache")  # fmt: skip
        reference, descriptor = known
        # The client digests what arrives: the writer does not do it again.
        with self._content.writer(expected=blob.digest, size=descriptor.size, written_elsewhere=True) as writer:
            done = 0
            with storing(writer.path), writer.path.open("wb", buffering=0) as file:
                async with aclosing(self._puller(reference).blob(reference, descriptor)) as parts:
                    async for data in parts:
                        file.write(data)
                        done += len(data)
                        if progress:
                            progress(descriptor, done)
            writer.commit(blob.digest, done)


class Trees:
    """Merged views of chains, made from layer indexes and kept for the time of an engine's life."""

    def __init__(self, indexes: IndexStore, blobs: Blobs, content: ContentStore, workers: Workers) -> None:
        self._indexes = indexes
        self._blobs = blobs
        self._content = content
        self._workers = workers
        self._known: dict[tuple[Digest, ...], Tree] = {}
        self._flight: SingleFlight = SingleFlight()

    async def index(self, layer: Layer) -> Index:
        """A layer's index, read from its blob when nobody has done so before."""
        found = self._indexes.get(layer.diff_id)
        if found is None:
            await self._flight.run(layer.diff_id, lambda: self._scan(layer))
            found = self._indexes.get(layer.diff_id)
        if found is None:
            raise ContentError(f"the index of layer {layer.diff_id} cannot be kept")
        return found

    async def _scan(self, layer: Layer) -> None:
        await self._blobs.ensure(layer.blob)
        scanned = await self._workers.call(scan, str(self._content.path(layer.blob.digest)))
        if scanned.diff_id != layer.diff_id.hex:
            raise ContentError(f"layer blob {layer.blob.digest} holds sha256:{scanned.diff_id}, "
                               f"not {layer.diff_id} as its config says")  # fmt: skip
        self._indexes.put(layer.diff_id, scanned.index)

    async def tree(self, chain: Chain) -> Tree:
        """The files of a state."""
        ids = tuple(layer.diff_id for layer in chain)
        known = next((n for n in range(len(ids), 0, -1) if ids[:n] in self._known), 0)
        tree = self._known[ids[:known]] if known else Tree.empty()
        for n in range(known, len(chain)):
            tree = tree.extended(chain[n], await self.index(chain[n]))
            self._known[ids[: n + 1]] = tree
        return tree
