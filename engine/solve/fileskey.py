"""What a step takes from somewhere, for its key and for people: found out once, and as late as it can be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from anyio.abc import TaskGroup
from msgspec import Struct


class Listing:
    """For people, each file with a checksum: made when it is first asked for. What it is made of is large, and forgotten then."""

    def __init__(self, make: Callable[[], Mapping[str, str]]) -> None:
        self._make: Callable[[], Mapping[str, str]] | None = make
        self._made: Mapping[str, str] = {}

    def __call__(self) -> Mapping[str, str]:
        if self._make is not None:
            self._made, self._make = self._make(), None
        return self._made


async def _nothing() -> None:
    pass


class FilesKey(Struct, frozen=True):
    """What a step takes from somewhere: a digest of it, and what is in it. That is to be `prepare`d before it is asked for."""

    digest: str
    listing: Callable[[], Mapping[str, str]] = dict
    prepare: Callable[[], Awaitable[None]] = _nothing


class Later:
    """A listing that needs to be looked for first."""

    def __init__(self, look: Callable[[], Awaitable[tuple[str, Callable[[], Mapping[str, str]]]]]) -> None:
        self._look = look
        self._looked = False
        self.listing: Callable[[], Mapping[str, str]] = dict

    async def prepare(self) -> None:
        """Looks, once."""
        if not self._looked:
            _, self.listing = await self._look()
            self._looked = True


class Once:
    """Something that is started once, beside the rest: at the latest when there are as many entries as `many`."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], tasks: TaskGroup, many: int) -> None:
        self._many = many
        self._work = work
        self._tasks = tasks
        self._started = False

    def start(self) -> None:
        """Starts it, unless that is done."""
        if not self._started:
            self._started = True
            self._tasks.start_soon(self._work)

    def told(self, count: int) -> None:
        """Starts it if there are as many. To be called in a thread."""
        if count >= self._many and not self._started:
            from anyio import from_thread  # here, since few builds take as much from where nothing is known

            from_thread.run_sync(self.start)
