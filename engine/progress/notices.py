"""Warnings are shown once, together, where they are seen: at the end."""

from __future__ import annotations

from engine.progress.events import Warned
from engine.progress.lines import clean


class Notices:
    """The warnings of a build, each kept once, in the order in which they came."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, int], None] = {}

    def add(self, event: Warned) -> None:
        """Keeps a warning."""
        self._seen[event.rule, event.message, event.line] = None

    def take(self) -> list[str]:
        """The lines to show, and forgets them: `2 warnings found:` and ` - Rule: message (line 3)` for each."""
        lines = [_line(*key) for key in self._seen]
        self._seen.clear()
        if lines:
            lines.insert(0, "1 warning found:" if len(lines) == 1 else f"{len(lines)} warnings found:")
        return lines


def _line(rule: str, message: str, line: int) -> str:
    head = f"{rule}: " if rule else ""
    tail = f" (line {line})" if line else ""
    return clean(f" - {head}{message}{tail}".replace("\n", " "), colour=False)
