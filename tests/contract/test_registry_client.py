"""The registry client against whole registries: Debian's docker-registry, and the one that the engine brings."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from engine.errors import AuthError, ContentError, NotFoundError, RegistryError, StorageError
from engine.image.descriptor import DOCKER_MANIFEST, OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Descriptor
from engine.image.digest import Digest
from engine.image.manifest import Index, Manifest, make_index, make_manifest
from engine.image.reference import Reference
from engine.registry.client import RegistryClient
from engine.registry.server.server import RegistryServer
from tests.contract.registries import RunningRegistry
from tests.contract.registry_fixtures.clients import connected, login, make_blob, pull


@pytest.fixture(params=["docker-registry", "embedded"])
async def reference(request: pytest.FixtureRequest, repository: str, tmp_path: Path) -> AsyncIterator[Reference]:
    """A repository that nobody else uses, in each kind of registry."""
    if request.param == "docker-registry":
        yield Reference.parse(f"{request.getfixturevalue('docker_registry').address}/{repository}:1")
        return
    async with RegistryServer(tmp_path / "registry") as server:
        yield Reference.parse(f"{server.address}/{repository}:1")


async def push_image(client: RegistryClient, reference: Reference, folder: Path, seed: int = 0, *, docker: bool = False,
                     size: int = 5000) -> Manifest:
    """An image of one layer, pushed."""
    layer_file, _, layer = make_blob(folder, size, seed)
    config_file = folder / f"config-{seed}"
    config_file.write_bytes(b'{"seed":%d}' % seed)
    config = Descriptor(OCI_CONFIG, Digest.of(config_file.read_bytes()), config_file.stat().st_size)
    await client.push_blob(reference, layer, layer_file)
    await client.push_blob(reference, config, config_file)
    manifest = make_manifest(config, [layer], docker=docker)
    assert await client.push_manifest(reference, manifest.raw, manifest.media_type) == manifest.descriptor.digest
    return manifest


@pytest.mark.parametrize("size", [0, 1, 70_000, 9 << 20])
async def test_a_blob_comes_back_as_it_was_pushed(reference: Reference, tmp_path: Path, size: int) -> None:
    path, data, descriptor = make_blob(tmp_path, size)
    moved: list[int] = []
    async with connected() as client:
        assert not await client.has_blob(reference, descriptor.digest)
        assert await client.push_blob(reference, descriptor, path, progress=moved.append)
        assert await client.has_blob(reference, descriptor.digest)
        assert await pull(client, reference, descriptor) == data
        assert not await client.push_blob(reference, descriptor, path)
    assert moved == sorted(moved)
    assert moved[-1] == size


async def test_a_manifest_is_found_by_tag_and_digest(reference: Reference, tmp_path: Path) -> None:
    async with connected() as client:
        manifest = await push_image(client, reference, tmp_path)
        expected = manifest.descriptor
        by_digest = Reference(reference.registry, reference.repository, None, expected.digest)
        both = reference.with_tag("nonsense").with_digest(expected.digest)
        for name in (reference, by_digest, both):
            found = await client.resolve(name)
            assert (found.media_type, found.digest, found.size) == (OCI_MANIFEST, expected.digest, expected.size)
            fetched = await client.manifest(name)
            assert isinstance(fetched.manifest, Manifest)
            assert (fetched.manifest.raw, fetched.descriptor.digest) == (manifest.raw, expected.digest)


async def test_docker_manifests_and_indexes_keep_their_media_types(reference: Reference, tmp_path: Path) -> None:
    async with connected() as client:
        manifest = await push_image(client, reference, tmp_path, docker=True)
        assert (await client.resolve(reference)).media_type == DOCKER_MANIFEST
        index = make_index([manifest.descriptor])
        tag = reference.with_tag("all")
        await client.push_manifest(tag, index.raw, index.media_type)
        assert (await client.resolve(tag)).media_type == OCI_INDEX
        fetched = (await client.manifest(tag)).manifest
        assert isinstance(fetched, Index)
        assert [m.digest for m in fetched.manifests] == [manifest.descriptor.digest]


async def test_a_manifest_is_pushed_by_digest_alone(reference: Reference, tmp_path: Path) -> None:
    async with connected() as client:
        manifest = await push_image(client, reference, tmp_path)
        index = make_index([manifest.descriptor])
        digest = index.descriptor.digest
        alone = Reference(reference.registry, reference.repository, None, digest)
        assert await client.push_manifest(alone, index.raw, index.media_type) == digest
        assert (await client.manifest(alone)).manifest.raw == index.raw
        assert await client.tags(reference) == ("1",)
        with pytest.raises(ContentError, match="the manifest to push is"):
            await client.push_manifest(replace(alone, digest=Digest.of(b"")), index.raw, index.media_type)


async def test_a_blob_is_mounted_instead_of_uploaded(reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 50_000)
    other = replace(reference, repository=reference.repository + "/copy")
    nowhere = replace(reference, repository=reference.repository + "/nowhere")
    elsewhere = replace(reference, registry="elsewhere.example")
    async with connected() as client:
        await client.push_blob(reference, descriptor, path)
        assert not await client.push_blob(other, descriptor, tmp_path / "missing", mount_from=[elsewhere, nowhere, reference])
        assert await pull(client, other, descriptor) == data
        third = replace(reference, repository=reference.repository + "/third")
        assert await client.push_blob(third, descriptor, path, mount_from=[nowhere])
        assert await pull(client, third, descriptor) == data


async def test_many_blobs_go_both_ways_at_once(reference: Reference, tmp_path: Path) -> None:
    blobs = [make_blob(tmp_path, 400_000 + n, n) for n in range(12)]
    same = make_blob(tmp_path, 2_000_000)
    uploaded: list[bool] = []

    async def push(path: Path, descriptor: Descriptor) -> None:
        uploaded.append(await client.push_blob(reference, descriptor, path))

    async def check(data: bytes, descriptor: Descriptor) -> None:
        assert await pull(client, reference, descriptor) == data

    async with connected() as client:
        async with anyio.create_task_group() as tasks:
            for path, _, descriptor in [*blobs, *[same] * 6]:
                tasks.start_soon(push, path, descriptor)
        assert sum(uploaded) == len(blobs) + 1
        async with anyio.create_task_group() as tasks:
            for _, data, descriptor in [*blobs, *[same] * 6]:
                tasks.start_soon(check, data, descriptor)


async def test_what_is_not_there_is_named(reference: Reference, tmp_path: Path) -> None:
    _, _, descriptor = make_blob(tmp_path, 10)
    async with connected() as client:
        with pytest.raises(NotFoundError) as raised:
            await client.resolve(reference)
        assert str(raised.value) == f"{reference}: not found"
        with pytest.raises(NotFoundError, match=f"{reference}: not found"):
            await client.manifest(reference)
        with pytest.raises(NotFoundError, match=f"{reference.name}@{descriptor.digest}: blob not found"):
            await pull(client, reference, descriptor)
        with pytest.raises(NotFoundError, match=f"{reference.name}: repository not found"):
            await client.tags(reference)
        with pytest.raises(NotFoundError):
            await client.delete(replace(reference, tag=None, digest=descriptor.digest))


async def test_tags_are_listed_and_deleted(reference: Reference, tmp_path: Path) -> None:
    async with connected() as client:
        await push_image(client, reference, tmp_path, seed=1)
        await push_image(client, reference.with_tag("two"), tmp_path, seed=2)
        assert sorted(await client.tags(reference)) == ["1", "two"]
        await client.delete(reference)
        with pytest.raises(NotFoundError):
            await client.resolve(reference)
        two = await client.resolve(reference.with_tag("two"))
        await client.delete(Reference(reference.registry, reference.repository, None, two.digest))
        with pytest.raises(NotFoundError):
            await client.resolve(reference.with_tag("two"))


async def test_referrers_are_found_with_and_without_the_api(reference: Reference, tmp_path: Path) -> None:
    """docker-registry 2.8 has no referrers API: then the pusher keeps the list under the fallback tag."""
    async with connected() as client:
        subject = (await push_image(client, reference, tmp_path)).descriptor
        assert await client.referrers(reference, subject.digest) == ()
        empty = tmp_path / "empty"
        empty.write_bytes(b"{}")
        config = Descriptor(OCI_EMPTY, Digest.of(b"{}"), 2)
        await client.push_blob(reference, config, empty)
        pushed = []
        for kind in ("application/vnd.test.sbom", "application/vnd.test.signature"):
            artifact = make_manifest(config, [config], artifact_type=kind, subject=subject, annotations={"kind": kind})
            for _ in range(2):
                pushed.append(await client.push_manifest(replace(reference, tag=None, digest=artifact.descriptor.digest),
                                                         artifact.raw, artifact.media_type))  # fmt: skip
        found = await client.referrers(reference, subject.digest)
        assert sorted(d.artifact_type for d in found) == ["application/vnd.test.sbom", "application/vnd.test.signature"]
        assert {d.digest for d in found} == set(pushed)
        [sbom] = await client.referrers(reference, subject.digest, "application/vnd.test.sbom")
        assert (sbom.artifact_type, sbom.annotations) == ("application/vnd.test.sbom", {"kind": "application/vnd.test.sbom"})


async def test_a_file_that_is_not_its_descriptor_is_not_pushed(reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 3000)
    async with connected() as client:
        path.write_bytes(data + b"x")
        with pytest.raises(ContentError, match="has 3001 bytes"):
            await client.push_blob(reference, descriptor, path)
        path.write_bytes(b"y" + data[1:])
        with pytest.raises(ContentError, match=f"is not {descriptor.digest}"):
            await client.push_blob(reference, descriptor, path)
        path.unlink()
        with pytest.raises(StorageError, match="cannot read"):
            await client.push_blob(reference, descriptor, path)
        assert not await client.has_blob(reference, descriptor.digest)


async def test_a_blob_that_rotted_in_the_registry_is_found_out(docker_registry: RunningRegistry, repository: str,
                                                               tmp_path: Path) -> None:
    reference = Reference.parse(f"{docker_registry.address}/{repository}:1")
    path, data, descriptor = make_blob(tmp_path, 100_000)
    async with connected() as client:
        await client.push_blob(reference, descriptor, path)
        stored = docker_registry.blob_file(descriptor.digest)
        stored.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ContentError, match=f"{descriptor.digest}: content does not match its digest"):
            await pull(client, reference, descriptor)
        stored.write_bytes(data[:-5])
        with pytest.raises(ContentError, match=r"has 99995 bytes of it, expected were 100000"):
            await pull(client, reference, descriptor)
        stored.write_bytes(data + b"more")
        with pytest.raises(ContentError, match=r"100004 bytes"):
            await pull(client, reference, descriptor)


async def test_a_registry_that_wants_a_password_gets_it(htpasswd_registry: RunningRegistry, repository: str,
                                                        tmp_path: Path) -> None:
    reference = Reference.parse(f"{htpasswd_registry.address}/{repository}:1")
    [(user, password)] = htpasswd_registry.users.items()
    path, data, descriptor = make_blob(tmp_path, 100_000)
    async with connected(login(htpasswd_registry.address, user, password)) as client:
        assert await client.push_blob(reference, descriptor, path)
        assert await pull(client, reference, descriptor) == data
        await push_image(client, reference, tmp_path)


async def test_a_wrong_password_is_said_to_be_wrong(htpasswd_registry: RunningRegistry, repository: str) -> None:
    reference = Reference.parse(f"{htpasswd_registry.address}/{repository}:1")
    async with connected(login(htpasswd_registry.address, "anna", "SECRET")) as client:
        with pytest.raises(AuthError, match="rejects the user name or password of user 'anna'") as raised:
            await client.resolve(reference)
    assert f"docker login {htpasswd_registry.address}" in (raised.value.hint or "")
    assert "SECRET" not in repr(raised.value) + (raised.value.hint or "")
    assert raised.value.exit_code == AuthError.exit_code


async def test_no_password_is_said_to_be_missing(htpasswd_registry: RunningRegistry, repository: str) -> None:
    reference = Reference.parse(f"{htpasswd_registry.address}/{repository}:1")
    async with connected(login("elsewhere.example", "anna", "x")) as client:
        with pytest.raises(AuthError, match="asks for a login and there is none for it") as raised:
            await client.manifest(reference)
    assert f"docker login {htpasswd_registry.address}" in (raised.value.hint or "")


@pytest.fixture
def unused_tcp_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_registry_that_is_not_there_is_named_with_the_request(unused_tcp_port: int) -> None:
    reference = Reference.parse(f"127.0.0.1:{unused_tcp_port}/app:1")
    async with connected() as client:
        with pytest.raises(RegistryError) as raised:
            await client.resolve(reference)
    assert raised.value.message == (f"cannot reach registry 127.0.0.1:{unused_tcp_port}: connection refused (HEAD app:1); "
                                    "gave up after 3 attempts")
    assert raised.value.code == "registry"


async def test_an_unknown_host_is_said_to_be_unknown() -> None:
    async with connected() as client:
        with pytest.raises(RegistryError, match=r"cannot reach registry no-such-host\.invalid: its name cannot be found"):
            await client.resolve(Reference.parse("no-such-host.invalid/app:1"))


async def test_a_closed_client_can_be_closed_again(reference: Reference) -> None:
    async with connected() as client:
        with pytest.raises(NotFoundError):
            await client.resolve(reference)
        await client.aclose()
        await client.aclose()
