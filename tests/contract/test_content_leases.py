"""Leases and pruning beside running builds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from engine.content.gc import Item, Policy
from engine.content.leases import Leases
from engine.content.prune import BlobHolding, prune
from engine.content.store import DirectoryStore
from engine.image.digest import Digest

LEASE = """
import anyio
from engine.content.leases import Leases
async def main():
    async with Leases(here).hold() as lease:
        await lease.protect([("blob", "a")])
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


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "leases")


def stored(store: DirectoryStore, data: bytes, age: float = 0) -> Digest:
    """A blob that was stored some time ago."""
    digest = store.put(data)
    os.utime(store.path(digest), (time.time() - age,) * 2)
    return digest


async def test_leases_are_seen_while_they_last(leases: Leases) -> None:
    async with leases.exclusive() as leased:
        assert leased.names == frozenset() and leased.since is None
    async with leases.hold() as first, leases.hold() as second:
        await first.protect([("blob", "a"), ("layer", "b c")])
        await second.protect([("blob", "a")])
        await second.protect([("blob", "d")])
        async with leases.exclusive() as leased:
            assert leased.names == {("blob", "a"), ("layer", "b c"), ("blob", "d")}
            assert leased.since == pytest.approx(time.time(), abs=60)
    async with leases.exclusive() as leased:
        assert leased.names == frozenset() and leased.since is None


async def test_a_lease_does_not_grow_while_somebody_prunes(leases: Leases) -> None:
    grown = anyio.Event()

    async with leases.hold() as lease, anyio.create_task_group() as group:

        async def grow() -> None:
            await lease.protect([("blob", "a")])
            grown.set()

        async with leases.exclusive() as leased:
            group.start_soon(grow)
            await anyio.wait_all_tasks_blocked()
            assert not grown.is_set() and leased.names == frozenset()
        with anyio.fail_after(10):
            await grown.wait()


async def test_many_tasks_of_a_build_share_its_lease(leases: Leases) -> None:
    async with leases.hold() as lease, leases.hold() as other:
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(lease.protect, [("blob", f"a{number}")])
                group.start_soon(other.protect, [("blob", f"b{number}")])
        async with leases.exclusive() as leased:
            assert len(leased.names) == 100


async def test_a_killed_process_holds_no_lease(leases: Leases, tmp_path: Path) -> None:
    with victim(LEASE, tmp_path / "leases") as (_, kill):
        async with leases.exclusive() as leased:
            assert leased.names == {("blob", "a")}
        kill()
        async with leases.exclusive() as leased:
            assert leased.names == frozenset()
    assert [name for name in os.listdir(tmp_path / "leases") if name.startswith("lease-")] == []


async def test_a_name_that_would_break_the_file_is_refused(leases: Leases) -> None:
    async with leases.hold() as lease:
        with pytest.raises(ValueError, match="not a name"):
            await lease.protect([("blob", "a\nblob b")])


async def test_prune_removes_what_nothing_needs_and_leaves_what_is_leased(store: DirectoryStore, leases: Leases,
                                                                          tmp_path: Path) -> None:
    leased, orphan, fresh = stored(store, b"leased", 100), stored(store, b"orphan", 100), stored(store, b"fresh", -5)
    holdings = [BlobHolding(store, tmp_path / "trash")]
    async with leases.hold() as lease:
        await lease.protect([("blob", str(leased))])
        dry = await prune(leases, holdings, Policy(), time.time(), dry=True)
        assert [item.name for item in dry.remove] == [("blob", str(orphan))]
        assert store.has(orphan)
        verdict = await prune(leases, holdings, Policy(), time.time())
        assert (verdict.freed, verdict.kept) == (6, 11)
        assert (store.has(leased), store.has(orphan), store.has(fresh)) == (True, False, True)
    await prune(leases, holdings, Policy(), time.time())
    assert store.blobs() == []
    assert os.listdir(tmp_path / "trash") == []


async def test_a_blob_stored_anew_while_it_is_being_pruned_comes_back(store: DirectoryStore, tmp_path: Path) -> None:
    digest = stored(store, b"orphan", 100)
    holding = BlobHolding(store, tmp_path / "trash")
    items = list(holding.items())
    os.utime(store.path(digest))
    await holding.detach(items)
    assert store.has(digest)


async def test_the_trash_of_a_killed_prune_is_emptied_by_the_next(store: DirectoryStore, leases: Leases,
                                                                  tmp_path: Path) -> None:
    holding = BlobHolding(store, tmp_path / "trash")
    stored(store, b"orphan", 100)
    await holding.detach(list(holding.items()))
    assert len(os.listdir(tmp_path / "trash")) == 1
    await prune(leases, [BlobHolding(store, tmp_path / "trash")], Policy(), time.time())
    assert os.listdir(tmp_path / "trash") == []


async def test_a_blob_that_another_holding_needs_stays(store: DirectoryStore, leases: Leases, tmp_path: Path) -> None:
    digest = stored(store, b"needed", 100)

    class Records:
        async def survey(self) -> None:
            pass

        def items(self) -> Iterable[Item]:
            return [Item(("record", "k"), 0, 0, root=True, needs=(("blob", str(digest)),))]

        async def detach(self, items: object) -> None:
            assert items == ()

        async def purge(self) -> None:
            pass

    await prune(leases, [BlobHolding(store, tmp_path / "trash"), Records()], Policy(), time.time())
    assert store.has(digest)
