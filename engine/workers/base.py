"""The workers' contract: processes that touch files whose owners matter, and that start what RUN runs.

As root they are plain processes or live in a user namespace that maps every id to itself; as an ordinary user they live in a
user namespace of their own. The event-loop process never reads or writes root filesystems itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from engine.isolate.base import Environment, RunOutcome, RunSpec

T = TypeVar("T")

OutputSink = Callable[[int, bytes], None]
"""Called in the event loop with a stream's number (1 or 2) and bytes as they come."""


class Workers(Protocol):
    """A pool of worker processes, started when first needed. One call is one job in one process."""

    async def environment(self) -> Environment:
        """What the probe found (it is made once)."""

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Runs a module-level function in a worker and returns what it returns, or raises what it raises. Arguments and result
        are pickled. At most `Limits.workers` jobs run at once. Cancelling kills the process that runs the job."""

    def run(self, spec: RunSpec, output: OutputSink) -> AbstractAsyncContextManager[RunOutcome]:
        """Runs a command in isolation, until the context is entered: then no process of it is left, and all that it has written is
        in its root. When the context is left, or entering it is cancelled, nothing is mounted any more either, and the root may
        be moved or removed. Raises `IsolationError` when the command cannot be started for a reason that is not the command's
        own."""

    async def aclose(self) -> None:
        """Ends all processes."""
