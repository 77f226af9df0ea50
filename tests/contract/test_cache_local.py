"""The local cache: SQLite records beside a content store."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from engine.cache.base import Record
from engine.cache.holdings import RecordHolding
from engine.cache.local import LocalCache
from engine.content.gc import Policy
from engine.content.leases import Leases
from engine.content.prune import BlobHolding, Holding, prune
from engine.content.store import DirectoryStore
from engine.errors import StorageError
from engine.image.descriptor import OCI_LAYER_GZIP, Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.layer.base import Layer

APP = Reference.parse("127.0.0.1:5000/app")
BASE = Reference.parse("127.0.0.1:5000/base:1")


class Clock:
    """A clock that goes when told to."""

    now = 10_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


@pytest.fixture
async def opened(tmp_path: Path, store: DirectoryStore, clock: Clock) -> AsyncIterator[Callable[[], LocalCache]]:
    """Opens the cache as another process would."""
    caches: list[LocalCache] = []

    def another() -> LocalCache:
        caches.append(LocalCache(tmp_path / "cache", store, clock=clock))
        return caches[-1]

    yield another
    for cache in caches:
        await cache.aclose()


@pytest.fixture
def cache(opened: Callable[[], LocalCache]) -> LocalCache:
    return opened()


def key(name: str) -> Digest:
    return Digest.of(name.encode())


def layer(store: DirectoryStore, content: bytes) -> Layer:
    return Layer(Digest.of(content + b" tar"), Descriptor(OCI_LAYER_GZIP, store.put(content), len(content)))


def absent(content: bytes) -> Layer:
    """A layer whose blob is somewhere else."""
    return Layer(Digest.of(content + b" tar"), Descriptor(OCI_LAYER_GZIP, Digest.of(content), len(content)))


def files(tmp_path: Path) -> list[str]:
    return sorted(name for name in os.listdir(tmp_path / "cache") if name.endswith(".db"))


def test_importing_the_cache_imports_no_database_and_no_http() -> None:
    heavy = "{'sqlite3', 'aiohttp', 'yarl'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"import sys, engine.cache.local, engine.cache.remote; print({heavy})"],
                          capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"


async def test_looking_makes_nothing(cache: LocalCache, tmp_path: Path) -> None:
    assert await cache.get(key("k")) is None
    assert list(cache.usage()) == [] and cache.similar("RUN make") == []
    await cache.aclose()
    assert not (tmp_path / "cache").exists()


async def test_another_process_sees_what_was_put(cache: LocalCache, opened: Callable[[], LocalCache]) -> None:
    other = opened()
    assert await other.get(key("k")) is None
    await cache.put(Record(key("k"), None, 1.0))
    assert await other.get(key("k")) is not None
    await cache.aclose()
    assert await other.get(key("k")) is not None


async def test_a_record_that_healed_away_is_gone_after_a_flush(cache: LocalCache, store: DirectoryStore) -> None:
    one = layer(store, b"x")
    await cache.put(Record(key("k"), one, 1.0))
    store.remove(one.blob.digest)
    assert await cache.get(key("k")) is None
    assert len(list(cache.usage())) == 1
    await cache.flush()
    assert list(cache.usage()) == []


async def test_a_record_made_again_before_the_flush_stays(cache: LocalCache, store: DirectoryStore) -> None:
    one = layer(store, b"x")
    await cache.put(Record(key("k"), one, 1.0))
    store.remove(one.blob.digest)
    assert await cache.get(key("k")) is None
    store.put(b"x")
    await cache.flush()
    assert await cache.get(key("k")) is not None


async def test_a_layer_elsewhere_counts_while_the_registry_was_seen_to_have_it(cache: LocalCache, clock: Clock) -> None:
    one = absent(b"x")
    await cache.put(Record(key("k"), one, 1.0))
    assert await cache.get(key("k")) is None
    await cache.put(Record(key("k"), one, 1.0))
    await cache.catalog.saw(APP, [one.blob.digest])
    assert await cache.get(key("k")) is not None
    clock.now += 901
    assert await cache.get(key("k")) is None


async def test_a_layer_at_hand_takes_the_place_of_one_elsewhere(cache: LocalCache, store: DirectoryStore) -> None:
    await cache.catalog.saw(APP, [absent(b"x").blob.digest])
    await cache.put(Record(key("k"), absent(b"x"), 1.0))
    here = Record(key("k"), layer(store, b"y"), 2.0)
    await cache.put(here)
    assert await cache.get(key("k")) == here


async def test_last_use_is_kept_to_the_hour_so_that_a_cached_build_writes_nothing(cache: LocalCache, clock: Clock,
                                                                                    opened: Callable[[], LocalCache]) -> None:
    await cache.put(Record(key("k"), None, 1.0))
    clock.now += 3599
    await cache.get(key("k"))
    await cache.flush()
    assert [usage.used for usage in cache.usage()] == [10_000.0]
    clock.now += 2
    await cache.get(key("k"))
    assert [usage.used for usage in opened().usage()] == [10_000.0]
    await cache.flush()
    assert [usage.used for usage in opened().usage()] == [13_601.0]


async def test_similar_records_are_those_of_the_instruction_newest_first(cache: LocalCache) -> None:
    for number, step in enumerate(["RUN make", "RUN make", "RUN makeinfo", "RUNX", "COPY . .", "RUN test"]):
        await cache.put(Record(key(str(number)), None, float(number), step, {"n": str(number)}))
    assert [r.ingredients["n"] for r in cache.similar("RUN make", 10)] == ["1", "0", "5", "2"]
    assert [r.ingredients["n"] for r in cache.similar("RUN make", 1)] == ["1"]
    assert [r.ingredients["n"] for r in cache.similar("COPY x y", 10)] == ["4"]
    assert cache.similar("ADD x y") == []


async def test_records_can_be_listed_and_removed(cache: LocalCache, store: DirectoryStore, clock: Clock) -> None:
    one = layer(store, b"four")
    await cache.put(Record(key("a"), one, 1.0, "RUN a"))
    clock.now += 1
    await cache.put(Record(key("b"), None, 2.0, "RUN b"))
    first, second = cache.usage()
    assert (first.key, first.step, first.size) == (key("a"), "RUN a", 4)
    assert (first.blob, first.diff_id) == (one.blob.digest, one.diff_id)
    assert (second.blob, second.size, second.created, second.used) == (None, 0, 2.0, 10_001.0)
    await cache.remove([key("a")])
    assert [usage.key for usage in cache.usage()] == [key("b")]


@pytest.mark.parametrize("damage", ["garbage", "empty", "middle"])
async def test_a_corrupt_file_is_left_and_work_goes_on(tmp_path: Path, opened: Callable[[], LocalCache], damage: str) -> None:
    cache = opened()
    for number in range(200):
        await cache.put(Record(key(str(number)), None, 1.0, "RUN x", {"text": os.urandom(400).hex()}))
    await cache.aclose()
    path = tmp_path / "cache" / files(tmp_path)[0]
    data = path.read_bytes()
    path.write_bytes({"garbage": b"garbage" * 1000, "empty": b"", "middle": data[:4096] + b"\xff" * (len(data) - 4096)}[damage])
    old, new = opened(), opened()
    assert await old.get(key("1")) is None
    await new.put(Record(key("k"), None, 1.0))
    assert await new.get(key("k")) is not None
    await old.put(Record(key("l"), None, 1.0))
    assert await old.get(key("k")) is not None
    assert files(tmp_path) == ["records-v1.0.db", "records-v1.1.db"]
    assert path.exists()


async def test_a_row_that_makes_no_sense_is_dropped(cache: LocalCache, tmp_path: Path) -> None:
    await cache.put(Record(key("k"), None, 1.0))
    with closing(sqlite3.connect(tmp_path / "cache" / files(tmp_path)[0])) as connection, connection:
        connection.execute("UPDATE records SET layer = '{}'")
    assert await cache.get(key("k")) is None
    await cache.put(Record(key("k"), None, 2.0))
    got = await cache.get(key("k"))
    assert got is not None and got.created == 2.0


async def test_two_versions_of_the_engine_share_a_directory(cache: LocalCache, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/records-v999.0.db").write_bytes(b"from the future")
    await cache.put(Record(key("k"), None, 1.0))
    assert await cache.get(key("k")) is not None
    assert (tmp_path / "cache/records-v999.0.db").read_bytes() == b"from the future"


async def test_many_that_begin_at_once_share_one_file(opened: Callable[[], LocalCache], tmp_path: Path) -> None:
    caches = [opened() for _ in range(10)]
    async with anyio.create_task_group() as group:
        for number, cache in enumerate(caches):
            group.start_soon(cache.put, Record(key(str(number)), None, 1.0))
    assert files(tmp_path) == ["records-v1.0.db"]
    assert len(list(opened().usage())) == 10
    assert not [name for name in os.listdir(tmp_path / "cache") if name.startswith("new-")]


async def test_a_place_that_cannot_be_written_is_a_storage_error_and_reads_empty(tmp_path: Path, store: DirectoryStore) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = LocalCache(tmp_path / "file", store)
    assert await cache.get(key("k")) is None
    with pytest.raises(StorageError):
        await cache.put(Record(key("k"), None, 1.0))


async def test_a_prune_lets_go_of_old_records_and_bases_and_of_their_blobs(cache: LocalCache, store: DirectoryStore, clock: Clock,
                                                                           tmp_path: Path) -> None:
    old, new, base, loose = layer(store, b"old"), layer(store, b"new"), store.put(b"base"), store.put(b"loose")
    await cache.put(Record(key("old"), old, 1.0))
    await cache.catalog.remember_base(BASE, base, [("blob", str(base))])
    clock.now += 100
    await cache.put(Record(key("new"), new, 1.0))
    holdings: list[Holding] = [RecordHolding(cache), BlobHolding(store, tmp_path / "trash")]
    leases = Leases(tmp_path / "leases")
    await prune(leases, holdings, Policy(), clock.now)
    assert [store.has(blob) for blob in (old.blob.digest, new.blob.digest, base, loose)] == [True, True, True, False]
    verdict = await prune(leases, holdings, Policy(older_than=50), clock.now)
    assert verdict.freed == len(b"old" + b"base")
    assert [store.has(blob) for blob in (old.blob.digest, new.blob.digest, base)] == [False, True, False]
    assert [usage.key for usage in cache.usage()] == [key("new")]
    assert cache.catalog.bases() == []
    async with leases.hold() as lease:
        await lease.protect([("record", str(key("new")))])
        assert (await prune(leases, holdings, Policy(all=True), clock.now)).remove == ()
    assert await cache.get(key("new")) is not None


async def test_the_catalog_knows_where_blobs_are(cache: LocalCache, clock: Clock) -> None:
    blob, other = key("blob"), key("other")
    assert cache.catalog.origins(blob) == ()
    await cache.catalog.saw(APP, [blob, other])
    clock.now += 1
    await cache.catalog.saw(BASE, [blob])
    assert [str(origin) for origin in cache.catalog.origins(blob)] == ["127.0.0.1:5000/base", "127.0.0.1:5000/app"]
    await cache.catalog.missed(BASE, [blob])
    assert [str(origin) for origin in cache.catalog.origins(blob)] == ["127.0.0.1:5000/app"]


async def test_the_catalog_remembers_bases_and_images(cache: LocalCache, clock: Clock) -> None:
    await cache.catalog.remember_base(BASE, key("one"), [("blob", "a"), ("layer", "b")])
    clock.now += 1
    await cache.catalog.remember_base(BASE, key("two"), [("blob", "c")])
    base = cache.catalog.base(BASE)
    assert base is not None and (base.digest, base.needs, base.seen) == (key("two"), (("blob", "c"),), 10_001.0)
    assert cache.catalog.bases() == [base]
    clock.now += 1
    await cache.catalog.used_bases([BASE, APP])
    assert [(b.seen, b.used) for b in cache.catalog.bases()] == [(10_001.0, 10_002.0)]
    assert cache.catalog.base(APP) is None
    await cache.catalog.forget_bases([BASE])
    assert cache.catalog.bases() == []
    await cache.catalog.built([APP, BASE], key("image"))
    assert {(str(name), digest) for name, digest, _ in cache.catalog.images()} == {
        ("127.0.0.1:5000/app:latest", key("image")), ("127.0.0.1:5000/base:1", key("image"))}
