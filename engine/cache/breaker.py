"""How long a build puts up with a cache that is out of order: once, and not again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from engine.errors import ContentError, EngineError, NotFoundError

_SLOW = 1.0
"""Seconds from which on a call that went well counts as time lost."""


class Breaker:
    """Whether something is still worth calling. It is not after one failure, nor when the calls that went well but slowly have
    taken `timeout` seconds together. Says so once, through `warn`."""

    def __init__(self, what: str, timeout: float, warn: Callable[[str], None]) -> None:
        self._what = what
        self._timeout = timeout
        self._warn = warn
        self._lost = 0.0
        self._found_broken = False
        self.open = False

    def failed(self, why: str) -> None:
        """A call failed."""
        if not self.open:
            self.open = True
            self._warn(f"{self._what}: {why}; it is left alone for the rest of this build")

    def timed_out(self) -> None:
        """A call took longer than the timeout."""
        self.failed(f"no answer within {self._timeout:g} seconds")

    def took(self, seconds: float) -> None:
        """A call went well."""
        if seconds >= _SLOW:
            self._lost += seconds
            if self._lost > self._timeout:
                self.failed("its answers are too slow")

    def broken(self, why: str) -> None:
        """Something in it is not what it should be, which is no reason to leave the rest alone."""
        if not self._found_broken:
            self._found_broken = True
            self._warn(f"{self._what}: {why}; what is broken counts as absent")


@asynccontextmanager
async def guarded(breaker: Breaker, seconds: float) -> AsyncIterator[None]:
    """A call to a cache that may take so long: what goes wrong opens the breaker, but for two answers that are none of its
    faults, `NotFoundError` and `ContentError`."""
    begun = anyio.current_time()
    with anyio.move_on_after(seconds) as scope:
        try:
            yield
        except (NotFoundError, ContentError):
            breaker.took(anyio.current_time() - begun)
            raise
        except EngineError as error:
            breaker.failed(str(error))
    if scope.cancelled_caught:
        breaker.timed_out()
    else:
        breaker.took(anyio.current_time() - begun)
