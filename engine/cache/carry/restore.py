"""An instance made of a remote state: packs are fetched and unpacked side by side, beside its place, and put there as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import anyio
import anyio.to_thread
from msgspec import Struct

from engine.cache.carry import unpacking
from engine.cache.carry.artifact import State
from engine.cache.carry.listing import Listing
from engine.cache.carry.record import Origin, Record
from engine.cache.carry.remote import Remote
from engine.cache.carry.survey import Survey, survey
from engine.cache.carry.unpacking import Draft, Piece
from engine.content.faults import storing
from engine.errors import StorageError
from engine.layer.entries import Entry
from engine.layer.index import Index, collector_paused
from engine.workers.base import Workers

_LANES = 6
"""Packs that are on their way, or in hand, at once."""


class Work(Struct, frozen=True):
    """What there is to do. `pieces` are what is needed of each pack, by its number; `long` files that consist of several."""

    directories: tuple[bytes, ...]
    empty: Index
    unchanged: Index
    long: Index
    entries: Index
    """All of the listing that is no file."""
    pieces: Mapping[int, Sequence[Piece]]
    foreign: int
    """Files whose owners this machine cannot give them."""


def assign(listing: Listing, here: Sequence[Entry], holds: Callable[[int, int], bool]) -> Work:
    """Plans a restoration; files that are `here` in all respects, content too, are taken over. Pure."""
    known = set(here)
    places: dict[int, list[tuple[Entry, int]]] = {}
    empty, unchanged, long, rest, directories = [], [], [], [], []
    foreign = 0
    for entry, chunks in zip(listing.entries, listing.chunks, strict=True):
        foreign += not holds(entry.uid, entry.gid)
        if entry.kind != "file":
            rest.append(entry)
            if entry.kind == "dir":
                directories.append(entry.path)
        elif entry in known:
            unchanged.append(entry)
        elif not chunks:
            empty.append(entry)
        else:
            if len(chunks) > 1:
                long.append(entry)
            at = 0
            for number in chunks:
                places.setdefault(number, []).append((entry, at))
                at += listing.table[number].size
    pieces: dict[int, list[Piece]] = {}
    for number, files in places.items():
        chunk = listing.table[number]
        pieces.setdefault(chunk.pack, []).append(Piece(chunk.offset, chunk.size, chunk.digest, tuple(files)))
    return Work(tuple(directories), _sendable(empty), _sendable(unchanged), _sendable(long), _sendable(rest), pieces, foreign)


def _sendable(entries: Sequence[Entry]) -> Index:
    """An index whose bytes, as workers get it, are made here and not in the event loop."""
    index = Index(entries)
    index.to_bytes()
    return index


async def restore(remote: Remote, workers: Workers, state: State, path: str, old: Listing | None = None,
                  progress: Callable[[int, int], None] = lambda done, total: None) -> tuple[Record, int]:  # fmt: skip
    """Makes the instance at `path`, which nobody else uses, be what a state says. `old` is what it is now, if that is known: files
    that are the same are not fetched. Returns the record of it, and how many files have another owner than they should. Raises
    `RegistryError`, `ContentError`, `StorageError`; then the instance is as it was."""
    listing = await remote.listing(state)
    environment = await workers.environment()
    ids = environment.ids

    def plan() -> Work:
        with collector_paused():
            return assign(listing, _unchanged(listing, old) if old else (), ids.holds)

    work = await anyio.to_thread.run_sync(plan)
    _make_sure_of_space(path, listing.size)
    draft = Draft(f"{path}.draft", ids)
    try:
        await workers.call(unpacking.begin, draft, work.directories, work.empty, path, work.unchanged)
        await _fetch(remote, workers, state, draft, work, progress)
        await workers.call(unpacking.finish, draft, work.entries, work.long)
    except BaseException:
        with anyio.move_on_after(30, shield=True):
            await workers.call(unpacking.discard, draft)
        raise
    with anyio.CancelScope(shield=True):  # once it is begun, it is quickly done
        await workers.call(unpacking.publish, draft.path, path)
        found: Survey = await workers.call(survey, path)
    record = await anyio.to_thread.run_sync(as_record, found, listing, origin_of(state))
    return record, work.foreign


def _make_sure_of_space(path: str, size: int) -> None:
    """A listing can make much of little: one chunk in a million files."""
    directory = os.path.dirname(path)
    with storing(directory):
        found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if size > free:
        raise StorageError(f"it takes {size >> 20} MiB, and {free >> 20} MiB are free in {directory}")


async def _fetch(remote: Remote, workers: Workers, state: State, draft: Draft, work: Work,
                 progress: Callable[[int, int], None]) -> None:  # fmt: skip
    limit = anyio.CapacityLimiter(_LANES)
    total = sum(state.packs[number].size for number in work.pieces)
    done = 0

    async def one(number: int, pieces: Sequence[Piece]) -> None:
        nonlocal done
        async with limit:
            pack = await remote.fetch(state, state.packs[number])
            try:
                await workers.call(unpacking.fill, draft, str(pack), pieces)
            finally:
                pack.unlink(missing_ok=True)
            remote.step()
            done += state.packs[number].size
            progress(done, total)

    try:
        async with anyio.create_task_group() as tasks:
            for number, pieces in work.pieces.items():
                tasks.start_soon(one, number, pieces)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def origin_of(state: State) -> Origin:
    """How a record names a state."""
    return Origin(str(state.place), str(state.digest), state.created)


def as_record(found: Survey, listing: Listing, origin: Origin) -> Record:
    """The record of an instance as it was found, whose files have the contents of those of the listing."""
    with collector_paused():
        chunks = {entry.path: numbers for entry, numbers in zip(listing.entries, listing.chunks, strict=True)}
        entries = found.entries.entries
        rows = tuple(chunks.get(entry.path, ()) if entry.kind == "file" else () for entry in entries)
        return Record(origin, Listing(entries, rows, listing.table), found.lasting())


def _unchanged(listing: Listing, old: Listing) -> list[Entry]:
    """Those files of an old listing whose content is that of a new one's."""
    wanted = dict(_contents(listing))
    return [entry for entry, digests in _contents(old) if wanted.get(entry) == digests]


def _contents(listing: Listing) -> Iterator[tuple[Entry, list[bytes]]]:
    for entry, numbers in zip(listing.entries, listing.chunks, strict=True):
        if entry.kind == "file":
            yield entry, [listing.table[number].digest for number in numbers]
