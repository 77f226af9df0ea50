"""Work side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

import anyio

T = TypeVar("T")
U = TypeVar("U")


@overload
async def gather(one: Callable[[], Awaitable[T]], other: Callable[[], Awaitable[U]], /) -> tuple[T, U]: ...


@overload
async def gather(*work: Callable[[], Awaitable[T]]) -> tuple[T, ...]: ...


async def gather(*work: Callable[[], Awaitable[T]]) -> tuple[T, ...]:
    """The results of all work, in its order. The first failure ends the rest, and is raised as it is, not in a group."""
    results: dict[int, T] = {}
    failures: list[Exception] = []

    async def run(number: int, one: Callable[[], Awaitable[T]]) -> None:
        try:
            results[number] = await one()
        except Exception as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for number, one in enumerate(work):
            tasks.start_soon(run, number, one)
    if failures:
        raise failures[0]
    return tuple(results[number] for number in range(len(work)))
