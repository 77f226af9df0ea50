"""Progress for a person at a terminal: running steps are drawn at the bottom, ten times a second at most, with their time,
transfers and last lines of output; finished ones scroll up and stay."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from msgspec import Struct, field

from engine.progress import explained, units
from engine.progress.events import (
    BuildFinished,
    BuildStarted,
    Event,
    Note,
    StepExplained,
    StepFinished,
    StepOutput,
    StepProgress,
    StepStarted,
    Warned,
)
from engine.progress.lines import RESET, LineBuffer, clean
from engine.progress.notices import Notices
from engine.progress.screen import Screen, cut, width_of

INTERVAL = 0.1
LIVE_LINES, KEPT_LINES = 6, 20
"""Lines of a step's output that are shown while it runs, and when it has failed."""
_BLUE, _RED, _YELLOW, _FAINT = "\x1b[34m", "\x1b[31m", "\x1b[33m", "\x1b[2m"


class _Step(Struct):
    name: str
    started: float
    buffers: dict[int, LineBuffer] = field(default_factory=dict)
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    transfers: dict[str, tuple[int, int]] = field(default_factory=dict)

    def tail(self) -> list[str]:
        """The last lines, with those that are begun."""
        return [*self.lines, *(b.pending for b in self.buffers.values() if b.pending)]


class TtyRenderer:
    """Draws on `stream`, a terminal. `size` gives its columns and rows, `clock` seconds that never go back."""

    shows_output = True

    def __init__(self, stream: TextIO, size: Callable[[], tuple[int, int]], *, colour: bool = True,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = Screen(stream, size)
        self._colour = colour
        self._clock = clock
        self._drawn_at = float("-inf")
        self._zero: float | None = None
        self._running: dict[str, _Step] = {}
        self._scrolled: list[str] = []
        self._notices = Notices()
        self._done = self._total = 0
        self._end: BuildFinished | None = None
        self._closed = False

    def __call__(self, event: Event) -> None:
        if self._zero is None:
            self._zero = self._clock() - event.time
        match event:
            case StepOutput():
                self._output(event)
            case StepProgress():
                self._transfer(event)
            case StepStarted() if event.step not in self._running:
                self._running[event.step] = _Step(clean(event.name, colour=False), event.time)
                self._total = max(self._total, self._done + len(self._running))
            case StepFinished():
                self._finish(event)
            case BuildStarted():
                self._total = max(self._total, event.steps)
            case StepExplained():
                self._scrolled += [self._paint(_FAINT, f" {clean(event.name, colour=False)}: {line}")
                                   for line in explained.lines(event)]  # fmt: skip
            case Warned():
                self._notices.add(event)
            case Note():
                self._scrolled.append(self._paint(_FAINT, f" note: {clean(event.message, colour=False)}"))
            case BuildFinished():
                self._end = event
                self.close()
        self.tick()

    def tick(self) -> None:
        """Draws, unless that was done less than a tenth of a second ago."""
        now = self._clock()
        if self._closed or now - self._drawn_at < INTERVAL:
            return
        self._drawn_at = now
        scrolled, self._scrolled = self._scrolled, []
        self._screen.draw(scrolled, self._block(now - (self._zero if self._zero is not None else now)))

    def close(self) -> None:
        """Removes the running steps, and leaves what they wrote if they were not seen to end; then the warnings."""
        if self._closed:
            return
        self._closed = True
        for step in self._running.values():
            self._scrolled += [f" => {step.name}", *self._tail(step, KEPT_LINES)]
        if self._zero is not None:
            elapsed = self._end.time if self._end else self._clock() - self._zero
            state = "" if self._end is None else " FINISHED" if self._end.ok else " FAILED"
            self._scrolled.append(f"[+] Building {units.duration(elapsed)} ({self._done}/{self._total}){state}")
        warnings = self._notices.take()
        if warnings:
            self._scrolled += ["", *(self._paint(_YELLOW, line) for line in warnings)]
        self._screen.draw(self._scrolled, [])

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{RESET}" if self._colour else text

    def _block(self, now: float) -> list[str]:
        columns, rows = self._screen.size
        block = [f"[+] Building {units.duration(now)} ({self._done}/{self._total})"]
        groups = [self._group(step, now, columns) for step in self._running.values()]
        room = rows - 1 - len(block)
        while sum(map(len, groups)) > room and any(len(group) > 1 for group in groups):
            max(groups, key=len).pop(1)  # the oldest line of the step that shows most
        if len(groups) > room:
            hidden = len(groups) - room + 1
            groups[room - 1 :] = [[f" => … {hidden} more"]]
        return block + [line for group in groups for line in group]

    def _group(self, step: _Step, now: float, columns: int) -> list[str]:
        transfers = [f" => => {what} {units.transferred(*amount)}" for what, amount in step.transfers.items()]
        return [_ended(f" => {step.name}", units.duration(now - step.started), columns - 1), *transfers[:LIVE_LINES],
                *self._tail(step, LIVE_LINES)]

    def _tail(self, step: _Step, count: int) -> list[str]:
        return [f" => => # {clean(line.expandtabs(), colour=self._colour)}" for line in step.tail()[-count:]]

    def _output(self, event: StepOutput) -> None:
        step = self._step(event.step, event.time)
        step.lines.extend(step.buffers.setdefault(event.stream, LineBuffer()).feed(event.data))

    def _transfer(self, event: StepProgress) -> None:
        step = self._step(event.step, event.time)
        what = clean(event.what, colour=False)
        if event.total and event.done >= event.total:
            step.transfers.pop(what, None)
        else:
            step.transfers[what] = (event.done, event.total)

    def _step(self, name: str, time: float) -> _Step:
        return self._running.setdefault(name, _Step(name, time))

    def _finish(self, event: StepFinished) -> None:
        step = self._running.pop(event.step, None) or _Step(event.step, event.time)
        self._done += 1
        self._total = max(self._total, self._done + len(self._running))
        columns = self._screen.size[0] - 1
        word = {"done": "", "cached": "CACHED ", "failed": "ERROR ", "canceled": "CANCELED "}[event.status]
        colour = {"done": _BLUE, "cached": _BLUE, "failed": _RED, "canceled": _YELLOW}[event.status]
        detail = f" ({clean(event.detail, colour=False)})" if event.detail and event.status == "done" else ""
        line = _ended(f" => {word}{step.name}{detail}", units.duration(event.time - step.started), columns)
        self._scrolled.append(self._paint(colour, line))
        if event.status == "failed":
            self._scrolled += self._tail(step, KEPT_LINES)


def _ended(text: str, end: str, columns: int) -> str:
    """The text, cut or filled so that `end` stands at the right border."""
    text = cut(text, columns - len(end) - 1)
    return text + " " * (columns - len(end) - width_of(text)) + end
