"""Progress on a terminal, checked against a small terminal that understands what the renderer writes, and no more."""

from __future__ import annotations

import re
from io import StringIO

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
from engine.progress.screen import cut, width_of
from engine.progress.tty import TtyRenderer

_TOKEN = re.compile(r"\x1b\[(\?25[lh]|\d+A|J|[0-9;]*m)|([^\x1b])")


class Terminal:
    """Lines without limit, and a cursor that goes up, to the left and down; a line that is too wide is broken."""

    def __init__(self, columns: int) -> None:
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0
        self.columns = columns

    def write(self, text: str) -> None:
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            assert token, f"unknown sequence: {text[at : at + 10]!r}"
            at = token.end()
            self._sequence(token[1]) if token[1] else self._character(token[2])

    def _sequence(self, code: str) -> None:
        if code.endswith("A"):
            self.row -= int(code[:-1])
            assert self.row >= 0
        elif code == "J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            del self.lines[self.row + 1 :]

    def _character(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.row, self.column = self.row + 1, 0
            if self.row == len(self.lines):
                self.lines.append([])
        else:
            assert char.isprintable()
            if self.column == self.columns:
                self._character("\n")
            self.lines[self.row][self.column :] = [char]
            self.column += 1

    def text(self) -> str:
        return "\n".join("".join(line).rstrip() for line in self.lines)


class Scene:
    """A renderer, its terminal and its time."""

    def __init__(self, columns: int = 40, rows: int = 12, *, colour: bool = False) -> None:
        self.size = (columns, rows)
        self.now = 100.0
        self.stream = StringIO()
        self.renderer = TtyRenderer(self.stream, lambda: self.size, colour=colour, clock=lambda: self.now)
        self.terminal = Terminal(columns)
        self.drawn = 0

    def at(self, time: float, *events: Event) -> str:
        """What is on the terminal when these events have come."""
        self.now = 100.0 + time
        for event in events:
            self.renderer(event)
        self.renderer.tick()
        return self.screen()

    def screen(self) -> str:
        written = self.stream.getvalue()
        self.terminal.write(written[self.drawn :])
        self.drawn = len(written)
        return self.terminal.text()


def test_running_steps_stay_below_and_finished_ones_scroll_up() -> None:
    scene = Scene()
    assert scene.at(0.0, BuildStarted(0.0, 3), StepStarted(0.0, "a", "[1/3] FROM base")) == "[+] Building 0.0s (0/3)\n"
    assert scene.at(1.0, StepProgress(1.0, "a", "sha256:abc", 1_000_000, 4_000_000)) == (
        "[+] Building 1.0s (0/3)\n"
        " => [1/3] FROM base                1.0s\n"
        " => => sha256:abc 1.00MB / 4.00MB\n"
    )
    scene.at(
        2.0, StepProgress(2.0, "a", "sha256:abc", 4_000_000, 4_000_000), StepFinished(2.0, "a", "done"),
        StepStarted(2.0, "b", "[2/3] RUN make"), StepOutput(2.0, "b", 1, b"cc a.c\ncc b"),
    )
    assert scene.at(2.2) == (
        " => [1/3] FROM base                2.0s\n"
        "[+] Building 2.2s (1/3)\n"
        " => [2/3] RUN make                 0.2s\n"
        " => => # cc a.c\n"
        " => => # cc b\n"
    )
    assert scene.at(3.0, StepFinished(3.0, "b", "cached"), BuildFinished(3.0, ok=True)) == (
        " => [1/3] FROM base                2.0s\n"
        " => CACHED [2/3] RUN make          1.0s\n"
        "[+] Building 3.0s (2/3) FINISHED\n"
    )


def test_a_failed_step_leaves_its_last_lines() -> None:
    scene = Scene()
    scene.at(0.0, StepStarted(0.0, "a", "RUN false"))
    lines = b"".join(b"line %d\n" % i for i in range(30))
    text = scene.at(1.0, StepOutput(1.0, "a", 2, lines), StepFinished(1.0, "a", "failed", "exit code: 1"),
                    BuildFinished(1.0, ok=False))
    assert text.splitlines()[0] == " => ERROR RUN false                1.0s"
    assert text.splitlines()[1:-1] == [f" => => # line {i}" for i in range(10, 30)]
    assert text.splitlines()[-1] == "[+] Building 1.0s (1/1) FAILED"


def test_it_is_drawn_ten_times_a_second_at_most() -> None:
    scene = Scene()
    scene.at(0.0, StepStarted(0.0, "a", "RUN"))
    before = scene.stream.getvalue()
    for i in range(99):
        scene.at(0.001 * i, StepOutput(0.001 * i, "a", 1, b"x\n"))
    assert scene.stream.getvalue() == before
    scene.at(0.11)
    assert scene.stream.getvalue() != before


def test_a_low_terminal_shows_every_step_before_output() -> None:
    scene = Scene(rows=5)
    scene.at(0.0, BuildStarted(0.0, 2), *(StepStarted(0.0, s, f"RUN {s}") for s in "ab"),
             StepOutput(0.0, "a", 1, b"1\n2\n3\n"))
    assert scene.at(1.0) == (
        "[+] Building 1.0s (0/2)\n"
        " => RUN a                          1.0s\n"
        " => => # 3\n"
        " => RUN b                          1.0s\n"
    )
    scene.at(2.0, *(StepStarted(0.0, s, f"RUN {s}") for s in "cde"))
    assert scene.at(2.2) == (
        "[+] Building 2.2s (0/5)\n"
        " => RUN a                          2.2s\n"
        " => RUN b                          2.2s\n"
        " => … 3 more\n"
    )


def test_a_terminal_that_becomes_narrow_is_cleared_whole() -> None:
    scene = Scene(columns=60)
    scene.at(0.0, BuildStarted(0.0, 2), StepStarted(0.0, "a", "RUN a"))
    scene.at(1.0)
    wide = scene.screen()
    scene.size = (30, 12)
    narrow = Terminal(30)
    narrow.write(wide)
    scene.terminal = narrow
    assert scene.at(2.0, StepFinished(2.0, "a", "done"), BuildFinished(2.0, ok=True)) == (
        " => RUN a                2.0s\n"
        "[+] Building 2.0s (1/2) FINISH\n"
        "ED\n"
    )


def test_long_names_are_cut_to_the_width() -> None:
    scene = Scene(columns=30)
    scene.at(0.0, StepStarted(0.0, "a", "RUN " + "漢" * 40))
    assert scene.at(1.0).splitlines()[1] == " => RUN 漢漢漢漢漢漢漢漢 1.0s"


@pytest.mark.parametrize("data", [b"\x1b[2J\x1b[H", b"\x1b]0;t\x07", b"\x1b[10A", b"\x1bc", b"\x9b2J", b"a\rb\x08"])
def test_output_cannot_break_the_terminal(data: bytes) -> None:
    scene = Scene()
    scene.at(0.0, StepStarted(0.0, "a", "RUN"), StepOutput(0.0, "a", 1, data + b"safe\n"))
    assert "safe" in scene.at(1.0)


def test_colours_of_output_are_kept_and_ended() -> None:
    scene = Scene(colour=True)
    scene.at(0.0, StepStarted(0.0, "a", "RUN"), StepOutput(0.0, "a", 1, b"\x1b[32mok\n"))
    scene.at(1.0)
    assert " => => # \x1b[32mok\x1b[0m\n" in scene.stream.getvalue()


def test_without_colour_nothing_is_painted() -> None:
    scene = Scene(colour=False)
    scene.at(0.0, StepStarted(0.0, "a", "RUN"), StepOutput(0.0, "a", 1, b"\x1b[32mok\n"), Note(0.0, "n"), Warned(0.0, "w"),
             StepFinished(0.5, "a", "failed", "e"), BuildFinished(1.0, ok=False))
    assert not re.search(r"\x1b\[[0-9;]*m", scene.stream.getvalue())


def test_notes_and_warnings() -> None:
    scene = Scene()
    assert scene.at(0.0, Note(0.0, "userns"), Warned(0.0, "old", "Rule", 2), BuildFinished(1.0, ok=True)) == (
        " note: userns\n[+] Building 1.0s (0/0) FINISHED\n\n1 warning found:\n - Rule: old (line 2)\n"
    )


def test_a_build_that_broke_off_leaves_the_output_of_what_ran() -> None:
    scene = Scene()
    scene.at(0.0, BuildStarted(0.0, 1), StepStarted(0.0, "a", "RUN x"), StepOutput(0.0, "a", 1, b"half"))
    scene.renderer.close()
    scene.renderer.close()
    assert scene.screen() == " => RUN x\n => => # half\n[+] Building 0.0s (0/1)\n"


def test_cutting_counts_columns_not_characters() -> None:
    assert width_of("漢e\u0301\x1b[1mx\x1b[0m") == 4
    assert cut("漢字x", 3) == "漢"
    assert cut("\x1b[31mabcdef\x1b[0m", 3) == "\x1b[31mabc\x1b[0m"
