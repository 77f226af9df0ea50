"""A remote state made of an instance: what changed is read, what is new is packed and pushed, and a manifest refers to the rest."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from msgspec import Struct, field

from engine.cache.carry import artifact, packing, record
from engine.cache.carry.artifact import Place, State
from engine.cache.carry.listing import Chunk, Listing
from engine.cache.carry.packing import Pack, Packed, Wanted
from engine.cache.carry.plan import Digests, Kept, compose, keep
from engine.cache.carry.record import Record
from engine.cache.carry.remote import Remote
from engine.cache.carry.restore import origin_of
from engine.cache.carry.survey import Survey
from engine.content.faults import storing
from engine.errors import ContentError, NotFoundError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.layer.index import collector_paused
from engine.workers.base import Workers

_WAITING = 64
"""Packs that may wait for being pushed: about 256 MiB of scratch."""
_READERS = 3
"""Batches that are read, or wait for a worker, at once."""


class Base(Struct, frozen=True):
    """A state that the new one may refer to, and where its chunks lie."""

    packs: tuple[Descriptor, ...] = ()
    table: tuple[Chunk, ...] = ()


class _Found(Struct):
    """What has become known of an instance's files while it is read."""

    digests: dict[bytes, Digests] = field(default_factory=dict)
    packs: list[Pack] = field(default_factory=list)


async def known_base(remote: Remote, target: State | None, before: Record | None, others: Iterable[State]) -> Base:
    """What a new state may refer to: the one it takes the place of, else one of `others` in its repository that this machine has
    the record of; nothing if its listing is lost. Raises `RegistryError`."""
    for state in [target] if target else others:
        if before and before.origin.digest == str(state.digest):
            return Base(state.packs, before.listing.table)
    try:
        return Base(target.packs, (await remote.listing(target)).table) if target else Base()
    except (NotFoundError, ContentError):
        return Base()


class Saver:
    """Saves one instance to a place."""

    def __init__(self, remote: Remote, workers: Workers, place: Place, *, full: int = packing.FULL) -> None:
        self._remote = remote
        self._workers = workers
        self._place = place
        self._full = full
        self.left_out = 0
        """Files that were changed while they were read."""

    async def read(self, instance: Path, found: Survey, before: Record | None, base: Base,
                   pushes: TaskGroup) -> tuple[Listing, list[Descriptor]]:  # fmt: skip
        """The listing of an instance as it was found, and its packs, the new ones of which are being pushed in the group. Raises
        `StorageError` and what workers raise."""
        so_far = _Found()
        wanted, unread = await anyio.to_thread.run_sync(_begin, found, before, so_far)
        waiting = anyio.Semaphore(_WAITING)
        known = {chunk.digest for chunk in base.table}
        await self._pass(instance, unread, known, so_far, pushes, waiting, only=False)
        kept, missing, again = await anyio.to_thread.run_sync(self._rest, wanted, base, so_far)
        await self._pass(instance, again, missing, so_far, pushes, waiting, only=True)
        entries = found.entries.entries

        def listed() -> Listing:
            with collector_paused():
                return compose(entries, so_far.digests, kept, [pack.chunks for pack in so_far.packs])

        listing = await anyio.to_thread.run_sync(listed)
        self.left_out += len(entries) - len(listing.entries)
        return listing, [*(base.packs[number] for number in kept.packs), *map(_descriptor, so_far.packs)]

    def _rest(self, wanted: Sequence[Wanted], base: Base, found: _Found) -> tuple[Kept, set[bytes], list[Wanted]]:
        """What is taken over, the chunks that lie nowhere then, and the files that have them."""
        with collector_paused():
            live = {digest for digests in found.digests.values() for digest, _ in digests}
            kept = keep(base.table, live, full=self._full)
            missing = live.difference(kept.chunks, (digest for pack in found.packs for digest, _ in pack.chunks))
            again = [file for file in wanted if any(digest in missing for digest, _ in found.digests.get(file.path, ()))]
            return kept, missing, again

    async def _pass(self, instance: Path, files: Sequence[Wanted], chosen: Collection[bytes], found: _Found, pushes: TaskGroup,
                    waiting: anyio.Semaphore, *, only: bool) -> None:  # fmt: skip
        """Reads files, batch by batch, and begins to push what comes of them."""
        if not files:
            return
        limit = anyio.CapacityLimiter(_READERS)
        async with _file(self._remote.file("chosen"), b"".join(sorted(chosen))) as path, anyio.create_task_group() as tasks:

            async def one(batch: Sequence[Wanted]) -> None:
                async with limit:
                    prefix = f"{self._remote.file('pack')}-"
                    packed: Packed = await self._workers.call(_pack, str(instance), batch, str(path), prefix, only, self._full)
                    self._remote.step()
                    for file, digests in zip(batch, packed.files, strict=True):
                        if digests is not None:
                            found.digests[file.path] = digests
                        else:
                            found.digests.pop(file.path, None)
                    for pack in packed.packs:
                        found.packs.append(pack)
                        await waiting.acquire()
                        pushes.start_soon(self._push, pack, waiting)

            for batch in packing.batches(files):
                tasks.start_soon(one, batch)

    async def _push(self, pack: Pack, waiting: anyio.Semaphore) -> None:
        try:
            await self._remote.push(self._place, _descriptor(pack), Path(pack.path))
        finally:
            waiting.release()

    async def publish(self, name: str, id: str, instance: Path, found: Survey, listing: Listing, packs: Sequence[Descriptor],
                      before: State | None, now: float) -> State:  # fmt: skip
        """Publishes a state whose packs have been pushed, as one that is later than the state before, and writes down what the
        instance was when it was read. Raises `RegistryError`, `StorageError`."""
        created = max(now, math.nextafter(before.created, math.inf)) if before else now
        state = await self._remote.publish(self._place, name, id, created, listing, packs, before)
        await anyio.to_thread.run_sync(_store, instance, state, found, listing)
        return state


def _store(instance: Path, state: State, found: Survey, listing: Listing) -> None:
    with collector_paused():
        looks = {entry.path: look for entry, look in zip(found.entries.entries, found.lasting(), strict=True)}
        record.store(instance, Record(origin_of(state), listing, [looks[entry.path] for entry in listing.entries]))


def _begin(found: Survey, before: Record | None, so_far: _Found) -> tuple[list[Wanted], list[Wanted]]:
    """All files that have something in them, and those of them that have to be read; the chunks of the others are known."""
    with collector_paused():
        if before is not None:
            so_far.digests.update(_known(found, before))
        rows = zip(found.entries.entries, found.looks, strict=True)
        wanted = [Wanted(entry.path, entry.size, look) for entry, look in rows if entry.kind == "file" and entry.size]
        return wanted, [file for file in wanted if file.path not in so_far.digests]


def _known(found: Survey, before: Record) -> dict[bytes, Digests]:
    """The chunks of the files that need not be read."""
    table = before.listing.table
    return {entry.path: tuple((table[number].digest, table[number].size) for number in before.listing.chunks[row])
            for entry, row in zip(found.entries.entries, found.known, strict=True) if row >= 0 and entry.size}  # fmt: skip


def _descriptor(pack: Pack) -> Descriptor:
    return Descriptor(artifact.PACK, Digest("sha256", pack.digest), pack.size)


def _pack(instance: str, files: Sequence[Wanted], chosen: str, prefix: str, only: bool, full: int) -> Packed:
    return packing.pack(instance, files, chosen, prefix, only=only, full=full)


@asynccontextmanager
async def _file(path: Path, content: bytes) -> AsyncIterator[Path]:
    with storing(path):
        path.write_bytes(content)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)

