"""Plain progress, letter by letter."""

from __future__ import annotations

from io import StringIO

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
from engine.progress.plain import PlainRenderer


def shown(*events: Event, colour: bool = True) -> str:
    stream = StringIO()
    renderer = PlainRenderer(stream, colour=colour)
    for event in events:
        renderer(event)
    renderer.close()
    return stream.getvalue()


def test_a_build_with_every_kind_of_end() -> None:
    assert shown(
        BuildStarted(0.0, 4),
        Note(0.0, "userns: root, all ids mapped"),
        StepStarted(0.0, "a", "[1/3] FROM base"),
        StepFinished(0.1, "a", "cached"),
        StepStarted(0.1, "b", "[2/3] RUN make"),
        StepOutput(0.223, "b", 1, b"cc -c a.c\ncc -c b.c\n"),
        StepFinished(1.3, "b", "done", detail="1.05MB"),
        StepStarted(1.3, "c", "[3/3] RUN false"),
        StepOutput(1.4, "c", 2, b"oh no"),
        StepFinished(1.5, "c", "failed", error="process \"/bin/sh -c false\" did not\ncomplete"),
        StepStarted(1.5, "d", "[other] RUN sleep"),
        StepFinished(1.5, "d", "canceled"),
        BuildFinished(1.5, ok=False),
    ) == (
        "note: userns: root, all ids mapped\n"
        "\n#1 [1/3] FROM base\n#1 CACHED\n"
        "\n#2 [2/3] RUN make\n#2 0.123 cc -c a.c\n#2 0.123 cc -c b.c\n#2 DONE 1.2s (1.05MB)\n"
        "\n#3 [3/3] RUN false\n#3 0.200 oh no\n#3 ERROR: process \"/bin/sh -c false\" did not complete\n"
        "\n#4 [other] RUN sleep\n#4 CANCELED\n"
    )


def test_steps_side_by_side_keep_their_lines_apart() -> None:
    assert shown(
        StepStarted(0.0, "a", "A"),
        StepStarted(0.0, "b", "B"),
        StepOutput(0.1, "a", 1, b"from "),
        StepOutput(0.1, "b", 1, b"other\n"),
        StepOutput(0.2, "a", 2, b"error\n"),
        StepOutput(0.3, "a", 1, b"a\n"),
        StepFinished(0.4, "a", "done"),
        StepFinished(0.4, "b", "done"),
    ) == ("#1 A\n\n#2 B\n#2 0.100 other\n#1 0.200 error\n#1 0.300 from a\n#1 DONE 0.4s\n\n#2 B\n#2 DONE 0.4s\n")


def test_a_step_that_is_said_to_start_twice_is_one() -> None:
    assert shown(
        StepStarted(0.0, "a", "A"),
        StepOutput(0.1, "a", 1, b"x\n"),
        StepStarted(0.2, "a", "A"),
        StepFinished(1.0, "a", "failed", "e"),
    ) == "#1 A\n#1 0.100 x\n#1 ERROR: e\n"


def test_what_ends_at_once_stands_in_one_piece() -> None:
    assert shown(
        StepStarted(0.0, "a", "A"),
        StepStarted(0.0, "b", "B"),
        StepStarted(0.0, "c", "C"),
        StepFinished(0.1, "b", "cached"),
        StepFinished(0.1, "c", "cached"),
        StepFinished(0.2, "a", "done"),
    ) == "#1 B\n#1 CACHED\n\n#2 C\n#2 CACHED\n\n#3 A\n#3 DONE 0.2s\n"


def test_a_silent_step_is_announced_after_a_moment() -> None:
    now, stream = [50.0], StringIO()
    renderer = PlainRenderer(stream, clock=lambda: now[0])
    renderer(StepStarted(0.0, "a", "RUN sleep"))
    renderer(StepStarted(0.1, "b", "RUN other"))
    renderer.tick()
    assert stream.getvalue() == ""
    now[0] = 50.5
    renderer.tick()
    assert stream.getvalue() == "#1 RUN sleep\n"
    renderer(Note(0.7, "n"))
    assert stream.getvalue() == "#1 RUN sleep\nnote: n\n\n#2 RUN other\n"


def test_colours_stay_and_the_screen_is_not_cleared() -> None:
    data = b"\x1b[2J\x1b[32mok\x1b[0m\n"
    events = (StepStarted(0.0, "a", "A"), StepOutput(0.0, "a", 1, data))
    assert shown(*events) == "#1 A\n#1 0.000 \x1b[32mok\x1b[0m\x1b[0m\n"
    assert shown(*events, colour=False) == "#1 A\n#1 0.000 ok\n"


def test_a_name_cannot_write_to_the_terminal() -> None:
    assert shown(StepStarted(0.0, "a", "RUN \x1b[31mx\n#9 DONE")) == "#1 RUN x#9 DONE\n"


def test_transfers_are_told_every_two_seconds_and_at_their_end() -> None:
    assert shown(
        StepStarted(0.0, "a", "FROM base"),
        StepProgress(0.0, "a", "sha256:abc", 0, 4_000_000),
        StepProgress(1.0, "a", "sha256:abc", 1_000_000, 4_000_000),
        StepProgress(2.5, "a", "sha256:abc", 2_000_000, 4_000_000),
        StepProgress(3.0, "a", "sha256:abc", 4_000_000, 4_000_000),
        StepProgress(3.1, "a", "sha256:abc", 4_000_000, 4_000_000),
        StepProgress(3.1, "a", "context", 10, 0),
        StepProgress(5.2, "a", "context", 2_000, 0),
    ) == "#1 FROM base\n#1 sha256:abc 2.00MB / 4.00MB\n#1 sha256:abc 4.00MB done\n#1 context 2.00kB\n"


def test_warnings_come_once_at_the_end() -> None:
    warned = Warned(0.0, "'as' and 'FROM' keywords' casing do not match", "FromAsCasing", 3)
    assert shown(warned, warned, Warned(0.0, "second"), StepStarted(0.0, "a", "A"), BuildFinished(0.0, ok=True)) == (
        "#1 A\n\n2 warnings found:\n - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 3)\n - second\n"
    )
