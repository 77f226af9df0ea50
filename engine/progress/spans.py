"""Where time goes, for whoever wants to know: stretches of work, told to the one who records in the present context, if any.

A context variable, since workers and connections are shared by builds: a piece of work is told to the build that asked for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Record = Callable[[str, str, float, float], None]
"""Told of a lane (`network`, `workers`), what was done there, and its beginning and end in seconds of `time.monotonic`."""

_record: ContextVar[Record | None] = ContextVar("record", default=None)


@contextmanager
def recording(record: Record) -> Iterator[None]:
    """Has what happens in this context recorded, and in the tasks that are begun in it."""
    token = _record.set(record)
    try:
        yield
    finally:
        _record.reset(token)


@contextmanager
def span(lane: str, name: str) -> Iterator[None]:
    """Tells of the work that is its body."""
    record = _record.get()
    if record is None:
        yield
        return
    began = time.monotonic()
    try:
        yield
    finally:
        record(lane, name, began, time.monotonic())
