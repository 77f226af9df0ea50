"""Puts times on events: the one thing the solver tells what happens."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Literal

from engine.progress.events import (
    BuildFinished,
    BuildStarted,
    Event,
    MountCarried,
    Note,
    Sink,
    StepExplained,
    StepFinished,
    StepOutput,
    StepProgress,
    StepStarted,
    Warned,
)


class Reporter:
    """Sends a build's events to a sink. `clock` gives seconds, from any beginning."""

    def __init__(self, sink: Sink | None, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._clock = clock
        self._began = clock()
        self._said: set[str] = set()
        self._prefix = ""

    def within(self, prefix: str) -> Reporter:
        """The same, for steps all of whose ids and names are to begin with `prefix`."""
        inner = copy(self)
        inner._prefix = self._prefix + prefix
        return inner

    @property
    def now(self) -> float:
        """Seconds since the build began."""
        return self._clock() - self._began

    def _emit(self, event: Event) -> None:
        if self._sink:
            self._sink(event)

    def started(self, steps: int) -> None:
        """The plan is known."""
        self._emit(BuildStarted(self.now, steps))

    def step(self, step: str, name: str) -> None:
        """A step begins."""
        self._emit(StepStarted(self.now, self._prefix + step, self._prefix + name))

    def output(self, step: str, stream: int, data: bytes) -> None:
        """A step's process wrote something."""
        self._emit(StepOutput(self.now, self._prefix + step, stream, data))

    def progress(self, step: str, what: str, done: int, total: int) -> None:
        """A transfer of a step goes on."""
        self._emit(StepProgress(self.now, self._prefix + step, what, done, total))

    def finished(self, step: str, status: Literal["done", "cached", "failed", "canceled"], error: str = "",
                 detail: str = "") -> None:  # fmt: skip
        """A step ended."""
        self._emit(StepFinished(self.now, self._prefix + step, status, error, detail))

    def explained(self, step: str, name: str, key: str, *, tier: str = "", age: float = 0.0,
                  reasons: tuple[str, ...] = ()) -> None:  # fmt: skip
        """Where a step's result was found, or why it was not."""
        self._emit(StepExplained(self.now, self._prefix + step, self._prefix + name, tier, key, age, reasons))

    def carried(self, what: Literal["restored", "saved"], id: str, files: int, size: int, moved: int) -> None:
        """A cache mount came from a registry, or went there."""
        self._emit(MountCarried(self.now, what, id, files, size, moved))

    def warn(self, message: str, rule: str = "", line: int = 0) -> None:
        """Something the user should know; said once a build."""
        if f"{rule}:{line}:{message}" not in self._said:
            self._said.add(f"{rule}:{line}:{message}")
            self._emit(Warned(self.now, message, rule, line))

    def note(self, message: str) -> None:
        """A choice that was made."""
        if message not in self._said:
            self._said.add(message)
            self._emit(Note(self.now, message))

    def ended(self, ok: bool, digest: str = "") -> None:
        """The build is over."""
        self._emit(BuildFinished(self.now, ok, digest))
