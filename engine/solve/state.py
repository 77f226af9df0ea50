"""Root filesystem states as the solver sees them, and what can be asked of them: their blobs, and the tree of their files."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio
from msgspec import Struct

from engine.cache.flight import SingleFlight
from engine.content.base import ContentStore
from engine.content.faults import storing
from engine.errors import ContentError, EngineError, NotFoundError, RegistryError, StorageError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.layer.arriving import Arriving
from engine.layer.base import Chain, Layer
from engine.layer.index import Index, IndexStore
from engine.layer.tree import Tree
from engine.registry.base import Puller
from engine.solve.arrival import Arrival
from engine.workers.base import Workers

FetchProgress = Callable[[Descriptor, int], None]
"""Called with a blob and how many bytes of it have come."""


class State(Struct, frozen=True):
    """The layers of a root filesystem, and when the newest of them was made (seconds since the epoch, 0 when unknown)."""

    chain: Chain
    created: float = 0

    def grown(self, layer: Layer | None, created: float) -> State:
        """The state after one more layer (or none)."""
        return State((*self.chain, layer), created) if layer else self


class GoneError(ContentError):
    """A layer's blob that cannot be had any more: it is not in the state directory, and a repository that was known to have it has
    it no more, or fails to give it (`cause`)."""

    def __init__(self, digest: Digest, cause: EngineError | None = None) -> None:
        why = f"cannot be had: {cause.message}" if cause else "is gone"
        super().__init__(f"layer blob {digest} {why}", hint="build again with --no-cache")
        self.digest = digest


class Locations(Protocol):
    """What is remembered of where blobs lie (`engine.cache.catalog.Catalog` is one)."""

    def origins(self, blob: Digest) -> Sequence[Reference]:
        """The repositories in which a blob was seen, the latest first."""

    async def missed(self, repository: Reference, blobs: Iterable[Digest]) -> None:
        """Forgets that a repository has some blobs."""


class Blobs:
    """Gets layer blobs into the content store, each once, from wherever they are known to lie."""

    def __init__(self, content: ContentStore, puller: Callable[[Reference], Puller], locations: Locations, scratch: Path) -> None:
        """`scratch` is a directory for fifos, which goes when the engine does."""
        self._content = content
        self._scratch = scratch
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

    def is_here(self, blob: Descriptor) -> bool:
        """Whether the blob is in the content store, whole."""
        return self._content.size(blob.digest) == blob.size

    async def ensure(self, blob: Descriptor, progress: FetchProgress | None = None, arrival: Arrival | None = None) -> None:
        """Makes the blob be in the content store; raises `RegistryError`, or `GoneError` if nobody has it. `arrival` is told how it
        comes, if it has to be fetched and nobody else does that already."""
        try:
            if not self.is_here(blob):
                await self._flight.run(blob.digest, lambda: self._fetch(blob, progress, arrival))
        finally:
            if arrival:
                arrival.end()

    async def read(self, blob: Descriptor, use: Callable[[Arriving | None], Awaitable[object]],
                   progress: FetchProgress | None = None) -> None:  # fmt: skip
        """Has `use` read a blob: while it arrives, if it has to be fetched, or else from the content store. It may be used
        twice: what it made of a blob that did not arrive whole counts for nothing. Raises as `ensure`, what `use` does, and for
        a blob that holds something else than it should, `useless`."""
        if not self.is_here(blob) and await self._read_arriving(blob, use, progress):
            return
        try:
            await use(None)
        except ContentError as error:
            raise self.useless(blob, error) from error

    async def _read_arriving(self, blob: Descriptor, use: Callable[[Arriving | None], Awaitable[object]],
                             progress: FetchProgress | None) -> bool:  # fmt: skip
        """Whether that went well. If not, and the blob is there in the end, it was perhaps sent by another, after one who broke
        off; the truth comes out when the whole blob is read. An error of the download is what is raised in any case."""
        failures: list[EngineError] = []
        done = False

        async def fetch(arrival: Arrival) -> None:
            try:
                await self.ensure(blob, progress, arrival)
            except EngineError as error:
                failures.append(error)

        with Arrival(self._scratch / f"arrival-{secrets.token_hex(8)}") as arrival:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fetch, arrival)
                arriving = await arrival.arriving()
                if arriving is not None:
                    try:
                        await use(arriving)
                        done = True
                    except (ContentError, StorageError):
                        pass
                    except EngineError as error:
                        failures.append(error)
        if failures:
            raise failures[0]
        return done

    def useless(self, blob: Descriptor, why: ContentError) -> ContentError:
        """What to raise when a layer's blob holds something else than the layer: a base image's is broken then, a step's as good as
        gone."""
        return why if blob.digest in self._origins else GoneError(blob.digest, why)

    def _known(self, digest: Digest) -> list[Reference]:
        first = self._origins.get(digest)
        return [*([first] if first else ()), *self._locations.origins(digest)]

    async def _fetch(self, blob: Descriptor, progress: FetchProgress | None, arrival: Arrival | None) -> None:
        if self.is_here(blob):
            return
        failure: EngineError | None = None
        # Nobody can do without a base image's layer; a step's can be made again.
        is_base = blob.digest in self._origins
        for reference in self._known(blob.digest):
            try:
                return await self._download(reference, blob, progress, arrival)
            except NotFoundError:
                self._origins.pop(blob.digest, None)
                with suppress(StorageError):
                    await self._locations.missed(reference, [blob.digest])
            except (RegistryError, ContentError) as error:
                failure = error
        raise failure if failure and is_base else GoneError(blob.digest, failure)

    async def _download(self, reference: Reference, blob: Descriptor, progress: FetchProgress | None,
                        arrival: Arrival | None) -> None:  # fmt: skip
        # The client digests what arrives: the writer does not do it again.
        with self._content.writer(expected=blob.digest, size=blob.size, written_elsewhere=True) as writer:
            done = 0
            with storing(writer.path), writer.path.open("wb", buffering=0) as file:
                if arrival:
                    arrival.begin(writer.path)
                async with aclosing(self._puller(reference).blob(reference, blob)) as parts:
                    async for data in parts:
                        file.write(data)
                        done += len(data)
                        if arrival:
                            arrival.more()
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
        for _ in range(2):  # who unpacks it makes an index too, unless it was unpacked before
            if found is None:
                await self._flight.run(layer.diff_id, lambda: self._scan(layer))
                found = self._indexes.get(layer.diff_id)
        if found is None:
            raise ContentError(f"the index of layer {layer.diff_id} cannot be kept")
        return found

    def knows(self, chain: Chain) -> bool:
        """Whether `tree` needs to read no layer."""
        return all(self._indexes.path(layer.diff_id).exists() for layer in chain)

    async def ready(self, layer: Layer, unpack: Callable[[], Awaitable[None]]) -> None:
        """Has a layer unpacked, which makes its index too; who asks for that meanwhile waits for it."""
        await self._flight.run(layer.diff_id, unpack)

    async def _scan(self, layer: Layer) -> None:
        from engine.layer.scan import scan  # here, since layers are seldom read for their index alone

        blob, where = str(self._content.path(layer.blob.digest)), str(self._indexes.directory)
        await self._blobs.read(layer.blob, partial(self._workers.call, scan, blob, str(layer.diff_id), where))

    async def tree(self, chain: Chain) -> Tree:
        """The files of a state."""
        ids = tuple(layer.diff_id for layer in chain)
        known = next((n for n in range(len(ids), 0, -1) if ids[:n] in self._known), 0)
        tree = self._known[ids[:known]] if known else Tree.empty()
        for n in range(known, len(chain)):
            tree = tree.extended(chain[n], await self.index(chain[n]))
            self._known[ids[: n + 1]] = tree
        return tree
