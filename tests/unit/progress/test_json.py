"""JSON progress: an object for each event."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any, get_args

import pytest

from engine.progress.events import (
    BuildFinished,
    BuildStarted,
    Event,
    Note,
    StepFinished,
    StepOutput,
    StepProgress,
    StepStarted,
    Warned,
)
from engine.progress.json import JsonRenderer, name_of


def shown(*events: Event) -> list[dict[str, Any]]:
    stream = StringIO()
    renderer = JsonRenderer(stream)
    for event in events:
        renderer(event)
    renderer.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("event", "value"),
    [
        (BuildStarted(0.0, 3), {"event": "build_started", "time": 0.0, "steps": 3}),
        (StepStarted(0.5, "s", "RUN x"), {"event": "step_started", "time": 0.5, "step": "s", "name": "RUN x"}),
        (StepProgress(0.5, "s", "blob", 1, 2),
         {"event": "step_progress", "time": 0.5, "step": "s", "what": "blob", "done": 1, "total": 2}),
        (StepFinished(0.5, "s", "failed", "bad", "d"),
         {"event": "step_finished", "time": 0.5, "step": "s", "status": "failed", "error": "bad", "detail": "d"}),
        (Warned(0.5, "m", "Rule", 2), {"event": "warned", "time": 0.5, "message": "m", "rule": "Rule", "line": 2}),
        (Note(0.1234567, "m"), {"event": "note", "time": 0.123457, "message": "m"}),
        (BuildFinished(0.5, True, "sha256:x"), {"event": "build_finished", "time": 0.5, "ok": True, "digest": "sha256:x"}),
        (StepOutput(0.5, "s", 2, b"x\n"), {"event": "step_output", "time": 0.5, "step": "s", "stream": 2, "text": "x\n"}),
    ],
)
def test_each_event(event: Event, value: dict[str, Any]) -> None:
    assert shown(event) == [value]


def test_every_kind_of_event_has_its_own_name() -> None:
    kinds = get_args(Event)
    assert len({name_of(kind) for kind in kinds}) == len(kinds) == 10


def test_a_character_waits_until_it_is_whole() -> None:
    events = shown(StepOutput(0.0, "s", 1, b"a\xe2\x82"), StepOutput(0.1, "s", 2, b"-"), StepOutput(0.2, "s", 1, b"\xac"))
    assert [(e["stream"], e["text"]) for e in events] == [(1, "a"), (2, "-"), (1, "€")]


def test_half_a_character_is_shown_when_the_step_ends() -> None:
    events = shown(StepOutput(0.0, "s", 1, b"\xe2"), StepFinished(1.0, "s", "done"))
    assert [e["event"] for e in events] == ["step_output", "step_finished"]
    assert events[0]["text"] == "\ufffd"


def test_a_path_that_is_not_utf8() -> None:
    assert shown(Note(0.0, "no such file: \udcff"))[0]["message"] == "no such file: ?"
