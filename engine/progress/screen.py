"""The part of a terminal that is drawn again and again: a block of lines at its bottom, under what has scrolled up."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import TextIO

from engine.progress.lines import RESET

HIDE, SHOW, CLEAR_BELOW = "\x1b[?25l", "\x1b[?25h", "\x1b[J"


def width_of(text: str) -> int:
    """The columns a text takes; colour sequences take none, wide characters two."""
    return len(text) if text.isascii() and "\x1b" not in text else sum(w for _, w in _cells(text))


def cut(text: str, columns: int) -> str:
    """The text, shortened to `columns`; colours are kept and ended."""
    if width_of(text) <= columns:
        return text
    out, used = [], 0
    for piece, width in _cells(text):
        if used + width > columns:
            break
        out.append(piece)
        used += width
    return "".join(out) + (RESET if "\x1b" in text else "")


def _cells(text: str) -> list[tuple[str, int]]:
    cells: list[tuple[str, int]] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\x1b":
            end = text.find("m", at) + 1 or len(text)
            cells.append((text[at:end], 0))
            at = end
            continue
        wide = unicodedata.east_asian_width(char) in "WF"
        cells.append((char, 0 if unicodedata.combining(char) or char == "\u200d" else 2 if wide else 1))
        at += 1
    return cells


class Screen:
    """Draws on a terminal. `size` gives its columns and rows now: it may change between two drawings."""

    def __init__(self, stream: TextIO, size: Callable[[], tuple[int, int]]) -> None:
        self._stream = stream
        self._size = size
        self._drawn: list[int] = []

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, at least 20 and 4."""
        columns, rows = self._size()
        return max(columns, 20), max(rows, 4)

    def draw(self, scrolled: Sequence[str], block: Sequence[str]) -> None:
        """Replaces the block by `scrolled`, which stays, and a new block, which is cut to the size of the terminal."""
        columns, rows = self.size
        block = [cut(line, columns - 1) for line in block[: rows - 1]]
        if not scrolled and not block and not self._drawn:
            return
        up = self._rows(columns)
        head = HIDE + (f"\x1b[{up}A" if up else "") + "\r" + CLEAR_BELOW
        self._stream.write(head + "".join(f"{line}\n" for line in (*scrolled, *block)) + SHOW)
        self._stream.flush()
        self._drawn = [width_of(line) for line in block]

    def _rows(self, columns: int) -> int:
        """How many rows the last block takes now: a terminal that became narrower has broken its lines."""
        return sum(max(1, -(-width // columns)) for width in self._drawn)
