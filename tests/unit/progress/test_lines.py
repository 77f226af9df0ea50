"""Output of steps as lines that are safe to show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.progress import units
from engine.progress.lines import LineBuffer, clean


def test_lines_are_joined_across_chunks() -> None:
    buffer = LineBuffer()
    assert buffer.feed(b"one\ntw") == ["one"]
    assert buffer.pending == "tw"
    assert buffer.feed(b"o\n") == ["two"]
    assert buffer.flush() == []


def test_a_character_cut_in_two_is_whole_again() -> None:
    buffer = LineBuffer()
    data = "naïve €\n".encode()
    lines: list[str] = []
    for i in range(len(data)):
        lines += buffer.feed(data[i : i + 1])
    assert lines == ["naïve €"]


def test_what_is_not_utf8_is_replaced() -> None:
    buffer = LineBuffer()
    assert buffer.feed(b"a\xffb\nc\xe2\x82") == ["a\ufffdb"]
    assert buffer.flush() == ["c\ufffd"]


def test_carriage_return_leaves_the_last_state() -> None:
    buffer = LineBuffer()
    assert buffer.feed(b"10%\r50%\r100%\nplain\r\n 3%\r 4%\r") == ["100%", "plain"]
    assert buffer.pending == " 4%"


def test_a_line_without_end_is_cut() -> None:
    buffer = LineBuffer(limit=10)
    assert buffer.feed(b"x" * 25) == ["x" * 10, "x" * 10]
    assert buffer.flush() == ["x" * 5]


def test_an_endless_progress_bar_takes_no_memory() -> None:
    buffer = LineBuffer(limit=10)
    for i in range(1000):
        assert buffer.feed(b"\r%4d" % i) == []
    assert buffer.flush() == [" 999"]


@pytest.mark.parametrize(
    ("text", "coloured", "bare"),
    [
        ("plain", "plain", "plain"),
        ("a\tb", "a\tb", "a\tb"),
        ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m\x1b[0m", "red"),
        ("\x1b[38:2::1:2:3mrgb", "\x1b[38:2::1:2:3mrgb\x1b[0m", "rgb"),
        ("\x1b[2J\x1b[Hcleared", "cleared", "cleared"),
        ("up\x1b[3A\x1b[?25lhidden", "uphidden", "uphidden"),
        ("\x1b[>4;2mnot a colour", "not a colour", "not a colour"),
        ("\x1b]0;title\x07rest", "rest", "rest"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link", "link"),
        ("\x1b]0;title without end", "", ""),
        ("\x1bP1$r\x1b\\x", "x", "x"),
        ("\x1bcreset\x1b7\x1b(0", "reset", "reset"),
        ("cut\x1b[31", "cut", "cut"),
        ("cut\x1b", "cut", "cut"),
        ("bell\x07 back\x08space", "bell backspace", "bell backspace"),
        ("\x9b2Jeight\x9d0;t\x9cbit", "eightbit", "eightbit"),
    ],
)
def test_only_colours_are_left(text: str, coloured: str, bare: str) -> None:
    assert clean(text, colour=True) == coloured
    assert clean(text, colour=False) == bare


@given(st.text(st.sampled_from("\x1b[]0;?mAJP\\\x07\x9b\x9d\nab\t "), max_size=30))
def test_nothing_that_moves_the_cursor_is_left(text: str) -> None:
    left = clean(text, colour=False)
    assert not [c for c in left if (ord(c) < 32 and c != "\t") or 127 <= ord(c) < 160]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1.00kB"), (1_050_000, "1.05MB"), (999_999, "1.00MB"), (3_210_000_000, "3.21GB"),
     (5 * 10**15, "5000.00TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert units.size(count) == text
