"""Cache mounts that travel: saved to a registry by one machine, restored by another, and what moves then."""

from __future__ import annotations

import os
import random
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.cache.carry import record
from engine.cache.carry.artifact import Place
from engine.cache.carry.carrier import Carrier, Patience, portable
from engine.cache.carry.remote import Remote
from engine.cache.flight import FileLocks
from engine.cache.mounts import CacheMounts, Sharing
from engine.content.store import DirectoryStore
from engine.image.reference import Reference
from engine.isolate.base import Environment, IdMap
from engine.progress.events import Event, MountCarried, Note, Warned
from engine.progress.reporter import Reporter
from engine.registry.base import Registry
from engine.registry.client import RegistryClient
from engine.registry.server.faults import Fault
from engine.registry.server.server import RegistryServer
from tests.contract.registry_fixtures.clients import connected
from tests.contract.test_cache_mounts import HereWorkers


@dataclass(frozen=True)
class Mount:
    """What a Dockerfile says of a cache mount."""

    id: str = "cache"
    sharing: Sharing = "shared"
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


class OneId(HereWorkers):
    """The workers of a user who has no other ids."""

    async def environment(self) -> Environment:
        return Environment("userns", "overlay", IdMap("single"))


@dataclass
class Machine:
    """A state directory and what builds on it said."""

    folder: Path
    client: Registry
    workers: HereWorkers = field(default_factory=HereWorkers)
    now: float = 1000.0
    events: list[Event] = field(default_factory=list)
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        self.mounts = CacheMounts(self.folder / "mounts", self.workers, FileLocks(self.folder / "locks"))
        self.content = DirectoryStore(self.folder)
        (self.folder / "scratch").mkdir(parents=True)

    async def build(self, *places: Place, to: Place | None = None, mount: Mount | None = None,
                    step: Callable[[Path], object] | None = None) -> Path:  # fmt: skip
        """A build of one step that has one mount: what is in it when the step begins is the path's."""
        mount = mount or Mount()
        self.events.clear()
        carrier = Carrier(self.mounts, self.workers, lambda: Remote(lambda: self.client, self.folder / "scratch", self.content),
                          Reporter(self.events.append, lambda: 0.0), sources=places, target=to, patience=self.patience,
                          clock=lambda: self.now)  # fmt: skip
        name = portable(mount, None, "")

        async def bring(_: int, path: Path) -> None:
            await carrier.bring(name, mount, path)

        async with self.mounts.acquire_all([(mount, None)], bring) as (path,):
            carrier.used(name, mount, path)
            if step:
                step(path)
        async with carrier.saving():
            pass
        assert os.listdir(self.folder / "scratch") == []
        assert [each for each in os.listdir(path.parent) if each.startswith(".") or each.endswith((".draft", ".old"))] == []
        return path

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Warned)]

    @property
    def carried(self) -> list[tuple[str, int]]:
        """What was carried, and how many files it has."""
        return [(event.what, event.files) for event in self.events if isinstance(event, MountCarried)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RegistryServer]:
    async with RegistryServer(tmp_path / "registry") as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[RegistryClient]:
    async with connected() as client:
        yield client


@pytest.fixture
def place(server: RegistryServer) -> Place:
    return Place(Reference.parse(f"{server.address}/mounts"))


@pytest.fixture
def one(tmp_path: Path, client: RegistryClient) -> Machine:
    return Machine(tmp_path / "one", client)


@pytest.fixture
def other(tmp_path: Path, client: RegistryClient) -> Machine:
    return Machine(tmp_path / "other", client, now=2000.0)


def uploaded(server: RegistryServer) -> int:
    """Bytes of blobs and manifests that were sent to the registry since its log was cleared."""
    return sum(entry.received for entry in server.requests if entry.method in ("PUT", "PATCH", "POST"))


def downloaded(server: RegistryServer) -> int:
    return sum(entry.sent for entry in server.requests if entry.method == "GET")


def tree(root: Path) -> dict[bytes, tuple[object, ...]]:
    """All there is below a directory, in every respect that is carried."""
    out: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[int, bytes] = {}
    for here, directories, files in os.walk(os.fsencode(root)):
        for name in sorted([b".", *directories, *files]):
            path = os.path.join(here, name)
            found = os.lstat(path)
            content: object = None
            if stat.S_ISREG(found.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(found.st_mode):
                content = os.readlink(path)
            attributes = {each: os.getxattr(path, each, follow_symlinks=False)
                          for each in os.listxattr(path, follow_symlinks=False)} if not stat.S_ISLNK(found.st_mode) else {}
            same = inodes.setdefault(found.st_ino, path) if stat.S_ISREG(found.st_mode) else path
            out[os.path.relpath(path, os.fsencode(root))] = (
                found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, content, attributes, os.path.relpath(same, os.fsencode(root)))
    return out


def everything(path: Path) -> None:
    """Files of all sorts."""
    (path / "deep/er").mkdir(parents=True)
    (path / "deep/er/file").write_bytes(b"content")
    (path / "empty").write_bytes(b"")
    os.utime(path / "empty", ns=(1, 1_234_567_890_123_456_789))
    (path / "big").write_bytes(random.Random(1).randbytes(5_000_000))
    (path / "zeros").write_bytes(bytes(3_000_000))
    (path / "run").write_bytes(b"#!/bin/sh\n")
    (path / "run").chmod(0o750)
    (path / "closed").mkdir(mode=0o700)
    (path / "sticky").mkdir()
    (path / "sticky").chmod(0o1777)
    os.symlink("../../etc/passwd", path / "deep/link")
    os.symlink("/etc", path / "absolute")
    os.link(path / "big", path / "deep/same")
    odd = os.fsencode(path) + b"/\xff\xfe odd\nname"
    Path(os.fsdecode(odd)).write_bytes(b"odd")
    with suppress(OSError):
        os.setxattr(path / "run", "user.note", b"value\0")
    if os.getuid() == 0:
        os.chown(path / "run", 1000, 7)
        os.chown(path / "absolute", 5, 6, follow_symlinks=False)
    os.utime(path / "deep", ns=(5, 1_000_000_001))
    path.chmod(0o711)
    os.utime(path, ns=(5, 1_100_000_001))


async def test_what_one_machine_saves_another_has_in_every_respect(place: Place, one: Machine, other: Machine) -> None:
    first = await one.build(place, to=place, step=everything)
    before = tree(first)
    second = await other.build(place)
    assert tree(second) == before
    assert (second / "zeros").stat().st_blocks * 512 < 3_000_000
    assert one.warnings == other.warnings == []
    assert (one.carried, other.carried) == ([("saved", 6)], [("restored", 6)])


async def test_nothing_travels_when_nothing_has_changed(server: RegistryServer, place: Place, one: Machine, other: Machine) -> None:
    await one.build(place, to=place, step=everything)
    server.log.clear()
    await one.build(place, to=place)
    assert uploaded(server) == 0
    await other.build(place, to=place)
    assert uploaded(server) == 0
    server.log.clear()
    await other.build(place, to=place)
    assert (uploaded(server), other.carried) == (0, [])
    assert downloaded(server) < 5000


def many(path: Path) -> None:
    numbers = random.Random(3)
    for n in range(400):
        (path / f"{n % 7}").mkdir(exist_ok=True)
        (path / f"{n % 7}/{n}").write_bytes(numbers.randbytes(20_000))


async def test_what_is_new_is_all_that_travels(server: RegistryServer, place: Place, one: Machine, other: Machine) -> None:
    await one.build(to=place, step=many)
    assert uploaded(server) > 8_000_000
    assert len([e for e in server.requests if e.method == "PUT" and "/blobs/" in e.path]) <= 4, "400 files in a few blobs"
    server.log.clear()

    def change(path: Path) -> None:
        for n in (5, 100, 399):
            (path / f"{n % 7}/{n}").write_bytes(random.Random(n).randbytes(20_000))
        (path / "0/0").unlink()

    await other.build(place, to=place, step=change)
    assert 60_000 < uploaded(server) < 60_000 + 30_000
    server.log.clear()
    await one.build(place)
    assert downloaded(server) < 100_000, "what is here and is the same is not fetched"
    assert one.carried == [("restored", 399)]
    third = await Machine(one.folder.parent / "third", one.client).build(place)
    assert tree(third) == tree(one.folder / "mounts" / third.parent.name / "0")


async def test_a_mount_that_was_changed_here_stays(place: Place, one: Machine, other: Machine) -> None:
    await one.build(to=place, step=lambda path: (path / "file").write_text("one"))
    await other.build(place, to=place, step=lambda path: (path / "file").write_text("other"))
    (await one.build() / "mine").write_text("mine")
    path = await one.build(place)
    assert sorted(os.listdir(path)) == ["file", "mine"]
    assert (path / "file").read_text() == "one"
    assert one.carried == []


async def test_a_mount_that_never_travelled_stays(place: Place, one: Machine, other: Machine) -> None:
    await one.build(to=place, step=lambda path: (path / "file").write_text("one"))
    await other.build(step=lambda path: (path / "mine").write_text("mine"))
    assert os.listdir(await other.build(place)) == ["mine"]
    assert [event.message for event in other.events if isinstance(event, Note)] == ["cache mount cache is here already, and stays as it is"]


async def test_an_older_state_does_not_replace_a_newer_one(place: Place, one: Machine, other: Machine) -> None:
    await one.build(to=place, step=lambda path: (path / "file").write_text("old"))
    await other.build(place)
    one.now = 5000.0
    await one.build(place, to=place, step=lambda path: (path / "file").write_text("new"))
    await other.build(to=place)
    assert (await Machine(one.folder.parent / "third", one.client).build(place) / "file").read_text() == "new"
    assert (await other.build(place) / "file").read_text() == "new"


async def test_the_last_to_save_has_it_whole(place: Place, one: Machine, other: Machine) -> None:
    await one.build(to=place, step=lambda path: (path / "one").write_text("1"))
    await other.build(to=place, step=lambda path: (path / "other").write_text("2"))
    assert os.listdir(await Machine(one.folder.parent / "third", one.client).build(place)) == ["other"]


async def test_mounts_and_scopes_do_not_meet(place: Place, one: Machine, other: Machine) -> None:
    branch = Place(place.repository, "a/branch")
    await one.build(to=place, step=lambda path: (path / "file").write_text("x"))
    assert os.listdir(await other.build(branch, mount=Mount("other"))) == []
    assert os.listdir(await other.build(branch)) == []
    assert os.listdir(await other.build(branch, place)) == ["file"]


async def test_a_branch_refers_to_what_the_trunk_has(server: RegistryServer, place: Place, one: Machine, other: Machine) -> None:
    branch = Place(place.repository, "branch")
    await one.build(to=place, step=many)
    server.log.clear()
    await other.build(branch, place, to=branch, step=lambda path: (path / "-more").write_bytes(bytes(3000)))
    assert uploaded(server) < 30_000
    third = await Machine(one.folder.parent / "third", one.client).build(branch)
    assert len(list(third.rglob("*"))) == 400 + 7 + 1


async def test_a_listing_travels_as_a_patch_of_the_one_before(server: RegistryServer, place: Place, one: Machine, other: Machine,
                                                              tmp_path: Path) -> None:  # fmt: skip
    def little(path: Path) -> None:
        for n in range(3000):
            (path / f"{random.Random(n).randbytes(20).hex()}").write_bytes(b"%d" % n)

    await one.build(to=place, step=little)
    for n in range(4):
        server.log.clear()
        await other.build(place, to=place, step=lambda path, n=n: (path / f"more{n}").write_bytes(b"more"))  # type: ignore[misc]
        assert uploaded(server) < 25_000, "a listing of 3000 files has 200 kB"
        assert len(os.listdir(await one.build(place))) == 3001 + n
    assert len(os.listdir(await Machine(tmp_path / "third", one.client).build(place))) == 3004


@pytest.mark.parametrize("fault", [Fault(status=503, times=None), Fault(status=403, times=None), Fault(kind="reset", times=None),
                                   Fault(method="GET", path=".*/blobs/.*", kind="corrupt", times=None),
                                   Fault(method="GET", path=".*/blobs/.*", status=404, times=None)])  # fmt: skip
async def test_a_registry_that_fails_costs_a_warning(fault: Fault, server: RegistryServer, place: Place, one: Machine,
                                                     tmp_path: Path) -> None:  # fmt: skip
    await one.build(to=place, step=everything)
    server.add_fault(fault)
    async with connected() as impatient:
        other = Machine(tmp_path / "other", impatient)
        path = await other.build(place)
        assert os.listdir(path) == []
        assert len(other.warnings) == 1
        assert not record.path_of(path).exists()


async def test_a_registry_that_is_not_there_costs_warnings(tmp_path: Path, client: RegistryClient) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = Place(Reference.parse(f"127.0.0.1:{probe.getsockname()[1]}/mounts"))
        machine = Machine(tmp_path / "one", client)
        path = await machine.build(nowhere, to=nowhere, step=lambda path: (path / "file").write_text("x"))
    assert os.listdir(path) == ["file"]
    assert len(machine.warnings) == 2


async def test_packs_that_the_registry_has_lost_are_sent_again(server: RegistryServer, place: Place, one: Machine,
                                                               other: Machine, tmp_path: Path) -> None:  # fmt: skip
    await one.build(to=place, step=many)
    for blob in (tmp_path / "registry").rglob("*"):
        if blob.is_file() and blob.stat().st_size > 1_000_000:
            blob.unlink()
    await one.build(to=place, step=lambda path: (path / "more").write_bytes(b"more"))
    assert one.warnings == []
    assert len(list((await other.build(place)).rglob("*"))) == 400 + 7 + 1


async def test_a_state_whose_listing_is_lost_is_replaced(place: Place, one: Machine, other: Machine, tmp_path: Path) -> None:
    await one.build(to=place, step=lambda path: (path / "one").write_text("1"))
    for blob in (tmp_path / "registry").rglob("*"):
        if blob.is_file() and blob.read_bytes().startswith(b"\x28\xb5\x2f\xfd"):
            blob.unlink()
    await other.build(place, to=place, step=lambda path: (path / "other").write_text("2"))
    assert [text.split(":")[0] for text in other.warnings] == ["cache mount cache begins without what was saved of it"]
    assert os.listdir(await Machine(tmp_path / "third", one.client).build(place)) == ["other"]


async def test_a_user_with_one_id_has_the_files_and_a_warning(place: Place, one: Machine, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root has other ids to give")

    def theirs(path: Path) -> None:
        (path / "file").write_text("x")
        os.chown(path / "file", 1000, 1000)

    await one.build(to=place, step=theirs)
    other = Machine(tmp_path / "other", one.client, OneId())
    path = await other.build(place)
    assert (path / "file").stat().st_uid == os.getuid()
    assert len(other.warnings) == 1
    assert "1 files were another user's" in other.warnings[0]


async def test_set_id_bits_do_not_travel(place: Place, one: Machine, other: Machine) -> None:
    def rights(path: Path) -> None:
        (path / "su").write_bytes(b"x")
        (path / "su").chmod(0o6755)

    await one.build(to=place, step=rights)
    assert stat.S_IMODE((await other.build(place) / "su").stat().st_mode) == 0o755


@pytest.mark.parametrize("sharing", ["private", "locked"])
async def test_other_sharing_travels_too(sharing: Sharing, place: Place, one: Machine, other: Machine) -> None:
    mount = Mount(sharing=sharing)
    await one.build(to=place, mount=mount, step=lambda path: (path / "file").write_text("x"))
    assert os.listdir(await other.build(place, mount=mount)) == ["file"]


async def test_a_locked_mount_that_another_build_has_is_not_saved(place: Place, one: Machine) -> None:
    mount = Mount(sharing="locked")
    path = await one.build(mount=mount)
    one.patience = Patience(lock=0.01)
    locks = FileLocks(one.folder / "locks")
    carrier = Carrier(one.mounts, one.workers, lambda: Remote(lambda: one.client, one.folder / "scratch", one.content),
                      Reporter(one.events.append, lambda: 0.0), sources=(), target=place, patience=one.patience)  # fmt: skip
    carrier.used(portable(mount, None, ""), mount, path)
    with locks.attempt(f"mount {path.parent.name}/0") as taken:
        assert taken
        async with carrier.saving():
            pass
    assert len(one.warnings) == 1
