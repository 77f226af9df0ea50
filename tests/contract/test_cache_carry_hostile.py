"""States of cache mounts that nobody honest has made, and files that do not hold still."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from engine.cache.carry import artifact
from engine.cache.carry.artifact import Place
from engine.cache.carry.carrier import portable
from engine.cache.carry.chunks import MOST
from engine.cache.carry.listing import Chunk, Listing
from engine.cache.carry.packing import Wanted, pack
from engine.cache.carry.remote import Remote
from engine.cache.carry.stall import watched
from engine.cache.carry.survey import survey
from engine.errors import RegistryError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.manifest import make_manifest
from engine.image.reference import Reference
from engine.layer.compress import compress
from engine.layer.entries import Entry
from engine.registry.client import RegistryClient
from engine.registry.server.faults import Fault
from engine.registry.server.server import RegistryServer
from tests.contract.registry_fixtures.clients import connected
from tests.contract.test_cache_carry import Machine, Mount

ROOT = Entry(b"", "dir", 0o755)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RegistryServer]:
    async with RegistryServer(tmp_path / "registry") as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[RegistryClient]:
    async with connected() as client:
        yield client


@pytest.fixture
def machine(tmp_path: Path, client: RegistryClient) -> Machine:
    return Machine(tmp_path / "machine", client)


@pytest.fixture
def place(server: RegistryServer) -> Place:
    return Place(Reference.parse(f"{server.address}/mounts"))


async def publish(machine: Machine, place: Place, listing: Listing, *packs: bytes) -> None:
    """Publishes a state as somebody does who can write what he likes."""
    remote = Remote(lambda: machine.client, machine.folder / "scratch", machine.content)
    blobs = []
    for data in packs:
        path = remote.file("pack")
        path.write_bytes(data)
        blobs.append(Descriptor(artifact.PACK, Digest("sha256", hashlib.sha256(data).hexdigest()), len(data)))
        await remote.push(place, blobs[-1], path)
    await remote.publish(place, portable(Mount(), None, ""), "cache", 1.0, listing, blobs)


def one_file(content: bytes, *, size: int = 0, offset: int = 0, path: bytes = b"file") -> Listing:
    chunk = Chunk(hashlib.sha256(content).digest(), size or len(content), 0, offset)
    return Listing((ROOT, Entry(path, "file", 0o644, size=chunk.size)), ((), (0,)), (chunk,))


async def refused(machine: Machine, place: Place) -> str:
    """What a build is warned of that finds a state which it does not take."""
    path = await machine.build(place)
    assert os.listdir(path) == []
    assert len(machine.warnings) == 1
    return machine.warnings[0]


async def test_what_is_honest_is_taken(machine: Machine, place: Place) -> None:
    await publish(machine, place, one_file(b"content"), compress(b"content", "zstd"))
    assert (await machine.build(place) / "file").read_bytes() == b"content"


async def test_a_pack_with_other_bytes_than_listed_is_refused(machine: Machine, place: Place) -> None:
    await publish(machine, place, one_file(b"content"), compress(b"another", "zstd"))
    assert "is not what its listing says" in await refused(machine, place)


async def test_a_chunk_beyond_its_pack_is_refused(machine: Machine, place: Place) -> None:
    await publish(machine, place, one_file(b"content", offset=1000), compress(b"content", "zstd"))
    await refused(machine, place)


async def test_a_pack_that_swells_is_refused(machine: Machine, place: Place) -> None:
    await publish(machine, place, one_file(b"content"), compress(b"content" + bytes(100_000_000), "zstd"))
    assert "more than" in await refused(machine, place)


async def test_a_file_below_a_link_is_refused(machine: Machine, place: Place, tmp_path: Path) -> None:
    listing = one_file(b"content", path=b"link/file")
    link = Entry(b"link", "symlink", 0o777, link=os.fsencode(tmp_path))
    await publish(machine, place, Listing((ROOT, link, listing.entries[1]), ((), (), (0,)), listing.table), compress(b"content", "zstd"))
    assert "out of place" in await refused(machine, place)
    assert not (tmp_path / "file").exists()


async def test_a_little_that_would_fill_the_disk_is_refused(machine: Machine, place: Place) -> None:
    content = b"x" * MOST
    chunk = Chunk(hashlib.sha256(content).digest(), MOST, 0, 0)
    entries = tuple(Entry(b"%d" % n, "file", 0o644, size=MOST * 100_000) for n in range(9))
    numbers = (0,) * 100_000
    await publish(machine, place, Listing((ROOT, *entries), ((), *[numbers] * 9), (chunk,)), compress(content, "zstd"))
    free = os.statvfs(machine.folder)
    if free.f_bavail * free.f_frsize > 9 * MOST * 100_000:
        pytest.skip("there is too much space here")
    assert "are free in" in await refused(machine, place)


async def test_another_artifact_under_the_tag_is_refused(machine: Machine, place: Place, server: RegistryServer) -> None:
    machine.content.put(b"{}")
    config = Descriptor("application/vnd.oci.empty.v1+json", Digest.of(b"{}"), 2)
    await machine.client.push_blob(place.repository, config, machine.content.path(config.digest))
    manifest = make_manifest(config, [config], artifact_type="application/other")
    await machine.client.push_manifest(place.state(portable(Mount(), None, "")), manifest.raw, manifest.media_type)
    assert "not the state of a cache mount" in await refused(machine, place)


def test_a_file_that_changes_is_left_out(tmp_path: Path) -> None:
    instance = tmp_path / "0"
    instance.mkdir()
    for name in ("still", "changed", "gone"):
        (instance / name).write_bytes(b"content")
    found = survey(str(instance))
    wanted = [Wanted(entry.path, entry.size, look) for entry, look in zip(found.entries.entries, found.looks, strict=True) if entry.size]
    (instance / "changed").write_bytes(b"CONTENT")
    (instance / "gone").unlink()
    (tmp_path / "chosen").write_bytes(b"")
    made = pack(str(instance), wanted, str(tmp_path / "chosen"), str(tmp_path / "pack"), only=False)
    assert [(file.path, digests is not None) for file, digests in zip(wanted, made.files, strict=True)] == \
        [(b"changed", False), (b"gone", False), (b"still", True)]


def test_a_directory_that_becomes_a_link_leads_nowhere(tmp_path: Path) -> None:
    instance, outside = tmp_path / "0", tmp_path / "outside"
    (instance / "directory").mkdir(parents=True)
    outside.mkdir()
    (instance / "directory/file").write_bytes(b"inside")
    found = survey(str(instance))
    row = next(n for n, entry in enumerate(found.entries.entries) if entry.size)
    os.rename(instance / "directory", tmp_path / "moved")
    os.link(tmp_path / "moved/file", outside / "file")
    os.symlink(outside, instance / "directory")
    (tmp_path / "chosen").write_bytes(b"")
    look = (outside / "file").stat()
    wanted = Wanted(found.entries.entries[row].path, 6, (look.st_ino, look.st_ctime_ns))
    made = pack(str(instance), [wanted], str(tmp_path / "chosen"), str(tmp_path / "pack"), only=False)
    assert (made.files, made.packs) == ([None], [])


async def test_what_does_not_move_is_given_up() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        async with watched(0.05, lambda: 7):
            await anyio.sleep_forever()
    assert raised.group_contains(RegistryError, match="nothing has moved")
    numbers = iter(range(10_000))
    with anyio.move_on_after(0.3) as scope:
        async with watched(0.1, lambda: next(numbers)):
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_build_that_is_cancelled_leaves_nothing(machine: Machine, place: Place, server: RegistryServer) -> None:
    await publish(machine, place, one_file(b"content"), compress(b"content", "zstd"))
    server.add_fault(Fault(method="GET", path=".*/blobs/.*", kind="stall", delay=30.0, times=None))
    with anyio.move_on_after(0.5) as scope:
        await machine.build(place)
    assert scope.cancelled_caught
    left = [path for path in (machine.folder / "mounts").rglob("*") if path.name not in ("about.json",) and path.is_file()]
    assert left == []
    assert os.listdir(machine.folder / "scratch") == []
