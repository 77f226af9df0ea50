"""Cache mounts: who gets which directory, what it begins as, and how it goes."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
from anyio.lowlevel import checkpoint

from engine.cache.flight import FileLocks
from engine.cache.mounts import CacheMounts, Seed, Sharing
from engine.content.gc import Policy
from engine.content.leases import Leases
from engine.content.prune import prune
from engine.errors import IsolationError
from engine.isolate.base import DirectoryRoot, Environment, IdMap, OverlayRoot, RunOutcome
from engine.settings import Settings
from engine.workers.base import Workers
from engine.workers.pool import WorkerPool

T = TypeVar("T")


class HereWorkers:
    """Workers that do their jobs in this process."""

    async def environment(self) -> Environment:
        return Environment("userns", "overlay", IdMap("identity"))

    async def call(self, function: Callable[..., T], *args: object) -> T:
        await checkpoint()
        return function(*args)

    def run(self, spec: object, output: object) -> AbstractAsyncContextManager[RunOutcome]:
        raise AssertionError("nothing is run here")

    async def aclose(self) -> None:
        pass


@dataclass(frozen=True)
class Mount:
    """What a Dockerfile says of a cache mount."""

    id: str = "id"
    sharing: Sharing = "shared"
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


def opened(state: Path, workers: Workers | None = None) -> CacheMounts:
    """The mounts of a state directory, as another process would open them."""
    return CacheMounts(state / "mounts", workers or HereWorkers(), FileLocks(state / "locks"), clock=lambda: 5000.0)


@pytest.fixture
def mounts(tmp_path: Path) -> CacheMounts:
    return opened(tmp_path)


async def path_of(mounts: CacheMounts, mount: Mount, seed: Seed | None = None) -> Path:
    """The directory that a mount gets when nobody else has it."""
    async with mounts.acquire(mount, seed) as path:
        return path


async def test_what_is_written_is_there_the_next_time_and_for_the_same_id_only(mounts: CacheMounts, tmp_path: Path) -> None:
    async with mounts.acquire(Mount()) as path:
        assert os.listdir(path) == []
        (path / "file").write_bytes(b"kept")
    async with opened(tmp_path).acquire(Mount()) as path:
        assert (path / "file").read_bytes() == b"kept"
    async with mounts.acquire(Mount(id="other/../id\n")) as path:
        assert os.listdir(path) == []


async def test_a_new_directory_has_the_owner_and_mode_that_were_asked_for(mounts: CacheMounts) -> None:
    plain = (await path_of(mounts, Mount())).stat()
    assert (stat.S_IMODE(plain.st_mode), plain.st_uid, plain.st_gid) == (0o755, os.getuid(), os.getgid())
    if os.getuid() == 0:
        owned = (await path_of(mounts, Mount(mode=0o1777, uid=1000, gid=7))).stat()
        assert (stat.S_IMODE(owned.st_mode), owned.st_uid, owned.st_gid) == (0o1777, 1000, 7)


async def test_mounts_that_say_an_owner_do_not_share_with_those_that_do_not(mounts: CacheMounts) -> None:
    assert await path_of(mounts, Mount(mode=0o700)) != await path_of(mounts, Mount())
    assert await path_of(mounts, Mount(mode=0o700)) == await path_of(mounts, Mount(mode=0o700))


async def test_shared_mounts_are_one_directory_at_one_time(mounts: CacheMounts, tmp_path: Path) -> None:
    with anyio.fail_after(10):
        async with mounts.acquire(Mount()) as one, opened(tmp_path).acquire(Mount()) as other:
            assert one == other


async def test_private_mounts_get_a_directory_each_and_free_ones_are_used_again(mounts: CacheMounts, tmp_path: Path) -> None:
    async with mounts.acquire(Mount(sharing="private")) as one, opened(tmp_path).acquire(Mount(sharing="private")) as other:
        assert one != other
        (other / "file").write_bytes(b"x")
    async with mounts.acquire(Mount(sharing="private")) as first:
        assert first == one
        async with mounts.acquire(Mount(sharing="private")) as second:
            assert second == other
            assert os.listdir(second) == ["file"]


async def test_locked_mounts_wait_for_each_other(mounts: CacheMounts, tmp_path: Path) -> None:
    inside: list[Path] = []

    async def run(mine: CacheMounts) -> None:
        async with mine.acquire(Mount(sharing="locked")) as path:
            assert inside == []
            inside.append(path)
            await anyio.wait_all_tasks_blocked()
            inside.remove(path)

    async with anyio.create_task_group() as group:
        for mine in (mounts, mounts, opened(tmp_path)):
            group.start_soon(run, mine)


async def test_one_run_may_have_a_mount_twice_and_two_runs_each_others(mounts: CacheMounts, tmp_path: Path) -> None:
    a, b = Mount("a", "locked"), Mount("b", "locked")
    order: list[str] = []

    async def run(name: str, *wanted: Mount) -> None:
        async with opened(tmp_path).acquire_all([(mount, None) for mount in wanted]) as paths:
            order.append(name)
            assert len(set(paths)) == len({mount.id for mount in wanted})
            await anyio.wait_all_tasks_blocked()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run, "one", a, b, a)
            group.start_soon(run, "two", b, a, Mount("b", "shared"))
    assert sorted(order) == ["one", "two"]


async def test_waiting_for_a_mount_can_be_cancelled(mounts: CacheMounts) -> None:
    async with mounts.acquire(Mount(sharing="locked")):
        with anyio.move_on_after(0.01) as scope:
            async with mounts.acquire(Mount(sharing="locked")):
                pytest.fail("two have it")
        assert scope.cancelled_caught
    with anyio.fail_after(10):
        await path_of(mounts, Mount(sharing="locked"))


async def test_many_that_begin_at_once_make_one_directory(mounts: CacheMounts, tmp_path: Path) -> None:
    paths: list[Path] = []

    async def run() -> None:
        async with opened(tmp_path).acquire(Mount()) as path:
            (path / f"file {len(paths)}").touch()
            paths.append(path)

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(run)
    assert len(set(paths)) == 1
    assert len(os.listdir(paths[0])) == 10


async def test_a_directory_half_made_by_a_killed_process_is_made_anew(mounts: CacheMounts, tmp_path: Path) -> None:
    path = await path_of(mounts, Mount())
    path.rmdir()
    draft = path.with_name("0.new")
    draft.mkdir()
    (draft / "half").write_bytes(b"x")
    assert os.listdir(await path_of(mounts, Mount())) == []
    assert not draft.exists()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a directory of every sort of thing."""
    root = tmp_path / "root"
    (root / "seed/inner").mkdir(parents=True)
    (root / "seed/inner/file").write_bytes(b"seeded")
    (root / "seed/inner/file").chmod(0o640)
    (root / "seed/link").symlink_to("/etc/passwd")
    (root / "out").symlink_to("/../../../etc")
    (root / "seed").chmod(0o701)
    return root


async def test_a_mount_from_a_state_begins_as_a_copy_of_it(mounts: CacheMounts, root: Path) -> None:
    async with mounts.acquire(Mount(mode=0o700), (DirectoryRoot(str(root)), "/seed")) as path:
        assert (path / "inner/file").read_bytes() == b"seeded"
        assert stat.S_IMODE((path / "inner/file").stat().st_mode) == 0o640
        assert os.readlink(path / "link") == "/etc/passwd"
        assert stat.S_IMODE(path.stat().st_mode) == 0o701
        (path / "inner/file").write_bytes(b"changed")
    async with mounts.acquire(Mount(), (DirectoryRoot(str(root)), "/seed")) as path:
        assert (path / "inner/file").read_bytes() == b"changed"
    assert (root / "seed/inner/file").read_bytes() == b"seeded"
    assert os.listdir(await path_of(mounts, Mount())) == []
    (root / "other/seed").mkdir(parents=True)
    assert os.listdir(await path_of(mounts, Mount(), (DirectoryRoot(str(root / "other")), "/seed"))) == []


async def test_a_context_directory_may_lie_somewhere_else_the_next_time(mounts: CacheMounts, root: Path, tmp_path: Path) -> None:
    first = await path_of(mounts, Mount(), (str(root), "/seed"))
    assert first == await path_of(mounts, Mount(), (str(tmp_path / "gone"), "/seed"))


@pytest.mark.parametrize("source", ["/none", "/out/passwd", "/seed/link"])
async def test_a_path_that_is_not_in_the_state_is_an_error_and_leaves_nothing(mounts: CacheMounts, root: Path, tmp_path: Path,
                                                                              source: str) -> None:
    with pytest.raises(IsolationError, match="no such file"):
        await path_of(mounts, Mount(), (DirectoryRoot(str(root)), source))
    assert await mounts.usage() == []


async def test_usage_and_prune_know_what_is_in_use(mounts: CacheMounts, tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases")
    async with mounts.acquire(Mount("idle")) as idle:
        (idle / "file").write_bytes(b"x" * 100_000)
        os.link(idle / "file", idle / "again")
    async with mounts.acquire(Mount("busy")) as busy:
        usages = {usage.id: usage for usage in await opened(tmp_path).usage()}
        assert (usages["idle"].busy, usages["busy"].busy) == (False, True)
        assert 100_000 <= usages["idle"].size < 150_000
        assert usages["idle"].used == 5000.0
        kept = await prune(leases, [mounts], Policy(older_than=100), 5050.0)
        assert kept.remove == ()
        verdict = await prune(leases, [mounts], Policy(all=True), 5050.0)
        assert [item.name[1] for item in verdict.remove] == [usages["idle"].name]
        assert verdict.freed == usages["idle"].size
        assert (idle.exists(), busy.exists()) == (False, True)
    assert os.listdir(tmp_path / "mounts/trash") == []
    assert os.listdir(await path_of(mounts, Mount("idle"))) == []


async def test_a_mount_taken_between_the_decision_and_the_removal_stays(mounts: CacheMounts) -> None:
    path = await path_of(mounts, Mount())
    items = list(mounts.items())
    async with mounts.acquire(Mount()):
        await mounts.detach(items)
        assert path.exists()
    await mounts.detach(items)
    assert not path.exists()


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[WorkerPool]:
    async with WorkerPool(Settings(tmp_path), anyio.CapacityLimiter(2), tmp_path / "workers") as pool:
        yield pool


async def test_real_workers_copy_from_an_overlay_with_owners_and_whiteouts(tmp_path: Path, pool: WorkerPool) -> None:
    environment = await pool.environment()
    if environment.snapshots != "overlay":
        pytest.skip("no overlay here: " + "; ".join(environment.reasons))
    low, high = tmp_path / "low", tmp_path / "high"
    for layer in (low, high):
        (layer / "seed").mkdir(parents=True)
    (low / "seed/below").write_bytes(b"low")
    (low / "seed/hidden").write_bytes(b"low")
    (high / "seed/above").write_bytes(b"high")
    with suppress(PermissionError):
        os.mknod(high / "seed/hidden", stat.S_IFCHR, 0)
        os.chown(low / "seed/below", 33, 33)
    mounts = opened(tmp_path, pool)
    async with mounts.acquire(Mount(), (OverlayRoot((str(high), str(low))), "seed")) as path:
        assert sorted(os.listdir(path)) == ["above", "below"]
        if environment.ids.kind == "identity":
            assert (path / "below").stat().st_uid == 33
        assert sorted(os.listdir(path.parent)) == ["0", "about.json"]
    usage, = await mounts.usage()
    assert usage.size > 0
    await mounts.detach(list(mounts.items()))
    await mounts.purge()
    assert await mounts.usage() == []
