"""A build as a trace that chrome://tracing and ui.perfetto.dev show: one row for each lane, and more where work overlaps.

The format is that of "Trace Event Format" (Google, the Catapult project): complete events with times in microseconds.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from engine import codec
from engine.errors import StorageError
from engine.progress.events import BuildStarted, Event, StepExplained, StepFinished, StepStarted, Warned

LANES = ("process", "steps", "workers", "commands", "network")
"""The order of the rows; other lanes follow."""


class _Span(NamedTuple):
    lane: str
    name: str
    began: float
    ended: float
    told: dict[str, str]


class Trace:
    """A sink for a build's events, and a recorder of spans (`engine.progress.spans`). Times count from when it was made."""

    def __init__(self) -> None:
        self._zero = time.monotonic()
        self._spans: list[_Span] = []
        self._running: dict[str, tuple[str, float]] = {}
        self._told: dict[str, dict[str, str]] = {}

    def __call__(self, event: Event) -> None:
        """Takes an event."""
        now = time.monotonic()
        if isinstance(event, BuildStarted):
            self.span("process", "start, read the Dockerfile, resolve images", self._zero, now)
        elif isinstance(event, StepStarted):
            self._running.setdefault(event.step, (event.name, now))
        elif isinstance(event, StepExplained):
            self._told[event.step] = {"why": "; ".join(event.reasons) or f"found: {event.tier}"}
        elif isinstance(event, StepFinished) and event.step in self._running:
            name, began = self._running.pop(event.step)
            told = {"status": event.status, "error": event.error, "detail": event.detail} | self._told.get(event.step, {})
            self._spans.append(_Span("steps", name, began, now, {key: text for key, text in told.items() if text}))
        elif isinstance(event, Warned):
            self._spans.append(_Span("process", f"warning: {event.message}", now, now, {}))

    def span(self, lane: str, name: str, began: float, ended: float) -> None:
        """Takes a stretch of work; times are of `time.monotonic`."""
        self._spans.append(_Span(lane, name, began, ended, {}))

    def to_json(self) -> bytes:
        """The trace as a document. Rows are added to a lane as long as something in it overlaps."""
        rows: dict[str, list[float]] = {lane: [] for lane in LANES}
        placed: list[tuple[_Span, int]] = []
        for span in sorted(self._spans, key=lambda span: span.began):
            ends = rows.setdefault(span.lane, [])
            row = next((n for n, end in enumerate(ends) if end <= span.began), len(ends))
            ends[row:row + 1] = [span.ended]
            placed.append((span, row))
        numbers = {(lane, row): n for n, (lane, row) in enumerate((lane, row) for lane, ends in rows.items()
                                                                 for row in range(len(ends)))}  # fmt: skip
        events: list[dict[str, object]] = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "aniko build"}}]
        for (lane, row), number in numbers.items():
            name = lane if len(rows[lane]) == 1 else f"{lane} {row + 1}"
            events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": {"name": name}})
            events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_sort_index", "args": {"sort_index": number}})
        for span, row in placed:
            events.append({"ph": "X", "pid": 1, "tid": numbers[span.lane, row], "name": span.name, "cat": span.lane,
                           "ts": round((span.began - self._zero) * 1e6), "dur": round((span.ended - span.began) * 1e6),
                           "args": span.told})  # fmt: skip
        return codec.encode({"traceEvents": events, "displayTimeUnit": "ms"})

    def write(self, path: Path) -> None:
        """Writes the trace to a file; raises `StorageError`."""
        try:
            path.write_bytes(self.to_json())
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
