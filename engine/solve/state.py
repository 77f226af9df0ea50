"""Root filesystem states as the solver sees them, and what can be asked of them: their blobs, and the tree of their files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

from engine.cache.flight import SingleFlight
from engine.content.base import ContentStore
from engine.content.faults import storing
from engine.errors import ContentError, EngineError, NotFoundError, RegistryError, StorageError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
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


class GoneError(ContentError):
    """A layer's blob that is nowhere any more: not in the state directory, nor in a repository that was known to have it."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"layer blob {digest} is gone from the state directory and nobody else is known to have it",
                         hint="build again with --no-cache")  # fmt: skip
        self.digest = digest


class Locations(Protocol):
    """What is remembered of where blobs lie (`engine.cache.catalog.Catalog` is one)."""

    def origins(self, blob: Digest) -> Sequence[Reference]:
        """The repositories in which a blob was seen, the latest first."""

    async def missed(self, repository: Reference, blobs: Iterable[Digest]) -> None:
        """Forgets that a repository has some blobs."""


class Blobs:
    """Gets layer blobs into the content store, each once, from wherever they are known to lie."""

    def __init__(self, content: ContentStore, puller: Callable[[Reference], Puller], locations: Locations) -> None:
        self._content = content
        self._puller = puller
        self._locations = locations
        self._origins: dict[Digest, Reference] = {}
        self._flight: SingleFlight = SingleFlight()

    def remember(self, reference: Reference, descriptor: Descriptor) -> None:
        """Notes that a repository has a blob."""
        self._origins.setdefault(descriptor.digest, reference)

    def origin(self, digest: Digest, near: Collection[str] = ()) -> Reference | None:
        """A repository that is known to have a blob, if there is one then one of the `near` registries: those can mount it."""
        known = self._known(digest)
        return next((reference for reference in known if reference.registry in near), known[0] if known else None)

    async def ensure(self, blob: Descriptor, progress: FetchProgress | None = None) -> None:
        """Makes the blob be in the content store; raises `RegistryError`, or `GoneError` if nobody has it."""
        if self._content.size(blob.digest) != blob.size:
            await self._flight.run(blob.digest, lambda: self._fetch(blob, progress))

    def _known(self, digest: Digest) -> list[Reference]:
        first = self._origins.get(digest)
        return [*([first] if first else ()), *self._locations.origins(digest)]

    async def _fetch(self, blob: Descriptor, progress: FetchProgress | None) -> None:
        if self._content.size(blob.digest) == blob.size:
            return
        failure: EngineError = GoneError(blob.digest)
        for reference in self._known(blob.digest):
            try:
                return await self._download(reference, blob, progress)
            except NotFoundError:
                self._origins.pop(blob.digest, None)
                with suppress(StorageError):
                    await self._locations.missed(reference, [blob.digest])
            except RegistryError as error:
                failure = error
        raise failure

    async def _download(self, reference: Reference, blob: Descriptor, progress: FetchProgress | None) -> None:
        # The client digests what arrives: the writer does not do it again.
        with self._content.writer(expected=blob.digest, size=blob.size, written_elsewhere=True) as writer:
            done = 0
            with storing(writer.path), writer.path.open("wb", buffering=0) as file:
                async with aclosing(self._puller(reference).blob(reference, blob)) as parts:
                    async for data in parts:
                        file.write(data)
                        done += len(data)
                        if progress:
                            progress(blob, done)
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
        from engine.layer.scan import scan  # here, since layers are seldom read for their index alone

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
