"""Locks between processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from engine.cache.flight import FileLocks, Turns, once
from engine.content import claims
from engine.errors import StorageError

HOLDER = """
import anyio
import anyio.lowlevel
from engine.cache.flight import FileLocks
async def main():
    async with FileLocks(here).hold("key"):
        print("held", flush=True)
        sys.stdin.read()
anyio.run(main)
"""


@contextmanager
def victim(program: str, directory: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """A process that prints a line and then waits: the line, and what kills it."""
    preamble = "import sys; from pathlib import Path; here = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", preamble + program, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None

        def kill() -> None:
            process.kill()
            process.wait()

        yield process.stdout.readline().decode().strip(), kill
        kill()


async def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    holding = most = 0

    async def work() -> None:
        nonlocal holding, most
        async with FileLocks(tmp_path).hold("key"):
            holding += 1
            most = max(most, holding)
            await anyio.lowlevel.checkpoint()
            holding -= 1

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(work)
    assert most == 1
    assert os.listdir(tmp_path) == []


async def test_who_waited_for_a_file_that_was_removed_waits_for_its_successor(tmp_path: Path,
                                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    locks, order, got_the_old_file = FileLocks(tmp_path), list[str](), anyio.Event()
    try_lock = claims.try_lock

    def watched(fd: int, *, shared: bool = False) -> bool:
        if (taken := try_lock(fd, shared=shared)) and os.fstat(fd).st_nlink == 0:
            got_the_old_file.set()
        return taken

    async def late() -> None:
        async with locks.hold("key"):
            order.append("late")

    async with anyio.create_task_group() as group:
        async with locks.hold("key"):
            group.start_soon(late)
            await anyio.wait_all_tasks_blocked()
            monkeypatch.setattr(claims, "try_lock", watched)
        async with locks.hold("key"):
            with anyio.fail_after(10):
                await got_the_old_file.wait()
            await anyio.wait_all_tasks_blocked()
            order.append("successor")
    assert order == ["successor", "late"]


async def test_names_do_not_matter_to_each_other(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path / "locks")
    with anyio.fail_after(10):
        async with locks.hold("a"), locks.hold("b/../c"), locks.hold("x" * 5000):
            pass


async def test_a_lock_can_be_shared(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path)
    with anyio.fail_after(10):
        async with locks.hold("key", shared=True), locks.hold("key", shared=True):
            with locks.attempt("key") as free:
                assert not free
    with locks.attempt("key") as free, locks.attempt("key") as again:
        assert (free, again) == (True, False)
    assert os.listdir(tmp_path) == []


async def test_waiting_can_be_cancelled(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path)
    async with locks.hold("key"):
        with anyio.move_on_after(0.01) as scope:
            async with locks.hold("key"):
                pytest.fail("two hold the lock")
        assert scope.cancelled_caught
    with anyio.fail_after(10):
        async with locks.hold("key"):
            pass


async def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path)
    with victim(HOLDER, tmp_path) as (_, kill):
        with locks.attempt("key") as free:
            assert not free
        kill()
        with anyio.fail_after(10):
            async with locks.hold("key"):
                pass


async def test_work_is_done_once_and_found_by_the_others(tmp_path: Path) -> None:
    found: list[str] = []
    outcomes: list[tuple[str, bool]] = []

    async def look() -> str | None:
        return found[0] if found else None

    async def work() -> str:
        await anyio.lowlevel.checkpoint()
        found.append("made")
        return "made"

    async def builder() -> None:  # a flight of its own: as if it were another process
        outcomes.append(await once(Turns(), FileLocks(tmp_path), "key", look, work))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(builder)
    assert found == ["made"]
    assert sorted(made for _, made in outcomes) == [False] * 7 + [True]


async def test_another_does_the_work_when_the_one_who_did_it_fails(tmp_path: Path) -> None:
    async def look() -> str | None:
        return None

    async def fail() -> str:
        raise ValueError

    async def work() -> str:
        return "made"

    locks = FileLocks(tmp_path)
    with pytest.raises(ValueError):
        await once(Turns(), locks, "key", look, fail)
    assert await once(Turns(), locks, "key", look, work) == ("made", True)


async def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        async with FileLocks(tmp_path / "file").hold("key"):
            pass
