"""The trace of a build: what is in it, and that no two things that overlap are in one row."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from engine.errors import StorageError
from engine.progress.events import BuildStarted, StepFinished, StepStarted
from engine.progress.spans import recording, span
from engine.progress.trace import Trace


def spans(trace: Trace) -> list[dict[str, object]]:
    return [event for event in json.loads(trace.to_json())["traceEvents"] if event["ph"] == "X"]


def rows(trace: Trace) -> dict[int, str]:
    found = json.loads(trace.to_json())["traceEvents"]
    return {event["tid"]: event["args"]["name"] for event in found if event["name"] == "thread_name"}


def test_work_that_overlaps_has_rows_of_its_own_and_work_that_follows_shares_one() -> None:
    trace = Trace()
    for began, ended in ((10.0, 14.0), (11.0, 12.0), (12.0, 13.0), (14.0, 15.0)):
        trace.span("network", f"{began}", began, ended)
    assert list(rows(trace).values()) == ["network 1", "network 2"]
    assert [rows(trace)[s["tid"]] for s in spans(trace)] == ["network 1", "network 2", "network 2", "network 1"]  # type: ignore[index]
    assert [s["dur"] for s in spans(trace)] == [4_000_000, 1_000_000, 1_000_000, 1_000_000]


def test_a_step_is_a_stretch_with_how_it_ended() -> None:
    trace = Trace()
    trace(BuildStarted(0.0, 1))
    trace(StepStarted(0.1, "a", "[1/1] RUN true"))
    trace(StepFinished(0.2, "a", "failed", "exit code 1"))
    step = spans(trace)[-1]
    assert (step["name"], step["cat"], step["args"]) == ("[1/1] RUN true", "steps", {"status": "failed", "error": "exit code 1"})


async def test_tasks_tell_the_recorder_of_the_context_they_were_begun_in() -> None:
    one, other = Trace(), Trace()

    async def work(name: str) -> None:
        with span("workers", name):
            await asyncio.sleep(0)

    with recording(one.span):
        first = asyncio.create_task(work("for one"))
    with recording(other.span):
        second = asyncio.create_task(work("for the other"))
    await asyncio.gather(first, second, work("for nobody"))
    assert [s["name"] for s in spans(one)] == ["for one"]
    assert [s["name"] for s in spans(other)] == ["for the other"]


def test_work_that_fails_is_told_too() -> None:
    trace = Trace()
    with recording(trace.span), pytest.raises(ValueError), span("workers", "pack"):
        raise ValueError
    assert [s["name"] for s in spans(trace)] == ["pack"]


def test_a_file_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        Trace().write(tmp_path / "missing" / "trace.json")
