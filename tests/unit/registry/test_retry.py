"""Patience with registries, on a clock of the test's own."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from engine.registry.retry import Attempts, Patience, TransientError, parse_retry_after


class Clock:
    """Sleeping takes no time but moves the hands."""

    def __init__(self, chance: float = 1.0) -> None:
        self.time, self.slept, self.chance = 1000.0, list[float](), chance

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time

    def random(self) -> float:
        return self.chance

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


async def exhaust(attempts: Attempts, error: TransientError) -> TransientError:
    """Fails in the same way until the attempts give up."""
    with pytest.raises(TransientError) as raised:
        for _ in range(1000):
            await attempts.pause(error)
    return raised.value


async def test_delays_double_up_to_the_longest_and_the_count_is_bounded() -> None:
    clock = Clock()
    error = await exhaust(Attempts(Patience(attempts=8, budget=1e9, first=0.5, longest=4), clock), TransientError("down"))
    assert clock.slept == [0.5, 1, 2, 4, 4, 4, 4]
    assert error.message == "down; gave up after 8 attempts"


async def test_chance_halves_a_delay_at_most() -> None:
    clock = Clock(chance=0.0)
    await exhaust(Attempts(Patience(attempts=3, first=1), clock), TransientError("down"))
    assert clock.slept == [0.5, 1]


async def test_the_budget_counts_from_the_first_failure() -> None:
    clock = Clock()
    attempts = Attempts(Patience(attempts=99, budget=10, first=4, longest=4), clock)
    clock.time += 3600  # a long transfer before anything failed
    await exhaust(attempts, TransientError("down"))
    assert clock.slept == [4, 4]


async def test_retry_after_is_obeyed_and_one_beyond_the_budget_ends_it_at_once() -> None:
    clock = Clock()
    attempts = Attempts(Patience(budget=60), clock)
    await attempts.pause(TransientError("busy", retry_after=30))
    assert clock.slept == [30]
    with pytest.raises(TransientError) as raised:
        await Attempts(Patience(budget=60), clock).pause(TransientError("busy", retry_after=3600))
    assert "3600 s" in (raised.value.hint or "")
    assert clock.slept == [30]


async def test_a_registry_that_was_never_reached_gets_less_patience() -> None:
    clock = Clock()
    await exhaust(Attempts(Patience(), clock), TransientError("refused", reached=False))
    assert len(clock.slept) == 2
    assert sum(clock.slept) < 1


async def test_a_connection_that_takes_its_whole_time_out_is_not_tried_again() -> None:
    clock = Clock()
    attempts = Attempts(Patience(unreached_budget=5), clock)
    clock.time += 15
    await exhaust(attempts, TransientError("no connection in time", reached=False))
    assert clock.slept == []


async def test_progress_renews_the_patience() -> None:
    clock = Clock()
    attempts = Attempts(Patience(attempts=2, first=1), clock)
    for _ in range(10):
        await attempts.pause(TransientError("cut"))
        attempts.progressed()
    assert clock.slept == [1] * 10


@pytest.mark.parametrize(("value", "expected"), [
    ("0", 0.0), ("120", 120.0), (" 7 ", 7.0), (formatdate(1060, usegmt=True), 60.0), (formatdate(900, usegmt=True), 0.0),
    ("", None), ("soon", None), ("-5", None), ("1e9", None), ("٣", None), ("9" * 400, 1e8),
])  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value: str, expected: float | None) -> None:
    assert parse_retry_after(value, 1000.0) == expected
