"""The cache's contract: key to the layer a step made. A key is a digest over everything that the result depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct, field

from engine.image.digest import Digest
from engine.layer.base import Layer


class Record(Struct, frozen=True):
    """What a step's key stands for. `layer` is None for a step that changed nothing and makes no layer (WORKDIR of a
    directory that exists). `created` is seconds since the epoch. `ingredients` is what the key was made of, by name, to explain
    misses."""

    key: Digest
    layer: Layer | None
    created: float
    step: str = ""
    ingredients: Mapping[str, str] = field(default_factory=dict)


class Cache(Protocol):
    """Records by key. Records are immutable: the first one published under a key stays, unless it is replaced by intent."""

    async def get(self, key: Digest) -> Record | None:
        """The record, if there is one and what it points to can still be had."""

    async def put(self, *records: Record, replace: bool = False) -> None:
        """Publishes records; with `replace` they take the place of those that there are (a build without cache wants to be what
        later builds find). A cache that cannot be written raises `StorageError`."""


class BulkCache(Cache, Protocol):
    """A cache that can be asked for many keys at once; all the engine's own can."""

    async def get_many(self, keys: Sequence[Digest]) -> dict[Digest, Record]:
        """What `get` gives for each of the keys for which it gives something."""
