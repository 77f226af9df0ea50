"""What steps write, as lines that are safe to show.

Output comes in chunks that may end in the middle of a line, a UTF-8 character or an escape sequence, and it may hold
anything: a program that believes it owns the terminal moves the cursor, clears the screen, sets the window's title. Only
colours (the SGR sequences of ECMA-48, 8.3.117) are kept.
"""

from __future__ import annotations

import codecs
import re

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)(?P<parameters>[0-?]*)(?P<intermediate>[ -/]*)(?P<final>[@-~])"  # control sequences
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*"  # cut off before the end
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]).*?(?:\x07|\x1b\\|\x9c|$)"  # strings: titles, links, device control
    r"|\x1b[ -/]*[0-~]?"  # other escapes
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f]",  # other control characters, but not the tab
    re.DOTALL,
)
_COLOUR = re.compile(r"[0-9;:]*")
RESET = "\x1b[0m"


def clean(text: str, *, colour: bool) -> str:
    """A line without control characters and escape sequences but tabs and, if `colour`, colours (which end with the line)."""
    if text.isprintable():
        return text
    painted = False

    def keep(match: re.Match[str]) -> str:
        nonlocal painted
        if not (colour and match["final"] == "m" and not match["intermediate"] and _COLOUR.fullmatch(match["parameters"])):
            return ""
        painted = True
        return f"\x1b[{match['parameters']}m"

    text = _SEQUENCE.sub(keep, text)
    return text + RESET if painted else text


class LineBuffer:
    """Chunks of bytes in, lines out. What is not UTF-8 becomes U+FFFD.

    A carriage return begins the line anew, as on a terminal, so that of a progress bar its last state is left. A line of
    more than `limit` characters is cut into pieces, so that memory stays bounded.
    """

    def __init__(self, limit: int = 16384) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._limit = limit
        self._pending = ""

    @property
    def pending(self) -> str:
        """The begun line as it would be shown now."""
        return _overwritten(self._pending)

    def feed(self, data: bytes) -> list[str]:
        """The lines that end in this chunk, without their ends."""
        *lines, self._pending = (self._pending + self._decoder.decode(data)).split("\n")
        out = [_overwritten(line) for line in lines]
        if len(self._pending) > self._limit:
            self._pending = self.pending
            while len(self._pending) > self._limit:
                out.append(self._pending[: self._limit])
                self._pending = self._pending[self._limit :]
        return out

    def flush(self) -> list[str]:
        """The begun line, if there is one: nothing more will come."""
        rest = _overwritten(self._pending + self._decoder.decode(b"", final=True))
        self._pending = ""
        return [rest] if rest else []


def _overwritten(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2] if "\r" in line else line
