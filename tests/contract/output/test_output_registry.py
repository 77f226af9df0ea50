"""Pushes: what travels, in which order, and what does not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from engine.errors import AuthError, RegistryError, StorageError
from engine.image.reference import Reference
from engine.output.registry import RegistryOutput
from engine.registry.client import RegistryClient
from engine.registry.credentials import Credentials
from engine.registry.server.access import BasicAuth
from engine.registry.server.faults import Fault
from engine.registry.server.server import RegistryServer
from engine.solve.departure import Departure


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RegistryServer]:
    async with RegistryServer(tmp_path / "registry") as started:
        yield started


@pytest.fixture
async def client() -> AsyncIterator[RegistryClient]:
    made = RegistryClient(credentials=Credentials({}, {}), insecure=frozenset(), downloads=anyio.CapacityLimiter(4),
                          uploads=anyio.CapacityLimiter(4))
    yield made
    await made.aclose()


@pytest.fixture
def output(client: RegistryClient, content: Any, refuse_fetch: Any) -> RegistryOutput:
    return RegistryOutput(lambda: client, content, refuse_fetch)


def asked(server: RegistryServer, method: str = ".*", path: str = ".*") -> list[Any]:
    return [r for r in server.requests if re.fullmatch(method, r.method) and re.fullmatch(path, r.path)]


def uploaded(server: RegistryServer) -> int:
    """Bytes of blobs that have come in."""
    return sum(r.received for r in asked(server, "PUT|PATCH|POST", ".*/blobs/.*"))


async def test_an_image_is_there_under_all_its_names(server: Any, client: Any, output: Any, make: Any) -> None:
    built = make.built(f"{server.address}/app:v1", f"{server.address}/app:v2")
    told = await output.write(built)
    assert told == f"{server.address}/app:v1@{built.top.digest}, {server.address}/app:v2@{built.top.digest}"
    for tag in ("v1", "v2"):
        fetched = await client.manifest(Reference.parse(f"{server.address}/app:{tag}"))
        assert fetched.manifest.raw == built.images[0].manifest.raw
    sizes = sum(x.blob.size for x in built.images[0].layers) + len(built.images[0].config_raw)
    assert uploaded(server) == sizes
    puts = [r.path for r in asked(server, "PUT")]
    assert all("/manifests/" in path for path in puts[-2:]) and not any("/manifests/" in path for path in puts[:-2])


async def test_skopeo_pulls_what_was_pushed(server: Any, output: Any, make: Any, tmp_path: Path) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    built = make.indexed(f"{server.address}/app:v1")
    await output.write(built)
    words = ["skopeo", "copy", "--all", "--src-tls-verify=false", f"docker://{server.address}/app:v1", f"oci:{tmp_path}/out:v1"]
    await anyio.run_process(words)
    index = json.loads((tmp_path / "out" / "index.json").read_bytes())
    assert index["manifests"][0]["digest"] == str(built.top.digest)


async def test_the_real_registry_takes_it_too(docker_registry: Any, client: Any, output: Any, make: Any, repository: str) -> None:
    built = make.indexed(f"{docker_registry.address}/{repository}:v1", f"{docker_registry.address}/{repository}/more:v1")
    await output.write(built)
    for name in built.tags:
        assert (await client.resolve(name)).digest == built.top.digest
        for image in built.images:
            assert (await client.manifest(name.with_digest(image.manifest.descriptor.digest))).manifest.raw == image.manifest.raw
            for layer in image.layers:
                assert await client.has_blob(name, layer.blob.digest)


async def test_an_image_that_is_there_costs_one_question_a_tag(server: Any, output: Any, make: Any) -> None:
    built = make.indexed(f"{server.address}/app:v1", f"{server.address}/app:v2")
    await output.write(built)
    before = len(server.requests)
    await output.write(built)
    assert [(r.method, r.path) for r in sorted(server.requests[before:], key=lambda r: r.path)] == [
        ("HEAD", "/v2/app/manifests/v1"), ("HEAD", "/v2/app/manifests/v2")]  # fmt: skip


async def test_a_new_tag_of_an_image_that_is_there_moves_no_blob(server: Any, output: Any, make: Any) -> None:
    await output.write(make.built(f"{server.address}/app:v1"))
    before = len(server.requests)
    await output.write(make.built(f"{server.address}/app:v1", f"{server.address}/app:v2"))
    later = server.requests[before:]
    assert not any("/blobs/" in r.path for r in later)
    assert [r.path for r in later if r.method == "PUT"] == ["/v2/app/manifests/v2"]


async def test_layers_that_are_there_are_not_uploaded_again(server: Any, output: Any, make: Any) -> None:
    first, second = make.file_layer("one", 1)[0], make.file_layer("two", 2)[0]
    await output.write(make.built(f"{server.address}/app:v1", layers=[first]))
    before = uploaded(server)
    built = make.built(f"{server.address}/app:v2", layers=[first, second])
    await output.write(built)
    assert uploaded(server) - before == second.blob.size + len(built.images[0].config_raw)


async def test_a_second_repository_of_a_registry_mounts_from_the_first(server: Any, output: Any, make: Any) -> None:
    built = make.built(f"{server.address}/app:v1", f"{server.address}/mirror/app:v1")
    await output.write(built)
    assert uploaded(server) == sum(x.blob.size for x in built.images[0].layers) + len(built.images[0].config_raw)
    assert len(asked(server, "POST", "/v2/mirror/app/blobs/uploads/")) == 3


async def test_two_registries(server: Any, client: Any, output: Any, make: Any, tmp_path: Path) -> None:
    async with RegistryServer(tmp_path / "other") as other:
        built = make.built(f"{server.address}/app:v1", f"{other.address}/app:v1")
        await output.write(built)
        for one in (server, other):
            assert (await client.resolve(Reference.parse(f"{one.address}/app:v1"))).digest == built.top.digest
        assert uploaded(server) == uploaded(other)


async def test_a_base_layer_that_is_not_here_is_mounted(server: Any, client: Any, content: Any, output: Any, make: Any) -> None:
    layer = make.file_layer("base", 5)[0]
    await output.write(make.built(f"{server.address}/base:1", layers=[layer]))
    content.remove(layer.blob.digest)
    before = uploaded(server)
    own = make.file_layer("own", 6)[0]
    origin = Reference.parse(f"{server.address}/base:1")
    built = make.built(f"{server.address}/app:1", layers=[layer, own], origins=[origin, None])
    await output.write(built)
    assert uploaded(server) - before == own.blob.size + len(built.images[0].config_raw)
    assert await client.has_blob(built.tags[0], layer.blob.digest)
    assert not content.has(layer.blob.digest)


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_a_base_layer_that_cannot_be_mounted_is_fetched(
    server: Any, client: Any, content: Any, make: Any, tmp_path: Path, elsewhere: bool
) -> None:
    layer, blob = make.file_layer("base", 5, stored=False)
    fetched = []

    async def fetch(wanted: Any, origin: Any) -> None:
        fetched.append((wanted, origin))
        content.put(blob)

    server.add_fault(Fault("POST", times=None, kind="no-mount"))
    origin = Reference.parse(f"{'other.example' if elsewhere else server.address}/base:1")
    built = make.built(f"{server.address}/app:1", layers=[layer], origins=[origin])
    await RegistryOutput(lambda: client, content, fetch).write(built)
    assert fetched == [(layer, origin)]
    assert await client.has_blob(built.tags[0], layer.blob.digest)


async def test_a_base_layer_that_the_repository_has_is_neither_fetched_nor_moved(
    server: Any, content: Any, output: Any, make: Any
) -> None:
    layer = make.file_layer("base", 5)[0]
    await output.write(make.built(f"{server.address}/app:1", layers=[layer]))
    content.remove(layer.blob.digest)
    before = uploaded(server)
    built = make.built(f"{server.address}/app:2", layers=[layer, make.file_layer("own", 6)[0]])
    await output.write(built)
    assert uploaded(server) - before == built.images[0].layers[1].blob.size + len(built.images[0].config_raw)


async def test_a_layer_that_cannot_be_fetched_leaves_no_tag(server: Any, client: Any, content: Any, make: Any) -> None:
    async def fetch(wanted: Any, origin: Any) -> None:
        raise RegistryError("nobody has it")

    built = make.built(f"{server.address}/app:1", layers=[make.file_layer("base", 5, stored=False)[0]])
    with pytest.raises(RegistryError, match="nobody has it"):
        await RegistryOutput(lambda: client, content, fetch).write(built)
    assert not asked(server, "PUT", ".*/manifests/.*")


async def test_an_error_that_is_the_disks_own(server: Any, content: Any, client: Any, make: Any, monkeypatch: Any) -> None:
    async def broken(*args: Any, **more: Any) -> bool:
        raise StorageError("cannot read it")

    monkeypatch.setattr(client, "push_blob", broken)
    with pytest.raises(StorageError, match="cannot read it"):
        await RegistryOutput(lambda: client, content, None).write(make.built(f"{server.address}/app:1"))  # type: ignore[arg-type]


async def test_a_registry_that_wants_a_password_and_gets_none(output: Any, make: Any, tmp_path: Path) -> None:
    async with RegistryServer(tmp_path / "guarded", auth=BasicAuth({"alice": "secret"})) as guarded:
        with pytest.raises(AuthError, match=re.escape(guarded.address)):
            await output.write(make.built(f"{guarded.address}/app:1"))


async def test_progress_is_told_blob_by_blob(server: Any, client: Any, content: Any, refuse_fetch: Any, make: Any) -> None:
    seen: dict[str, tuple[int, int]] = {}
    built = make.built(f"{server.address}/app:v1")

    def progress(what: str, done: int, total: int) -> None:
        seen[what] = (done, total)

    await RegistryOutput(lambda: client, content, refuse_fetch, progress).write(built)
    assert seen == {str(x.blob.digest): (x.blob.size, x.blob.size) for x in built.images[0].layers}


async def test_an_immutable_tag_of_another_image(server: Any, output: Any, make: Any) -> None:
    await output.write(make.built(f"{server.address}/app:v1"))
    server.add_fault(Fault("PUT", ".*/manifests/.*", None, kind="immutable"))
    await output.write(make.built(f"{server.address}/app:v1"))
    with pytest.raises(RegistryError, match="immutable"):
        await output.write(make.built(f"{server.address}/app:v1", layers=[make.file_layer("new", 9)[0]]))


async def test_a_layer_that_was_sent_ahead_is_not_asked_for_again(server: Any, client: Any, content: Any, make: Any,
                                                                  refuse_fetch: Any) -> None:  # fmt: skip
    built = make.built(f"{server.address}/app:1", f"{server.address}/copy:1")
    output = RegistryOutput(lambda: client, content, refuse_fetch, None, built.tags)
    layer = built.images[0].layers[0]
    await output.ahead(layer)
    before = len(server.requests)
    await output.write(built)
    assert not [r for r in server.requests[before:] if r.path == f"/v2/app/blobs/{layer.blob.digest}"]
    assert (await client.has_blob(built.tags[1], layer.blob.digest)), "the other repository has mounted it"
    assert uploaded(server) == sum(x.blob.size for x in built.images[0].layers) + len(built.images[0].config_raw)


async def test_a_layer_that_was_sent_along_is_not_asked_for_again(server: Any, client: Any, content: Any, make: Any, refuse_fetch: Any,
                                                                  tmp_path: Path) -> None:  # fmt: skip
    built = make.built(f"{server.address}/app:1", f"{server.address}/copy:1")
    output = RegistryOutput(lambda: client, content, refuse_fetch, None, built.tags)
    layer = built.images[0].layers[0]
    blob = content.get(layer.blob.digest)
    (tmp_path / "written").write_bytes(blob)
    async with anyio.create_task_group() as tasks:
        with Departure(tmp_path / "written", tmp_path / "signals") as departure:
            tasks.start_soon(output.along, departure)
            await anyio.wait_all_tasks_blocked()
            departure.made(layer.blob, tmp_path / "written")
    before = len(server.requests)
    await output.write(built)
    assert not [r for r in server.requests[before:] if r.path == f"/v2/app/blobs/{layer.blob.digest}"]
    assert (await client.has_blob(built.tags[1], layer.blob.digest)), "the other repository has mounted it"
    assert uploaded(server) == sum(x.blob.size for x in built.images[0].layers) + len(built.images[0].config_raw)


async def test_a_layer_that_was_not_made_after_all(server: Any, client: Any, content: Any, make: Any, refuse_fetch: Any,
                                                   tmp_path: Path) -> None:  # fmt: skip
    built = make.built(f"{server.address}/app:1")
    output = RegistryOutput(lambda: client, content, refuse_fetch, None, built.tags)
    (tmp_path / "written").touch()
    async with anyio.create_task_group() as tasks:
        with Departure(tmp_path / "written", tmp_path / "signals") as departure:
            tasks.start_soon(output.along, departure)
            await anyio.wait_all_tasks_blocked()
    assert not server.requests
    await output.write(built)
    assert (await client.resolve(built.tags[0])).digest == built.top.digest
