"""What is made, looked for or started once, and as late as it can be."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

from engine.solve.fileskey import Later, Listing, Once

pytestmark = pytest.mark.anyio


async def test_work_is_started_once_when_there_is_as_much_as_was_said() -> None:
    started: list[int] = []

    async def work() -> None:
        started.append(1)

    async with anyio.create_task_group() as tasks:
        once = Once(work, tasks, 10)
        await anyio.to_thread.run_sync(once.told, 9)
        await anyio.lowlevel.checkpoint()
        assert not started
        for count in (10, 11, 12):
            await anyio.to_thread.run_sync(once.told, count)
        once.start()
    assert started == [1]


async def test_work_is_started_whatever_there_is_when_somebody_says_so() -> None:
    started: list[int] = []

    async def work() -> None:
        started.append(1)

    async with anyio.create_task_group() as tasks:
        once = Once(work, tasks, 10)
        once.start()
        once.start()
    assert started == [1]


async def test_a_listing_is_made_once_and_looked_for_once() -> None:
    made: list[int] = []

    def make() -> dict[str, str]:
        made.append(1)
        return {"a": "1"}

    listing = Listing(make)
    assert not made
    assert listing() == listing() == {"a": "1"}

    async def look() -> tuple[str, Listing]:
        made.append(2)
        return "digest", listing

    later = Later(look)
    assert later.listing() == {}
    await later.prepare()
    await later.prepare()
    assert later.listing() == {"a": "1"}
    assert made == [1, 2]
