"""Wildcards as Go's `filepath.Match` reads them: `*` and `?` stay within a path component, `[a-z]` and `[^a-z]` are classes,
`\\` escapes.

COPY uses them for its sources, and an ignore pattern has to be well-formed by this grammar. Names are text, or bytes that
are decoded like the operating system's (`surrogateescape`), so any name can be matched.
"""

from __future__ import annotations

import re
from functools import lru_cache


class BadPattern(ValueError):
    """A pattern that the grammar does not allow."""

    def __init__(self) -> None:
        super().__init__("syntax error in pattern")


def has_wildcards(pattern: str) -> bool:
    """Whether a pattern can match anything but itself."""
    at = 0
    while at < len(pattern):
        if pattern[at] in "*?[":
            return True
        at += 2 if pattern[at] == "\\" else 1
    return False


def match_go_glob(pattern: str, name: str | bytes) -> bool:
    """Whether a pattern matches a whole name; raises `BadPattern`."""
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    return compile_go_glob(pattern).match(text) is not None


@lru_cache(maxsize=512)
def compile_go_glob(pattern: str) -> re.Pattern[str]:
    """The expression whose `match` tells whether a whole name matches; raises `BadPattern`.

    As in Go, what stands between two stars is taken where it comes first and not tried elsewhere.
    """
    head, *parts = _parts(pattern)
    last = len(parts) - 1
    middle = "".join(f"(?>[^/]*?{part})" for part in parts[:last] if part)
    tail = "[^/]*" + parts[last] if parts else ""
    return re.compile(head + middle + tail + r"\Z")


def _parts(pattern: str) -> list[str]:
    """The expressions for what stands before, between and behind the stars."""
    parts = [""]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            parts.append("")
        elif char == "?":
            parts[-1] += "[^/]"
        elif char == "[":
            expression, at = _class(pattern, at)
            parts[-1] += expression
        else:
            if char == "\\":
                if at >= len(pattern):
                    raise BadPattern
                char = pattern[at]
                at += 1
            parts[-1] += re.escape(char)
    return parts


def _class(pattern: str, at: int) -> tuple[str, int]:
    """The expression for a class whose `[` is read, and the index behind its `]`. A class may match a slash."""
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[str] = []
    seen = False
    while not (seen and pattern.startswith("]", at)):
        low, at = _member(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _member(pattern, at + 1)
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        seen = True
    if not ranges:  # only ranges that hold nothing, such as [z-a]
        return (r"[\s\S]" if negated else "(?!)"), at + 1
    return f"[{'^' if negated else ''}{''.join(ranges)}]", at + 1


def _member(pattern: str, at: int) -> tuple[str, int]:
    """One character of a class and the index behind it, where something has to follow."""
    if at >= len(pattern) or pattern[at] in "-]":
        raise BadPattern
    at += pattern[at] == "\\"
    if at + 1 >= len(pattern):
        raise BadPattern
    return pattern[at], at + 1
