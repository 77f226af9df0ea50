"""Room for a prune: files that are kept for it, and holdings that can let go of their things only when others have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from engine.content.gc import Item, Policy
from engine.content.leases import Leases
from engine.content.prune import prune
from engine.content.reserve import FILE_SIZE, FILES, Reserve
from engine.errors import StorageError


class Things:
    """A holding in memory. With `room` it can detach only when that says so."""

    def __init__(self, items: Sequence[Item], room: Things | None = None) -> None:
        self.there = {item.name: item for item in items}
        self.room = room
        self.purged = False

    async def survey(self) -> None: ...

    def items(self) -> Iterable[Item]:
        return list(self.there.values())

    async def detach(self, items: Sequence[Item]) -> None:
        if self.room and not self.room.purged:
            raise StorageError("the disk is full")
        for item in items:
            self.there.pop(item.name, None)

    async def purge(self) -> None:
        self.purged = True


async def test_a_holding_without_room_is_asked_again_when_others_have_freed_theirs(tmp_path: Path) -> None:
    blobs = Things([Item(("blob", "b"), 9, 0.0)])
    records = Things([Item(("record", "r"), 0, 0.0, root=True, needs=(("blob", "b"),))], room=blobs)
    verdict = await prune(Leases(tmp_path), [records, blobs], Policy(all=True), 1.0)
    assert (verdict.freed, records.there, blobs.there) == (9, {}, {})


async def test_what_is_leased_meanwhile_stays(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    blobs = Things([Item(("blob", "b"), 9, 0.0)])
    records = Things([Item(("record", name), 0, 0.0, root=True) for name in ("r", "s")], room=blobs)
    purge = blobs.purge
    async with leases.hold() as lease:

        async def lease_one() -> None:
            await lease.protect([("record", "s")])
            await purge()

        blobs.purge = lease_one  # type: ignore[method-assign]  # a build that begins between the two
        await prune(leases, [records, blobs], Policy(all=True), 1.0)
    assert list(records.there) == [("record", "s")]


async def test_one_that_cannot_let_go_at_all_is_an_error_and_the_others_are_free(tmp_path: Path) -> None:
    stuck = Things([Item(("record", "r"), 0, 0.0, root=True)], room=Things([]))
    other = Things([Item(("blob", "b"), 9, 0.0)])
    with pytest.raises(StorageError, match="the disk is full"):
        await prune(Leases(tmp_path), [stuck, other], Policy(all=True), 1.0)
    assert other.there == {}


def test_room_is_taken_and_not_spent_while_there_is_more(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve")
    reserve.keep()
    paths = list((tmp_path / "reserve").iterdir())
    assert len(paths) == FILES
    assert all(path.stat().st_blocks * 512 >= FILE_SIZE for path in paths)
    assert not reserve.spend()
    paths[0].unlink()
    reserve.keep()
    assert len(list((tmp_path / "reserve").iterdir())) == FILES


def test_a_place_that_cannot_be_written_has_no_room_and_that_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reserve = Reserve(tmp_path / "file" / "reserve")
    reserve.keep()
    assert not reserve.spend()
