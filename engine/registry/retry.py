"""How long a registry is waited for: what may be tried again, when, and when to give up. The clock is passed in."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

import anyio
from msgspec import Struct

from engine.errors import Location, RegistryError

TRANSIENT_STATUSES: Mapping[int, str] = {
    408: "request timeout", 425: "too early", 429: "too many requests", 499: "client closed request",
    500: "internal server error", 502: "bad gateway", 503: "service unavailable", 504: "gateway timeout",
    520: "web server error", 521: "web server down", 522: "connection timed out", 523: "origin unreachable",
    524: "timeout", 529: "overloaded", 530: "origin error",
}  # fmt: skip
"""The answers after which the same request may well succeed (the 52x are those of a well-known proxy service)."""


class TransientError(RegistryError):
    """A failure that may pass. `retry_after` is the least number of seconds the registry asks to wait; `reached` says
    whether there was a connection at all: a registry that was never there gets less patience."""

    def __init__(self, message: str, *, status: int = 0, hint: str | None = None, location: Location | None = None,
                 retry_after: float | None = None, reached: bool = True) -> None:
        super().__init__(message, status=status, hint=hint, location=location)
        self.retry_after = retry_after
        self.reached = reached


class Clock(Protocol):
    """Time and chance, so that tests have their own."""

    def now(self) -> float:
        """Seconds that only go forward."""

    def wall(self) -> float:
        """Seconds since the epoch."""

    def random(self) -> float:
        """A number from 0 up to but not including 1."""

    async def sleep(self, seconds: float) -> None:
        """Waits."""


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def random(self) -> float:
        from random import random  # here, as below: most builds need neither

        return random()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class Patience(Struct, frozen=True):
    """Limits of one request's tries. `budget` is seconds from the first failure to the start of the last try; for a registry
    that cannot be reached at all, `unreached_attempts` and `unreached_budget` (from the beginning) hold instead."""

    attempts: int = 7
    budget: float = 120.0
    first: float = 0.25
    longest: float = 15.0
    unreached_attempts: int = 3
    unreached_budget: float = 5.0

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after the n-th failure (n ≥ 1): doubling, and somewhere between half of that and all of it."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 30)) * (0.5 + chance / 2)


class Attempts:
    """The tries of one request: made before the first, told of each failure."""

    def __init__(self, patience: Patience, clock: Clock) -> None:
        self._patience = patience
        self._clock = clock
        self._began = clock.now()
        self._first_failure: float | None = None
        self._failures = 0

    def progressed(self) -> None:
        """What was asked for came nearer: the count and the budget begin again."""
        self._failures, self._first_failure, self._began = 0, None, self._clock.now()

    async def pause(self, error: TransientError) -> None:
        """Waits before the next try; raises the error when there shall be none."""
        now, patience = self._clock.now(), self._patience
        self._failures += 1
        if self._first_failure is None:
            self._first_failure = now
        since, most, budget = self._first_failure, patience.attempts, patience.budget
        if not error.reached:
            since, most, budget = self._began, patience.unreached_attempts, patience.unreached_budget
        delay = max(patience.delay(self._failures, self._clock.random()), error.retry_after or 0.0)
        if self._failures >= most or now + delay - since > budget:
            if error.retry_after is not None and error.retry_after > budget:
                error.hint = f"the registry asks to wait {error.retry_after:.0f} s before the next request"
            elif self._failures > 1:
                error.message += f"; gave up after {self._failures} attempts"
            raise error
        await self._clock.sleep(delay)


def parse_retry_after(value: str, wall: float) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, section 10.2.3): a number or a date; None when it is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(min(int(value[:9]), 10**8))
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - wall)
    except (ValueError, TypeError, OverflowError):
        return None
