"""Equal work runs once among the tasks of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from engine.cache.flight import SingleFlight, Turns


class Work:
    """Work that runs until it is let go, and notes what happened to it."""

    def __init__(self) -> None:
        self.started = 0
        self.finished = 0
        self.cancelled = 0
        self.go = anyio.Event()

    async def __call__(self) -> str:
        self.started += 1
        try:
            await self.go.wait()
        except BaseException:
            self.cancelled += 1
            raise
        self.finished += 1
        return f"result {self.started}"


@pytest.fixture
def flight() -> SingleFlight:
    return SingleFlight()


async def waiter(flight: SingleFlight, work: Callable[[], Awaitable[str]], results: list[object],
                 scope: anyio.CancelScope | None = None) -> None:
    with scope or anyio.CancelScope() as scope:
        try:
            results.append(await flight.run("key", work))
        except ValueError as error:
            results.append(error)
    if scope.cancelled_caught:
        results.append("cancelled")


async def test_equal_work_at_one_time_runs_once_and_later_work_runs_again(flight: SingleFlight) -> None:
    work, results = Work(), list[object]()
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(waiter, flight, work, results)
        await anyio.wait_all_tasks_blocked()
        assert work.started == 1
        work.go.set()
    assert results == ["result 1"] * 5
    assert await flight.run("key", work) == "result 2"


async def test_different_keys_do_not_wait_for_each_other(flight: SingleFlight) -> None:
    first, second = Work(), Work()
    second.go.set()
    async with anyio.create_task_group() as group:
        group.start_soon(flight.run, "one", first)
        await anyio.wait_all_tasks_blocked()
        assert await flight.run("two", second) == "result 1"
        first.go.set()


async def test_an_error_reaches_all_who_wait_and_is_not_kept(flight: SingleFlight) -> None:
    go, results = anyio.Event(), list[object]()

    async def fail() -> str:
        await go.wait()
        raise ValueError("broken")

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(waiter, flight, fail, results)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert [str(error) for error in results] == ["broken"] * 3
    work = Work()
    work.go.set()
    assert await flight.run("key", work) == "result 1"


async def test_work_goes_on_when_one_of_two_leaves_whoever_began_it(flight: SingleFlight) -> None:
    for leaver in (0, 1):
        work, results = Work(), list[object]()
        scopes = [anyio.CancelScope(), anyio.CancelScope()]
        async with anyio.create_task_group() as group:
            for scope in scopes:
                group.start_soon(waiter, flight, work, results, scope)
                await anyio.wait_all_tasks_blocked()
            scopes[leaver].cancel()
            await anyio.wait_all_tasks_blocked()
            assert (work.started, work.cancelled) == (1, 0)
            work.go.set()
        assert sorted(map(str, results)) == ["cancelled", "result 1"]
        assert work.finished == 1


async def test_work_is_cancelled_when_the_last_leaves(flight: SingleFlight) -> None:
    work, results = Work(), list[object]()
    scopes = [anyio.CancelScope(), anyio.CancelScope()]
    async with anyio.create_task_group() as group:
        for scope in scopes:
            group.start_soon(waiter, flight, work, results, scope)
        await anyio.wait_all_tasks_blocked()
        for scope in scopes:
            scope.cancel()
    assert results == ["cancelled", "cancelled"]
    await anyio.wait_all_tasks_blocked()
    assert (work.started, work.cancelled, work.finished) == (1, 1, 0)


async def test_who_comes_while_work_is_being_cancelled_runs_it_anew(flight: SingleFlight) -> None:
    cleaning, go, results = anyio.Event(), anyio.Event(), list[object]()

    async def slow_to_end() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            cleaning.set()
            with anyio.CancelScope(shield=True):
                await go.wait()
        return "never"

    scope, work = anyio.CancelScope(), Work()
    work.go.set()
    async with anyio.create_task_group() as group:
        group.start_soon(waiter, flight, slow_to_end, results, scope)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await cleaning.wait()
        assert await flight.run("key", work) == "result 1"
        go.set()


async def test_another_takes_over_when_work_is_cancelled_from_within(flight: SingleFlight) -> None:
    go, runs, results = anyio.Event(), list[int](), list[object]()

    async def dies_once() -> str:
        runs.append(1)
        await go.wait()
        if len(runs) == 1:
            raise asyncio.CancelledError
        return "second"

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(waiter, flight, dies_once, results)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert len(runs) == 2
    assert results == ["second"] * 3


async def test_finished_work_is_forgotten(flight: SingleFlight) -> None:
    work = Work()
    work.go.set()
    await flight.run("key", work)
    await checkpoint()
    assert flight._flights == {}


async def test_turns_come_in_order_and_a_cancelled_wait_takes_none() -> None:
    turns, order, scope = Turns(), list[int](), anyio.CancelScope()

    async def one(n: int) -> None:
        with scope if n == 1 else anyio.CancelScope():
            async with turns.take("key"):
                order.append(n)
                await checkpoint()

    async with anyio.create_task_group() as group, turns.take("key"):
        for n in range(4):
            group.start_soon(one, n)
            await anyio.wait_all_tasks_blocked()
        async with turns.take("other"):
            assert order == []
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
    assert order == [0, 2, 3]
    assert turns._turns == {}
