"""Progress for logs: nothing is ever overwritten, and every line names its step, as with BuildKit's plain progress.

A step's heading comes with its first line, or when it has run for a moment, so that what ends at once stands in one piece
however many steps run side by side; it is repeated at the end of a step when others have written since.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from msgspec import Struct, field

from engine.progress import explained, units
from engine.progress.events import (
    BuildFinished,
    Event,
    Note,
    StepExplained,
    StepFinished,
    StepOutput,
    StepProgress,
    StepStarted,
    Warned,
)
from engine.progress.lines import LineBuffer, clean
from engine.progress.notices import Notices

TRANSFER_INTERVAL = 2.0
"""Seconds between two lines about one transfer."""
PATIENCE = 0.5
"""Seconds after which a step that has not written anything is announced."""


class _Step(Struct):
    name: str
    started: float
    number: int = 0
    """0 until it has a heading."""
    buffers: dict[int, LineBuffer] = field(default_factory=dict)
    transfers: dict[str, float] = field(default_factory=dict)


class PlainRenderer:
    """Writes lines to `stream`; `colour` keeps the colours of what steps write. `clock` gives seconds that never go back."""

    shows_output = True

    def __init__(self, stream: TextIO, *, colour: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._colour = colour
        self._clock = clock
        self._zero: float | None = None
        self._steps: dict[str, _Step] = {}
        self._waiting: dict[str, _Step] = {}
        self._notices = Notices()
        self._count = 0
        self._current: _Step | None = None
        self._written = False

    def __call__(self, event: Event) -> None:
        if self._zero is None:
            self._zero = self._clock() - event.time
        match event:
            case StepOutput():
                self._output(event)
            case StepStarted() if event.step not in self._steps:
                step = self._steps[event.step] = _Step(clean(event.name, colour=False), event.time)
                self._waiting[event.step] = step
            case StepProgress():
                self._transfer(event)
            case StepFinished():
                self._finish(event)
            case StepExplained():
                self._explain(event)
            case Warned():
                self._notices.add(event)
            case Note():
                self._write([f"note: {clean(event.message, colour=False)}"])
            case BuildFinished():
                self.close()
        self._announce(event.time - PATIENCE)

    def tick(self) -> None:
        """Announces steps that run without a word."""
        if self._waiting and self._zero is not None:
            self._announce(self._clock() - self._zero - PATIENCE)

    def close(self) -> None:
        """Writes what steps have begun, and warnings."""
        self._announce(float("inf"))
        for step in self._steps.values():
            self._flush(step, step.started)
        lines = self._notices.take()
        if lines:
            self._write(["", *lines])

    def _announce(self, before: float) -> None:
        for name in [name for name, step in self._waiting.items() if step.started <= before]:
            self._heading(self._waiting.pop(name))

    def _heading(self, step: _Step) -> None:
        if not step.number:
            self._count += 1
            step.number = self._count
        self._current = step
        self._write([*([""] if self._written else ()), f"#{step.number} {step.name}"])

    def _speaking(self, name: str, time: float) -> _Step:
        """The step that is to write a line, with its heading before it."""
        step = self._steps.get(name)
        if step is None:
            step = self._steps[name] = _Step("", time)
        self._waiting.pop(name, None)
        if not step.number:
            self._heading(step)
        return step

    def _write(self, lines: list[str]) -> None:
        if lines:
            self._written = True
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()

    def _output(self, event: StepOutput) -> None:
        step = self._speaking(event.step, event.time)
        buffer = step.buffers.setdefault(event.stream, LineBuffer())
        self._lines(step, event.time, buffer.feed(event.data))

    def _lines(self, step: _Step, time: float, lines: list[str]) -> None:
        if lines:
            self._current = step
        head = f"#{step.number} {max(time - step.started, 0.0):.3f} "
        self._write([(head + clean(line, colour=self._colour)).rstrip(" ") for line in lines])

    def _flush(self, step: _Step, time: float) -> None:
        for buffer in step.buffers.values():
            self._lines(step, time, buffer.flush())

    def _transfer(self, event: StepProgress) -> None:
        step = self._steps.get(event.step) or self._speaking(event.step, event.time)
        complete = event.total > 0 and event.done >= event.total
        last = step.transfers.setdefault(event.what, event.time)
        if last == float("inf") or (not complete and event.time - last < TRANSFER_INTERVAL):
            return
        step.transfers[event.what] = float("inf") if complete else event.time
        amount = units.size(event.total) + " done" if complete else units.transferred(event.done, event.total)
        self._current = self._speaking(event.step, event.time)
        self._write([f"#{step.number} {clean(event.what, colour=False)} {amount}"])

    def _explain(self, event: StepExplained) -> None:
        step = self._speaking(event.step, event.time)
        self._current = step
        self._write([f"#{step.number} {line}" for line in explained.lines(event)])

    def _finish(self, event: StepFinished) -> None:
        step = self._speaking(event.step, event.time)
        self._flush(step, event.time)
        del self._steps[event.step]
        if self._current is not step:
            self._heading(step)
        match event.status:
            case "done":
                detail = f" ({clean(event.detail, colour=False)})" if event.detail else ""
                text = f"DONE {units.duration(event.time - step.started)}{detail}"
            case "cached":
                text = "CACHED"
            case "failed":
                text = f"ERROR: {clean(event.error.replace(chr(10), ' '), colour=False)}"
            case "canceled":
                text = "CANCELED"
        self._write([f"#{step.number} {text}"])
