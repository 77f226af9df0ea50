"""Equal work at one time is done once."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from engine.errors import NotFoundError, RegistryError
from engine.registry.flight import SingleFlight


async def test_everybody_who_comes_in_time_shares_one_result() -> None:
    flights, gate, runs, results = SingleFlight[int](), anyio.Event(), list[int](), list[tuple[int, bool]]()

    async def work() -> int:
        runs.append(1)
        await gate.wait()
        return 7

    async def call() -> None:
        results.append(await flights.run("key", work))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert (len(runs), sorted(results)) == (1, [(7, False)] * 4 + [(7, True)])
    assert await flights.run("key", work) == (7, True)
    assert len(runs) == 2


async def test_an_error_is_shared_as_a_copy() -> None:
    flights, errors, gate, runs = SingleFlight[int](), list[RegistryError](), anyio.Event(), list[int]()

    async def work() -> int:
        runs.append(1)
        await gate.wait()
        raise NotFoundError("gone", status=404, hint="h")

    async def call() -> None:
        with pytest.raises(NotFoundError) as raised:
            await flights.run("key", work)
        errors.append(raised.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert len(runs) == 1
    assert errors[0] is not errors[1]
    assert [(e.message, e.status, e.hint) for e in errors] == [("gone", 404, "h")] * 2


async def test_when_the_worker_is_cancelled_the_next_one_takes_over() -> None:
    flights, results, runs = SingleFlight[str](), list[tuple[str, bool]](), list[str]()
    first = anyio.CancelScope()

    async def endless() -> str:
        runs.append("first")
        await anyio.sleep_forever()
        return "never"

    async def short() -> str:
        runs.append("second")
        await checkpoint()
        return "done"

    async def leader() -> None:
        with first:
            await flights.run("key", endless)

    async def follower() -> None:
        results.append(await flights.run("key", short))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leader)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(follower)
        await anyio.wait_all_tasks_blocked()
        first.cancel()
    assert (results, runs) == ([("done", True)], ["first", "second"])
