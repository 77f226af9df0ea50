"""The event loop of a command: uvloop, and signals that end the work in order."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """The work was canceled by a signal, and has cleaned up. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Runs `work` to its end in a loop of its own.

    SIGINT and SIGTERM cancel it; when it has cleaned up, `Interrupted` is raised. A second signal ends the process at once.
    """
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_supervised(work))


async def _supervised(work: Callable[[], Awaitable[T]]) -> T:
    import asyncio

    import anyio

    received: list[int] = []
    results: list[T] = []
    scope = anyio.CancelScope()

    def on_signal(number: int) -> None:
        if received:
            _end_at_once(number)
        received.append(number)
        scope.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        with scope:
            results.append(await work())
    except BaseException:
        if not received:
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    if not results:
        raise Interrupted(received[0])
    return results[0]


def _end_at_once(number: int) -> None:
    import os

    os._exit(128 + number)
