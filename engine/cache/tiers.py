"""Several caches as one: near and quick ones first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from msgspec import Struct

from engine.cache.base import BulkCache, Record
from engine.errors import EngineError
from engine.image.digest import Digest


class Hit(Struct, frozen=True):
    """A record, and the name of the tier that had it."""

    record: Record
    tier: str


class Source(Protocol):
    """Where records can be looked for, and that is all."""

    async def get_many(self, keys: Sequence[Digest]) -> dict[Digest, Record]:
        """The records there are for some keys."""


class TieredCache:
    """Looks into its tiers in order, and then into its sources; what one of them has, the tiers above it keep too.

    A tier that cannot be read or filled costs a warning: only the writing of a new record may fail, see `put`.
    """

    def __init__(self, tiers: Sequence[tuple[str, BulkCache]], warn: Callable[[str], None],
                 sources: Sequence[tuple[str, Source]] = ()) -> None:
        self._tiers = tuple(tiers)
        self._all: Sequence[tuple[str, Source]] = (*tiers, *sources)
        self._warn = warn

    async def get(self, key: Digest) -> Record | None:
        """The record of the first tier that has it."""
        hit = (await self.find([key])).get(key)
        return hit.record if hit else None

    async def get_many(self, keys: Sequence[Digest]) -> dict[Digest, Record]:
        """The records there are for some keys."""
        return {key: hit.record for key, hit in (await self.find(keys)).items()}

    async def find(self, keys: Sequence[Digest]) -> dict[Digest, Hit]:
        """The records there are for some keys, and where they were found. Each tier is asked once, for what those above it do
        not have."""
        found: dict[Digest, Hit] = {}
        missing = list(dict.fromkeys(keys))
        for index, (name, tier) in enumerate(self._all):
            if not missing:
                break
            try:
                records = await tier.get_many(missing)
            except EngineError as error:
                self._warn(f"{name} cache: {error}")
                continue
            found |= {key: Hit(record, name) for key, record in records.items()}
            if records:
                await self._fill(index, records.values())
            missing = [key for key in missing if key not in found]
        return found

    async def put(self, *records: Record, replace: bool = False) -> None:
        """Publishes records in all tiers. When one of them fails the others are written all the same, and its error is raised
        then."""
        failure: EngineError | None = None
        for _, tier in self._tiers:
            try:
                await tier.put(*records, replace=replace)
            except EngineError as error:
                failure = failure or error
        if failure:
            raise failure

    async def _fill(self, below: int, records: Collection[Record]) -> None:
        for name, tier in self._tiers[:below]:
            try:
                await tier.put(*records)
            except EngineError as error:
                self._warn(f"{name} cache: {error}")
