"""The pool of worker processes: jobs, their errors, their end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from engine.errors import IsolationError, Location, RunError, StorageError
from engine.isolate.base import DirectoryRoot, RunSpec
from engine.layer.apply import scan
from engine.settings import Settings
from engine.workers.pool import LARGEST_IDLE, WorkerPool
from engine.workers.spawn import spawn
from tests.contract.jobs import fail, hold, write_to_full_disk


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[WorkerPool]:
    async with WorkerPool(Settings(state_dir=tmp_path), anyio.CapacityLimiter(2), tmp_path / "run") as made:
        yield made


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(pid: int) -> None:
    """Waits until a process has ended and been taken note of."""
    with anyio.fail_after(10):
        while alive(pid):
            await anyio.lowlevel.checkpoint()


def children() -> list[int]:
    """This process's children."""
    return [int(word) for path in Path("/proc/self/task").glob("*/children") for word in path.read_text().split()]


async def test_a_job_runs_in_another_process_and_workers_are_used_again(pool: WorkerPool) -> None:
    first = await pool.call(os.getpid)
    assert first != os.getpid()
    assert await pool.call(os.getpid) == first
    assert await pool.call(divmod, 7, 2) == (3, 1)


async def test_a_worker_that_has_grown_large_is_not_kept(pool: WorkerPool) -> None:
    first = await pool.call(os.getpid)
    assert await pool.call(hold, 1 << 20) == first
    assert await pool.call(hold, LARGEST_IDLE) == first
    second = await pool.call(os.getpid)
    assert second != first
    await gone(first)
    assert await pool.call(os.getpid) == second


async def test_no_more_jobs_at_once_than_the_limit(pool: WorkerPool) -> None:
    pids = set()

    async def job() -> None:
        pids.add(await pool.call(os.getpid))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(job)
    assert len(pids) <= 2


async def test_large_arguments_and_results(pool: WorkerPool) -> None:
    data = os.urandom(5_000_000)
    assert await pool.call(bytes, data) == data


async def test_what_a_job_raises_is_raised(pool: WorkerPool) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        await pool.call(os.stat, "/no/such/file")
    assert missing.value.filename == "/no/such/file"
    with pytest.raises(ZeroDivisionError) as error:
        await pool.call(divmod, 1, 0)
    assert "in worker process" in error.value.__notes__[0]
    with pytest.raises(StorageError):
        await pool.call(scan, "/no/such/blob")
    assert await pool.call(abs, -1) == 1


async def test_an_engine_error_keeps_its_fields(pool: WorkerPool) -> None:
    error = RunError("failed", status=3, output=("a", "b"), hint="try again", location=Location(2, 4))
    with pytest.raises(RunError) as raised:
        await pool.call(fail, error)
    got = raised.value
    assert (str(got), got.status, got.output, got.hint, got.location) == ("failed", 3, ("a", "b"), "try again", Location(2, 4))


async def test_a_result_that_cannot_be_sent_is_an_error_and_not_the_workers_end(pool: WorkerPool) -> None:
    pid = await pool.call(os.getpid)
    with pytest.raises((TypeError, AttributeError, RuntimeError)):
        await pool.call(memoryview, b"x")
    assert await pool.call(os.getpid) == pid


async def test_a_full_disk_in_a_job_is_a_storage_error(pool: WorkerPool) -> None:
    with pytest.raises(StorageError, match="No space left"):
        await pool.call(write_to_full_disk)


async def test_cancelling_ends_the_job_and_its_process(pool: WorkerPool) -> None:
    pid = await pool.call(os.getpid)
    with anyio.move_on_after(0.05) as scope:
        await pool.call(time.sleep, 1000)
    assert scope.cancelled_caught
    await gone(pid)
    assert await pool.call(os.getpid) != pid


async def test_a_worker_that_dies_is_an_isolation_error_and_is_replaced(pool: WorkerPool) -> None:
    pid = await pool.call(os.getpid)
    with pytest.raises(IsolationError, match="a worker process died while it ran"):
        await pool.call(os._exit, 1)
    with pytest.raises(IsolationError):
        await pool.call(os.kill, await pool.call(os.getpid), signal.SIGKILL)
    assert await pool.call(os.getpid) != pid


async def test_a_fork_server_that_dies_is_an_isolation_error(pool: WorkerPool) -> None:
    others = set(children())
    server = await pool.call(os.getppid)
    os.kill(server, signal.SIGKILL)
    for pid in set(children()) - others:
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222  # it is killed
    with pytest.raises(IsolationError, match="died"):
        await pool.call(os.getpid)
    with pytest.raises(IsolationError, match="died"):
        async with pool.run(RunSpec(DirectoryRoot("/nowhere"), ("true",), (), "/"), lambda *_: None):
            pass


async def test_closing_leaves_no_process(tmp_path: Path) -> None:
    before = children()
    async with WorkerPool(Settings(state_dir=tmp_path), anyio.CapacityLimiter(2), tmp_path / "run") as pool:
        pid = await pool.call(os.getpid)
        server = await pool.call(os.getppid)
    assert not alive(pid) and not alive(server)
    assert children() == before
    with pytest.raises(RuntimeError):
        await pool.call(os.getpid)


async def test_a_pool_that_is_not_used_starts_nothing(tmp_path: Path) -> None:
    before = children()
    async with WorkerPool(Settings(state_dir=tmp_path), anyio.CapacityLimiter(2), tmp_path / "run"):
        assert children() == before
    assert not (tmp_path / "run").exists()


async def test_a_process_that_was_started_before_becomes_the_fork_server(tmp_path: Path) -> None:
    with spawn() as spawned:
        async with WorkerPool(Settings(tmp_path), anyio.CapacityLimiter(2), tmp_path / "run", spawned) as pool:
            assert await pool.call(os.getppid) == spawned.process.pid
        assert spawned.process.returncode == 0


async def test_a_process_that_was_started_for_nothing_is_ended(tmp_path: Path) -> None:
    before = children()
    with spawn() as spawned:
        async with WorkerPool(Settings(tmp_path), anyio.CapacityLimiter(2), tmp_path / "run", spawned):
            assert alive(spawned.process.pid)
        assert children() == before


async def test_a_process_that_died_before_it_was_used_says_why(tmp_path: Path) -> None:
    with spawn() as spawned:
        spawned.process.kill()
        async with WorkerPool(Settings(tmp_path), anyio.CapacityLimiter(2), tmp_path / "run", spawned) as pool:
            with pytest.raises(IsolationError, match="the fork server has died"):
                await pool.environment()
            assert await pool.call(divmod, 7, 2) == (3, 1), "the next one is ours"


async def test_the_processes_end_with_ours(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            anyio.run(_start_and_report, tmp_path, write)
        finally:
            os._exit(0)
    os.close(write)
    server, worker = map(int, os.read(read, 100).split())
    assert alive(server) and alive(worker)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)  # noqa: ASYNC222  # it is killed
    assert os.read(read, 1) == b""  # the pipe's last holder is gone
    os.close(read)
    await gone(server)
    await gone(worker)


async def _start_and_report(tmp_path: Path, write: int) -> None:
    pool = WorkerPool(Settings(state_dir=tmp_path), anyio.CapacityLimiter(2), tmp_path / "run")
    worker = await pool.call(os.getpid)
    server = await pool.call(os.getppid)
    os.write(write, f"{server} {worker}".encode())
    await anyio.sleep_forever()


@pytest.mark.parametrize(("isolation", "snapshots", "match"), [
    ("chroot", "overlay", "overlay snapshots need isolation userns"),
])
async def test_settings_that_contradict_each_other(tmp_path: Path, isolation: str, snapshots: str, match: str) -> None:
    settings = Settings(state_dir=tmp_path, isolation=isolation, snapshots=snapshots)  # type: ignore[arg-type]  # literals
    async with WorkerPool(settings, anyio.CapacityLimiter(2), tmp_path / "run") as pool:
        with pytest.raises(IsolationError, match=match):
            await pool.environment()
        with pytest.raises(IsolationError, match=match):
            await pool.call(os.getpid)


async def test_the_environment_explains_itself(pool: WorkerPool) -> None:
    environment = await pool.environment()
    text = "\n".join(environment.reasons)
    assert f"isolation: {environment.isolation}" in text
    assert f"snapshots: {environment.snapshots}" in text
