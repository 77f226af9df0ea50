"""Progress for logs: nothing is ever overwritten, and every line names its step, as with BuildKit's plain progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TextIO

from engine.progress import units
from engine.progress.events import (
    BuildFinished,
    Event,
    Note,
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


@dataclass(slots=True)
class _Step:
    number: int
    started: float
    buffers: dict[int, LineBuffer] = field(default_factory=dict)
    transfers: dict[str, float] = field(default_factory=dict)


class PlainRenderer:
    """Writes lines to `stream`; `colour` keeps the colours of what steps write."""

    shows_output = True

    def __init__(self, stream: TextIO, *, colour: bool = True) -> None:
        self._stream = stream
        self._colour = colour
        self._steps: dict[str, _Step] = {}
        self._notices = Notices()
        self._written = False

    def __call__(self, event: Event) -> None:
        match event:
            case StepOutput():
                self._output(event)
            case StepStarted():
                step = self._step(event.step, event.time)
                self._write([*([""] if self._written else ()), f"#{step.number} {clean(event.name, colour=False)}"])
            case StepProgress():
                self._transfer(event)
            case StepFinished():
                self._finish(event)
            case Warned():
                self._notices.add(event)
            case Note():
                self._write([f"note: {clean(event.message, colour=False)}"])
            case BuildFinished():
                self.close()

    def tick(self) -> None:
        """Logs have no clock."""

    def close(self) -> None:
        """Writes begun lines and warnings."""
        for step in self._steps.values():
            self._flush(step, step.started)
        lines = self._notices.take()
        if lines:
            self._write(["", *lines])

    def _step(self, name: str, time: float) -> _Step:
        step = self._steps.get(name)
        if step is None:
            step = self._steps[name] = _Step(len(self._steps) + 1, time)
        return step

    def _write(self, lines: list[str]) -> None:
        if lines:
            self._written = True
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()

    def _output(self, event: StepOutput) -> None:
        step = self._step(event.step, event.time)
        buffer = step.buffers.setdefault(event.stream, LineBuffer())
        self._lines(step, event.time, buffer.feed(event.data))

    def _lines(self, step: _Step, time: float, lines: list[str]) -> None:
        head = f"#{step.number} {max(time - step.started, 0.0):.3f} "
        self._write([(head + clean(line, colour=self._colour)).rstrip(" ") for line in lines])

    def _flush(self, step: _Step, time: float) -> None:
        for buffer in step.buffers.values():
            self._lines(step, time, buffer.flush())

    def _transfer(self, event: StepProgress) -> None:
        step = self._step(event.step, event.time)
        complete = event.total > 0 and event.done >= event.total
        last = step.transfers.setdefault(event.what, event.time)
        if last == float("inf") or (not complete and event.time - last < TRANSFER_INTERVAL):
            return
        step.transfers[event.what] = float("inf") if complete else event.time
        amount = units.size(event.total) + " done" if complete else units.transferred(event.done, event.total)
        self._write([f"#{step.number} {clean(event.what, colour=False)} {amount}"])

    def _finish(self, event: StepFinished) -> None:
        step = self._step(event.step, event.time)
        self._flush(step, event.time)
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
