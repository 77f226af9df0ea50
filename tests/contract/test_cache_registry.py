"""The registry tier against whole registries: Debian's docker-registry, and the one that the engine brings."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from engine.cache.base import Record
from engine.cache.local import LocalCache
from engine.cache.memory import MemoryCache
from engine.cache.remote import RemoteCache
from engine.cache.sources import LOOKUPS
from engine.cache.storage import Locations, Patience, Place
from engine.cache.tiers import TieredCache
from engine.content.store import DirectoryStore
from engine.errors import NotFoundError
from engine.image.descriptor import OCI_LAYER_GZIP, Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.layer.base import Layer
from engine.registry.client import RegistryClient
from engine.registry.server.faults import Fault, Kind
from engine.registry.server.server import RegistryServer
from tests.contract.registry_fixtures.clients import connected, pull


class Remote(RemoteCache):
    """A remote cache that can be looked into by itself."""

    async def get_many(self, keys: Sequence[Digest]) -> dict[Digest, Record]:
        return await TieredCache([], pytest.fail, self.tiers).get_many(keys)

    async def get(self, key: Digest) -> Record | None:
        return (await self.get_many([key])).get(key)


async def no_fetch(blob: Descriptor) -> None:
    raise NotFoundError("nobody has it")


@dataclass
class Builder:
    """One machine: its content store, its client, and what it was warned of."""

    folder: Path
    client: RegistryClient
    store: DirectoryStore = field(init=False)
    warnings: list[str] = field(default_factory=list)
    seen: list[tuple[Reference, Digest]] = field(default_factory=list)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.store = DirectoryStore(self.folder)

    def cache(self, target: Place | None, sources: Sequence[Place] | None = None,
              patience: Patience | None = None) -> Remote:
        async def seen(repository: Reference, blobs: Iterable[Digest]) -> None:
            self.seen += [(repository, blob) for blob in blobs]

        def origins(blob: Digest) -> list[Reference]:
            return [repository for repository, known in self.seen if known == blob]

        places = sources if sources is not None else [target] if target else []
        return Remote(lambda _: self.client, self.store, Locations(seen, origins, no_fetch), sources=places, target=target,
                      warn=self.warnings.append, patience=patience, clock=lambda: self.now)

    def record(self, name: str, content: bytes = b"layer", created: float = 1000.0, **ingredients: str) -> Record:
        blob = Descriptor(OCI_LAYER_GZIP, self.store.put(content), len(content))
        return Record(key(name), Layer(Digest.of(content + b" tar"), blob), created, f"RUN {name}", ingredients)


def key(name: str) -> Digest:
    return Digest.of(name.encode())


async def published(builder: Builder, place: Place, *records: Record) -> None:
    async with builder.cache(place) as cache:
        for record in records:
            await cache.put(record)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RegistryServer]:
    async with RegistryServer(tmp_path / "registry") as server:
        yield server


@pytest.fixture
async def builders(tmp_path: Path) -> AsyncIterator[tuple[Builder, Builder]]:
    async with connected() as one, connected() as other:
        yield Builder(tmp_path / "one", one), Builder(tmp_path / "other", other)


@pytest.fixture
def place(server: RegistryServer) -> Place:
    return Place(Reference.parse(f"{server.address}/cache"))


@pytest.fixture(params=["docker-registry", "embedded"])
def any_place(request: pytest.FixtureRequest, repository: str) -> Place:
    """A repository in each kind of registry."""
    if request.param == "docker-registry":
        return Place(Reference.parse(f"{request.getfixturevalue('docker_registry').address}/{repository}"))
    return Place(Reference.parse(f"{request.getfixturevalue('server').address}/{repository}"))


async def test_another_machine_finds_what_was_published_and_can_fetch_the_layer(any_place: Place,
                                                                                builders: tuple[Builder, Builder]) -> None:
    one, other = builders
    record, empty = one.record("make", argv="make"), Record(key("empty"), None, 1.0, "WORKDIR /")
    await published(one, any_place, record, empty)
    cache = other.cache(None, [any_place])
    assert await cache.get_many([key("make"), key("absent"), key("empty")]) == {key("make"): record, key("empty"): empty}
    assert record.layer
    assert other.store.blobs() == []
    assert other.seen == [(Reference(any_place.repository.registry, any_place.repository.repository), record.layer.blob.digest)]
    assert await pull(other.client, any_place.repository, record.layer.blob) == b"layer"
    assert one.warnings == other.warnings == []


async def test_a_lookup_moves_no_layer(server: RegistryServer, place: Place, builders: tuple[Builder, Builder]) -> None:
    one, other = builders
    await published(one, place, one.record("make"))
    before = len(server.requests)
    assert await other.cache(None, [place]).get(key("make"))
    assert [(r.method, "/manifests/" in r.path) for r in server.requests[before:] if r.path != "/v2/"] == [("GET", True)]


async def test_the_first_entry_under_a_key_stays(place: Place, builders: tuple[Builder, Builder]) -> None:
    one, other = builders
    first = one.record("make", b"first")
    await published(one, place, first)
    await published(other, place, other.record("make", b"second"))
    assert await one.cache(None, [place]).get(key("make")) == first


async def test_an_entry_that_is_too_old_counts_as_absent_and_is_replaced(place: Place, builders: tuple[Builder, Builder]) -> None:
    one, other = builders
    patience = Patience(ttl=100)
    await published(one, place, one.record("make", b"first", created=1000.0))
    other.now = 1099.0
    assert await other.cache(None, [place], patience).get(key("make"))
    other.now = 1101.0
    assert await other.cache(None, [place], patience).get(key("make")) is None
    second = other.record("make", b"second", created=1101.0)
    async with other.cache(place, patience=patience) as cache:
        await cache.put(second)
    assert await other.cache(None, [place], patience).get(key("make")) == second


async def test_a_branch_reads_its_own_scope_first_then_the_trunks(place: Place, builders: tuple[Builder, Builder]) -> None:
    one, other = builders
    trunk, branch = Place(place.repository, "main"), Place(place.repository, "feature/ü x")
    of_trunk, both, of_branch = one.record("a", b"trunk"), one.record("b", b"trunk"), one.record("b", b"branch")
    await published(one, trunk, of_trunk, both)
    await published(one, branch, of_branch)
    cache = other.cache(None, [branch, trunk])
    assert await cache.get_many([key("a"), key("b")]) == {key("a"): of_trunk, key("b"): of_branch}
    assert await other.cache(None, [trunk]).get(key("b")) == both
    assert await other.cache(None, [place]).get(key("b")) is None


async def test_a_layer_the_registry_has_elsewhere_is_mounted(server: RegistryServer, place: Place,
                                                             builders: tuple[Builder, Builder]) -> None:
    one, _ = builders
    record = one.record("make", b"x" * 5000)
    assert record.layer
    app = Reference.parse(f"{server.address}/app")
    await one.client.push_blob(app, record.layer.blob, one.store.path(record.layer.blob.digest))
    one.seen.append((app, record.layer.blob.digest))
    before = len(server.requests)
    await published(one, place, record)
    assert any("from=app" in request.query for request in server.requests[before:])
    assert await one.client.has_blob(place.repository, record.layer.blob.digest)


async def test_a_record_whose_layer_is_somewhere_else_is_not_published(place: Place, builders: tuple[Builder, Builder]) -> None:
    one, other = builders
    await published(other, place, one.record("make"))
    assert await one.cache(None, [place]).get(key("make")) is None
    assert other.warnings == []


async def test_somebody_elses_entry_is_no_entry(place: Place, builders: tuple[Builder, Builder]) -> None:
    one, other = builders
    await published(one, place, one.record("make"))
    fetched = await one.client.manifest(place.entry(key("make")))
    await one.client.push_manifest(place.entry(key("test")), fetched.manifest.raw, fetched.manifest.media_type)
    cache = other.cache(None, [place])
    assert list(await cache.get_many([key("make"), key("test")])) == [key("make")]
    assert other.warnings == []


async def test_a_registry_that_is_read_only_costs_one_warning(server: RegistryServer, place: Place,
                                                              builders: tuple[Builder, Builder]) -> None:
    one, _ = builders
    await published(one, place, one.record("before"))
    server.add_fault(Fault(kind="read-only", times=None))
    await published(one, place, *[one.record(str(number), b"%d" % number) for number in range(5)])
    assert len(one.warnings) == 1
    assert "cannot write cache" in one.warnings[0] and "rest of this build" in one.warnings[0]
    cache = one.cache(place)
    assert await cache.get(key("before"))


async def test_a_registry_that_is_down_costs_one_warning(builders: tuple[Builder, Builder]) -> None:
    one, _ = builders
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        down = Place(Reference.parse(f"127.0.0.1:{unused.getsockname()[1]}/cache"))
        async with one.cache(None, [down]) as cache:
            assert await cache.get_many([key(str(number)) for number in range(40)]) == {}
            assert await cache.get(key("later")) is None
    assert len(one.warnings) == 1 and "cannot read cache" in one.warnings[0]


async def test_a_registry_that_stalls_costs_one_timeout(server: RegistryServer, place: Place,
                                                        builders: tuple[Builder, Builder]) -> None:
    one, _ = builders
    server.add_fault(Fault(path=".*/manifests/.*", kind="stall", delay=3600, times=None))
    cache = one.cache(None, [place], Patience(lookup=0.2))
    with anyio.fail_after(10):
        assert await cache.get_many([key(str(number)) for number in range(40)]) == {}
        assert await cache.get(key("later")) is None
    asked = [request for request in server.requests if "/manifests/" in request.path]
    assert len(asked) <= LOOKUPS
    assert not [request for request in asked if key("later").hex in request.path]
    assert one.warnings == [f"cannot read cache {place.repository.name}: no answer within 0.2 seconds; "
                            "it is left alone for the rest of this build"]


async def test_pushes_that_do_not_end_are_given_up_after_the_build(server: RegistryServer, place: Place,
                                                                   builders: tuple[Builder, Builder]) -> None:
    one, _ = builders
    server.add_fault(Fault(method="PUT|POST|PATCH", kind="stall", delay=3600, times=None))
    with anyio.fail_after(10):
        async with one.cache(place, patience=Patience(drain=0.1)) as cache:
            await cache.put(one.record("a"))
            await cache.put(one.record("b"))
    assert one.warnings == [f"cache {place.repository.name}: 2 entries were not written within 0.1 seconds after the build"]


async def test_a_failed_build_publishes_what_it_made_and_a_cancelled_one_ends_at_once(
        server: RegistryServer, place: Place, builders: tuple[Builder, Builder]) -> None:
    one, _ = builders
    with pytest.raises(ZeroDivisionError):
        async with one.cache(place) as cache:
            await cache.put(one.record("a"))
            raise ZeroDivisionError
    assert await one.cache(None, [place]).get(key("a"))
    server.add_fault(Fault(method="PUT|POST|PATCH", kind="stall", delay=3600, times=None))
    with anyio.fail_after(10), anyio.CancelScope() as scope:
        async with one.cache(place) as cache:
            await cache.put(one.record("b"))
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught and one.warnings == []


async def test_faults_that_pass_are_nobodys_business(server: RegistryServer, place: Place,
                                                     builders: tuple[Builder, Builder]) -> None:
    one, other = builders
    kinds: tuple[Kind, ...] = ("status", "reset", "throttle")
    for kind in kinds:
        server.add_fault(Fault(kind=kind, times=2))
    record = one.record("make")
    await published(one, place, record)
    server.add_fault(Fault(kind="truncate", path=".*/manifests/.*"))
    assert await other.cache(None, [place]).get(key("make")) == record
    assert one.warnings == other.warnings == []


async def test_as_the_last_tier_it_fills_those_above_with_layers_that_are_elsewhere(
        place: Place, builders: tuple[Builder, Builder], tmp_path: Path) -> None:
    one, other = builders
    record = one.record("make")
    await published(one, place, record)
    local = LocalCache(tmp_path / "cache", other.store)
    catalog = local.catalog
    remote = RemoteCache(lambda _: other.client, other.store, Locations(catalog.saw, catalog.origins, no_fetch), sources=[place],
                         target=None, warn=pytest.fail)
    tiers = TieredCache([("memory", MemoryCache(other.store)), ("local", local)], pytest.fail, remote.tiers)
    first = (await tiers.find([key("make")]))[key("make")]
    again = (await tiers.find([key("make")]))[key("make")]
    assert (first.record, first.tier) == (record, "registry")
    assert (again.record, again.tier) == (record, "local")
    assert record.layer
    assert catalog.origins(record.layer.blob.digest) == (Reference(place.repository.registry, "cache"),)
    await local.aclose()
