"""Equal work at one time is done once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import anyio

from engine.errors import RegistryError

T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.turn = anyio.Lock()
        self.aboard = 0
        self.result: list[T] = []
        self.error: RegistryError | None = None


class SingleFlight(Generic[T]):
    """Work under keys. The first to come does the work; who comes before it ends shares its result or its `RegistryError`.
    When the one who works is cancelled, the next one takes over."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    async def run(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The result of the work, and whether this call did it."""
        flight = self._flights.setdefault(key, _Flight())
        flight.aboard += 1
        try:
            async with flight.turn:
                if flight.result:
                    return flight.result[0], False
                if flight.error is not None:
                    error = flight.error
                    raise type(error)(error.message, status=error.status, hint=error.hint) from error
                try:
                    result = await work()
                except RegistryError as error:
                    flight.error = error
                    raise
                flight.result.append(result)
                return result, True
        finally:
            flight.aboard -= 1
            if not flight.aboard and self._flights.get(key) is flight:
                del self._flights[key]
