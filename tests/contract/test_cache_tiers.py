"""What every cache does, whatever it keeps its records in."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cache.base import BulkCache, Record
from engine.cache.local import LocalCache
from engine.cache.memory import MemoryCache
from engine.cache.tiers import TieredCache
from engine.content.store import DirectoryStore
from engine.errors import StorageError
from engine.image.descriptor import OCI_LAYER_GZIP, Descriptor
from engine.image.digest import Digest
from engine.layer.base import Layer


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def key(name: str) -> Digest:
    return Digest.of(name.encode())


def record(store: DirectoryStore, name: str, content: bytes = b"layer", step: str = "RUN make", **ingredients: str) -> Record:
    """A record whose layer is in the store."""
    blob = Descriptor(OCI_LAYER_GZIP, store.put(content), len(content), {"from": "test"})
    return Record(key(name), Layer(Digest.of(content + b" tar"), blob), 1000.5, step, ingredients)


@pytest.fixture(params=["memory", "local", "tiered"])
def cache(request: pytest.FixtureRequest, store: DirectoryStore, tmp_path: Path) -> BulkCache:
    memory, local = MemoryCache(store), LocalCache(tmp_path / "cache", store)
    caches: dict[str, BulkCache] = {
        "memory": memory, "local": local, "tiered": TieredCache([("memory", memory), ("local", local)], pytest.fail)}
    return caches[request.param]


async def test_what_was_put_is_got_whole(cache: BulkCache, store: DirectoryStore) -> None:
    put = record(store, "k", argv="make", parent="sha256:…")
    await cache.put(put)
    got = await cache.get(key("k"))
    assert got == put
    assert got is not None and dict(got.ingredients) == {"argv": "make", "parent": "sha256:…"}
    assert await cache.get(key("other")) is None


async def test_a_record_may_have_no_layer(cache: BulkCache) -> None:
    empty = Record(key("k"), None, 1.0, "WORKDIR /")
    await cache.put(empty)
    assert await cache.get(key("k")) == empty


async def test_the_first_record_under_a_key_stays(cache: BulkCache, store: DirectoryStore) -> None:
    first = record(store, "k", b"first")
    await cache.put(first)
    await cache.put(record(store, "k", b"second"))
    assert await cache.get(key("k")) == first


async def test_a_record_whose_blob_is_gone_heals_itself_away(cache: BulkCache, store: DirectoryStore) -> None:
    gone = record(store, "k", b"first")
    await cache.put(gone)
    assert gone.layer
    store.remove(gone.layer.blob.digest)
    assert await cache.get(key("k")) is None
    again = record(store, "k", b"second")
    await cache.put(again)
    assert await cache.get(key("k")) == again


async def test_a_record_whose_blob_was_cut_off_heals_itself_away(cache: BulkCache, store: DirectoryStore) -> None:
    short = record(store, "k")
    await cache.put(short)
    assert short.layer
    store.path(short.layer.blob.digest).write_bytes(b"lay")
    assert await cache.get(key("k")) is None


async def test_many_keys_are_asked_for_at_once(cache: BulkCache, store: DirectoryStore) -> None:
    records = [record(store, str(number)) for number in range(1200)]
    for one in records[:3] + records[-3:]:
        await cache.put(one)
    found = await cache.get_many([one.key for one in records])
    assert found == {one.key: one for one in records[:3] + records[-3:]}
    assert await cache.get_many([]) == {}


async def test_a_lower_tier_fills_the_upper_ones(store: DirectoryStore, tmp_path: Path) -> None:
    memory, local = MemoryCache(store), LocalCache(tmp_path / "cache", store)
    one = record(store, "k")
    await local.put(one)
    tiers = TieredCache([("memory", memory), ("local", local)], pytest.fail)
    hit = (await tiers.find([key("k"), key("absent")]))[key("k")]
    assert (hit.record, hit.tier) == (one, "local")
    assert await memory.get(key("k")) == one
    assert (await tiers.find([key("k")]))[key("k")].tier == "memory"


class Broken:
    """A cache whose disk is full."""

    async def get(self, key: Digest) -> Record | None:
        raise StorageError("no")

    async def get_many(self, keys: object) -> dict[Digest, Record]:
        raise StorageError("no")

    async def put(self, *records: Record, replace: bool = False) -> None:
        raise StorageError("no")


async def test_a_broken_tier_costs_a_warning_and_the_others_serve(store: DirectoryStore) -> None:
    warnings: list[str] = []
    memory = MemoryCache(store)
    tiers = TieredCache([("first", Broken()), ("second", memory)], warnings.append)
    one = record(store, "k")
    with pytest.raises(StorageError):
        await tiers.put(one)
    assert await memory.get(key("k")) == one
    assert await tiers.get(key("k")) == one
    assert warnings == ["first cache: no", "first cache: no"]


async def test_memory_forgets_what_was_used_longest_ago(store: DirectoryStore) -> None:
    memory = MemoryCache(store, limit=2)
    for name in ("a", "b"):
        await memory.put(record(store, name))
    await memory.get(key("a"))
    await memory.put(record(store, "c"))
    assert list(await memory.get_many([key(name) for name in "abc"])) == [key("a"), key("c")]
