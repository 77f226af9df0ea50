"""The remote cache in a directory: what readers find, whoever writes at the same time, and whenever a writer is killed."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from engine.cache import layout_files
from engine.cache.base import Record
from engine.cache.layouts import CacheLayouts
from engine.cache.remote import RemoteCache
from engine.cache.storage import Locations, Patience, Place
from engine.cache.tiers import TieredCache
from engine.content.store import DirectoryStore
from engine.errors import ContentError, NotFoundError, StorageError
from engine.image.descriptor import OCI_LAYER_GZIP, Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference, cache_layout
from engine.layer.base import Layer
from engine.registry.layout import OciLayouts


@dataclass
class Builder:
    """One machine: its content store, and what it was warned of."""

    folder: Path
    store: DirectoryStore = field(init=False)
    layouts: CacheLayouts = field(init=False)
    warnings: list[str] = field(default_factory=list)
    seen: list[tuple[Reference, Digest]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store, self.layouts = DirectoryStore(self.folder), CacheLayouts()

    def cache(self, target: Place | None, sources: Sequence[Place] = (), patience: Patience | None = None) -> RemoteCache:
        async def seen(repository: Reference, blobs: Iterable[Digest]) -> None:
            self.seen += [(repository, blob) for blob in blobs]

        def origins(blob: Digest) -> list[Reference]:
            return [repository for repository, known in self.seen if known == blob]

        async def fetch(blob: Descriptor) -> None:
            raise NotFoundError("nobody has it")

        return RemoteCache(lambda _: self.layouts, self.store, Locations(seen, origins, fetch), sources=sources, target=target,
                           warn=self.warnings.append, patience=patience, clock=lambda: 1000.0)

    def record(self, name: str, content: bytes = b"layer", created: float = 1000.0) -> Record:
        blob = Descriptor(OCI_LAYER_GZIP, self.store.put(content), len(content))
        return Record(key(name), Layer(Digest.of(content + b" tar"), blob), created, f"RUN {name}", {"argv": name})

    async def write(self, place: Place, *records: Record, replace: bool = False) -> None:
        async with self.cache(place) as cache:
            await cache.put(*records, replace=replace)

    async def find(self, place: Place, *names: str, patience: Patience | None = None) -> dict[Digest, Record]:
        tiers = self.cache(None, [place], patience).tiers
        return await TieredCache([], self.warnings.append, tiers).get_many([key(name) for name in names])


def key(name: str) -> Digest:
    return Digest.of(name.encode())


@pytest.fixture
def one(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "other")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def place(directory: Path) -> Place:
    return Place(cache_layout(str(directory)))


def index_of(directory: Path) -> list[dict[str, str]]:
    found = json.loads((directory / "index.json").read_bytes())["manifests"]
    assert isinstance(found, list)
    return found


def blob_path(directory: Path, record: Record) -> Path:
    assert record.layer
    return directory / "blobs/sha256" / record.layer.blob.digest.hex


async def test_another_machine_finds_what_was_written_and_can_read_the_layer(one: Builder, other: Builder, place: Place) -> None:
    record, empty = one.record("make"), Record(key("empty"), None, 1.0, "WORKDIR /")
    await one.write(place, record, empty)
    assert await other.find(place, "make", "absent", "empty") == {key("make"): record, key("empty"): empty}
    assert record.layer
    assert other.store.blobs() == []
    assert other.seen == [(place.repository, record.layer.blob.digest)]
    assert b"".join([part async for part in other.layouts.blob(place.repository, record.layer.blob)]) == b"layer"
    assert one.warnings == other.warnings == []


async def test_it_is_a_layout_that_others_can_read(one: Builder, place: Place, directory: Path) -> None:
    record = one.record("make")
    await one.write(place, record)
    entry = place.entry(key("make"))
    fetched = await OciLayouts().manifest(Reference("oci-layout", str(directory), entry.tag))
    assert record.layer and fetched.manifest.descriptor.digest == Digest.parse(index_of(directory)[0]["digest"])
    shown = await anyio.run_process(["skopeo", "inspect", "--raw", f"oci:{directory}:{entry.tag}"])
    assert Digest.of(shown.stdout) == fetched.manifest.descriptor.digest


async def test_the_first_entry_under_a_key_stays_unless_it_is_to_be_replaced(one: Builder, other: Builder, place: Place,
                                                                             directory: Path) -> None:
    first, second = one.record("make", b"first"), other.record("make", b"second")
    await one.write(place, first)
    await other.write(place, second)
    assert await one.find(place, "make") == {key("make"): first}
    await other.write(place, second, replace=True)
    assert await one.find(place, "make") == {key("make"): second}
    assert len(index_of(directory)) == 1


async def test_scopes_and_what_else_is_listed_stay_apart(one: Builder, place: Place, directory: Path) -> None:
    trunk, branch = Place(place.repository, "main"), Place(place.repository, "feature/x")
    await one.write(trunk, one.record("make", b"trunk"))
    image = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": str(key("image")), "size": 7}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [image, *index_of(directory)], "more": 1}))
    await one.write(branch, one.record("make", b"branch"))
    assert await one.find(trunk, "make") != await one.find(branch, "make")
    assert image in index_of(directory) and json.loads((directory / "index.json").read_bytes())["more"] == 1


async def test_entries_that_are_too_old_count_as_absent(one: Builder, place: Place) -> None:
    await one.write(place, one.record("old", created=100.0), one.record("new", created=999.0))
    assert list(await one.find(place, "old", "new", patience=Patience(ttl=10))) == [key("new")]


async def test_two_writers_in_one_process_lose_nothing(one: Builder, other: Builder, place: Place, directory: Path) -> None:
    async with one.cache(place) as first, other.cache(place) as second:
        for number in range(60):
            for builder, cache in ((one, first), (other, second)):
                await cache.put(builder.record(f"{builder.folder.name} {number}", b"%d" % (number % 7)))
    names = [f"{name} {number}" for name in ("one", "other") for number in range(60)]
    assert len(await one.find(place, *names)) == 120
    assert len(index_of(directory)) == 120
    assert os.listdir(directory / "ingest") == []


async def test_entries_that_come_together_are_listed_together(one: Builder, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0
    real = layout_files.LayoutFiles.replace_index

    def count(self: layout_files.LayoutFiles, data: bytes) -> None:
        nonlocal written
        written += 1
        real(self, data)

    monkeypatch.setattr(layout_files.LayoutFiles, "replace_index", count)
    await one.write(place, *[one.record(str(number)) for number in range(200)])
    assert len(await one.find(place, *map(str, range(200)))) == 200
    assert written < 100


WRITER = """
import sys, anyio
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.contract.test_cache_layouts import Builder, CacheLayouts, Place, cache_layout

class Telling(CacheLayouts):
    async def push_manifest(self, *arguments):
        print("entry", flush=True)
        return await super().push_manifest(*arguments)

async def main():
    one = Builder(Path(sys.argv[2]))
    one.layouts = Telling()
    async with one.cache(Place(cache_layout(sys.argv[3]))) as cache:
        for number in range(10_000):
            await cache.put(one.record(str(number), (b"%d" % number) * 20_000))
            await anyio.sleep(0)

anyio.run(main)
"""


@pytest.mark.parametrize("moment", range(6))
async def test_a_writer_that_is_killed_leaves_whole_entries_and_the_next_one_goes_on(
        moment: int, one: Builder, place: Place, directory: Path, tmp_path: Path) -> None:  # fmt: skip
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WRITER, str(root), str(tmp_path / "killed"), str(directory)]
    async with await anyio.open_process(command, cwd=root, stderr=None) as process:
        assert process.stdout
        told = 0
        while told <= moment * 3:  # whatever it is doing by then
            told += (await process.stdout.receive()).count(b"entry")
        process.kill()
    if (directory / "index.json").exists():
        for entry in index_of(directory):
            manifest = json.loads((directory / "blobs/sha256" / entry["digest"][7:]).read_bytes())
            for blob in (entry, manifest["config"], *manifest["layers"]):
                assert str(Digest.of((directory / "blobs/sha256" / blob["digest"][7:]).read_bytes())) == blob["digest"]
    await one.write(place, one.record("after", b"after"))
    assert len(await one.find(place, "after")) == 1
    assert one.warnings == []
    assert os.listdir(directory / "ingest") == [], "what the dead writer has left is swept away"
    assert (directory / "oci-layout").exists()


async def test_a_directory_that_only_others_may_write_is_read(one: Builder, other: Builder, place: Place, directory: Path) -> None:
    await one.write(place, one.record("make"))
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert len(await other.find(place, "make")) == 1
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


@pytest.mark.parametrize("at", ["blobs", "blobs/sha256", "manifest", "layer"])
async def test_no_link_is_followed(at: str, one: Builder, other: Builder, place: Place, directory: Path, tmp_path: Path) -> None:
    record = one.record("make")
    await one.write(place, record)
    manifest = directory / "blobs/sha256" / index_of(directory)[0]["digest"][7:]
    path = {"manifest": manifest, "layer": blob_path(directory, record)}.get(at, directory / at)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert await other.find(place, "make") == {}
    assert record.layer
    if at != "manifest":
        with pytest.raises((NotFoundError, ContentError)):
            [part async for part in other.layouts.blob(place.repository, record.layer.blob)]
    assert len(other.warnings) == 1 and str(directory) in other.warnings[0]


async def test_what_is_not_what_its_digest_says_is_told_and_not_used(one: Builder, other: Builder, place: Place,
                                                                     directory: Path) -> None:
    record = one.record("make")
    await one.write(place, record, one.record("test", b"good"))
    assert record.layer
    blob_path(directory, record).write_bytes(b"LAYER")
    parts = other.layouts.blob(place.repository, record.layer.blob)
    with pytest.raises(ContentError, match="does not have the digest"):
        [part async for part in parts]
    assert not await other.layouts.has_blob(place.repository, record.layer.blob.digest)
    other.store.put(b"layer")
    await other.write(place, other.record("make"), replace=True)
    assert blob_path(directory, record).read_bytes() == b"layer"
    entry = next(e for e in index_of(directory) if key("test").hex in json.dumps(e))
    broken = directory / "blobs/sha256" / entry["digest"][7:]
    broken.write_bytes(broken.read_bytes().replace(b"RUN", b"run"))
    assert list(await other.find(place, "make", "test")) == [key("make")]
    assert len(other.warnings) == 1 and "counts as absent" in other.warnings[0]


@pytest.mark.parametrize("listed", [{"digest": "sha256:1", "size": 1}, {"size": 1}, {"digest": str(key("x")), "size": -1}])
async def test_an_index_with_broken_entries_costs_one_warning(listed: dict[str, object], one: Builder, place: Place,
                                                              directory: Path) -> None:
    await one.write(place, one.record("make"))
    listed = {"mediaType": "x", "annotations": {"org.opencontainers.image.ref.name": "y"}} | listed
    (directory / "index.json").write_text(json.dumps({"manifests": [listed]}))
    assert await one.find(place, "make", "more") == {}
    assert len(one.warnings) == 1 and "index.json is broken" in one.warnings[0]


async def test_an_index_does_not_grow_beyond_what_is_read(one: Builder, place: Place, directory: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_files, "MOST_INDEX", 2000)
    await one.write(place, one.record("first"))
    await one.write(place, *[one.record(str(number)) for number in range(9)])
    assert len(one.warnings) == 1 and "would have more than 2000 bytes" in one.warnings[0]
    assert (directory / "index.json").stat().st_size <= 2000
    assert list(await one.find(place, "first")) == [key("first")]


async def test_a_layer_is_taken_from_another_directory(one: Builder, other: Builder, place: Place, tmp_path: Path) -> None:
    record = one.record("make")
    await one.write(place, record)
    new = Place(cache_layout(str(tmp_path / "new")))
    found = await other.find(place, "make")
    await other.write(new, *found.values())
    assert other.store.blobs()[0][1] == len(b"{}"), "nothing but the empty config came into the content store"
    assert await Builder(tmp_path / "third").find(new, "make") == {key("make"): record}


async def test_a_record_whose_layer_nobody_has_is_not_written(one: Builder, other: Builder, place: Place) -> None:
    await other.write(place, one.record("make"), other.record("test", b"other"))
    assert list(await one.find(place, "make", "test")) == [key("test")]
    assert other.warnings == []


async def test_a_wait_for_the_lock_can_be_ended(one: Builder, place: Place, directory: Path) -> None:
    directory.mkdir()
    held = os.open(directory, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    async with one.cache(place, patience=Patience(push=0.1)) as cache:
        await cache.put(one.record("make"))
    os.close(held)
    assert one.warnings == [f"cannot write cache {directory}: no answer within 0.1 seconds; "
                            "it is left alone for the rest of this build"]


async def test_an_index_that_cannot_be_written_whole_leaves_the_one_before(one: Builder, place: Place, directory: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    await one.write(place, one.record("before"))
    real = os.write

    def fills(fd: int, data: bytes) -> None:
        real(fd, data[: len(data) // 2])
        if b'"manifests"' in data:
            raise OSError(28, "No space left on device")
        real(fd, data[len(data) // 2 :])

    monkeypatch.setattr(layout_files, "_write", fills)
    await one.write(place, one.record("after", b"after"))
    assert len(one.warnings) == 1 and "No space left" in one.warnings[0]
    assert list(await one.find(place, "before", "after")) == [key("before")]


async def test_a_full_disk_is_an_error_with_the_directorys_name(one: Builder, place: Place, directory: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout_files, "_write", full)
    await one.write(place, one.record("make"))
    assert len(one.warnings) == 1 and "No space left" in one.warnings[0]
    assert os.listdir(directory / "ingest") == []
    with pytest.raises(StorageError):
        await one.layouts.push_manifest(place.entry(key("x")), b'{"schemaVersion":2,"config":{"digest":"%s","size":1}}'
                                        % str(key("c")).encode(), "application/vnd.oci.image.manifest.v1+json")
