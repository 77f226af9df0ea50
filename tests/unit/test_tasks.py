"""Work side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from engine.errors import StorageError
from engine.tasks import gather

pytestmark = pytest.mark.anyio


async def test_results_come_in_the_order_of_the_work() -> None:
    """The first can only end when the second has."""
    second = anyio.Event()

    async def wait() -> int:
        await second.wait()
        return 1

    async def end() -> str:
        second.set()
        return "2"

    with anyio.fail_after(5):
        assert await gather(wait, end) == (1, "2")
    assert await gather() == ()


@pytest.mark.parametrize("order", [1, -1])
async def test_a_failure_is_raised_as_it_is_and_ends_the_rest(order: int) -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise StorageError("no room")

    work: list[Callable[[], Awaitable[None]]] = [wait, fail]
    with anyio.fail_after(5), pytest.raises(StorageError, match="no room"):
        await gather(*work[::order])
    assert ended == ["cancelled"]


async def test_cancelled_from_outside_it_is_cancelled() -> None:
    with anyio.move_on_after(0.01) as scope:
        await gather(anyio.sleep_forever, anyio.sleep_forever)
    assert scope.cancelled_caught
