"""Giving up on what does not move any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from engine.errors import RegistryError


@asynccontextmanager
async def watched(seconds: float, progress: Callable[[], int]) -> AsyncIterator[None]:
    """Ends its block with a `RegistryError`, in a group, when `progress` has given the same number for so many seconds."""

    async def watch() -> None:
        last, since = progress(), anyio.current_time()
        while True:
            await anyio.sleep(seconds / 10)
            now = progress()
            if now != last:
                last, since = now, anyio.current_time()
            elif anyio.current_time() - since >= seconds:
                raise RegistryError(f"nothing has moved for {seconds:g} seconds")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        yield
        tasks.cancel_scope.cancel()
