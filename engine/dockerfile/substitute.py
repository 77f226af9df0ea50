"""The patterns of `${v#p}`, `${v%p}` and `${v/a/b}`: `*` and `?`, no brackets.

As in BuildKit, a wildcard does not match a newline, and in a replacement for all matches `$0` means the match.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

from engine.errors import DockerfileError

_TEMPLATE = re.compile(r"\$(?:\$|\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+))")


class _Pattern(Struct, frozen=True):
    """A compiled pattern: what stands before its first star (always `width` characters), and all of it."""

    head: re.Pattern[str]
    width: int
    whole: re.Pattern[str]
    starred: bool

    def search(self, value: str, at: int) -> re.Match[str] | None:
        """The first match from an index on.

        Where the head matches and the rest does not follow, the rest does not follow any later head on that line either: a
        star would have reached it. Without that, a long value without a match takes quadratic time.
        """
        if not self.starred:
            return self.whole.search(value, at)
        while head := self.head.search(value, at):
            match = self.whole.match(value, head.start())
            if match:
                return match
            newline = value.find("\n", head.end())
            if newline < 0:
                return None
            at = max(head.start() + 1, newline + 1 - self.width)
        return None


def trim_prefix(pattern: str, value: str, *, longest: bool) -> str:
    """`value` without the shortest or longest start that matches `pattern`; raises `DockerfileError` for a bad pattern."""
    match = _compile(pattern, longest).whole.match(value)
    return value[match.end() :] if match else value


def trim_suffix(pattern: str, value: str, *, longest: bool) -> str:
    """`value` without the shortest or longest end that matches `pattern`; raises `DockerfileError` for a bad pattern."""
    # A search runs from the left and cannot be asked for the shortest match at the right end, so both are turned round.
    return trim_prefix(_reversed(pattern), value[::-1], longest=longest)[::-1]


def replace_first(pattern: str, value: str, replacement: str) -> str:
    """`value` with the first match replaced; raises `DockerfileError` for a bad pattern."""
    match = _compile(pattern, True).search(value, 0)
    return value[: match.start()] + replacement + value[match.end() :] if match else value


def replace_all(pattern: str, value: str, replacement: str) -> str:
    """`value` with every match replaced; raises `DockerfileError` for a bad pattern.

    An empty match right behind another match does not count, as in Go's regexp (Python's `sub` counts it).
    """
    compiled = _compile(pattern, True)
    out, last, position = [], 0, 0
    while position <= len(value) and (match := compiled.search(value, position)):
        start, end = match.span()
        out.append(value[last:start])
        if end > last or start == 0:
            out.append(_filled(replacement, match[0]))
        last = end
        position = end if end > position else position + 1
    out.append(value[last:])
    return "".join(out)


def _filled(replacement: str, found: str) -> str:
    """A replacement with Go's `$$`, `$name` and `${name}` filled in; only the group `0` exists, others are empty."""
    if "$" not in replacement:
        return replacement
    return _TEMPLATE.sub(lambda m: "$" if m[0] == "$$" else found if (m[1] or m[2]) == "0" else "", replacement)


def _reversed(pattern: str) -> str:
    """A pattern to match a reversed text with: the escaped characters stay behind their escape."""
    out: list[str] = []
    i, last = 0, len(pattern) - 1
    while i <= last:
        step = 2 if pattern[i] == "\\" and i != last else 1
        out.append(pattern[i : i + step])
        i += step
    return "".join(reversed(out))


@lru_cache(maxsize=256)
def _compile(pattern: str, greedy: bool) -> _Pattern:
    """The compiled pattern. A value may be long and a pattern full of stars, so no star but the last tries again: what stands
    between two stars is taken where it comes first, as what follows it can then do with any other place too."""
    head, *rest = ("".join(part) for part in _parts(pattern))
    last = len(rest) - 1
    middle = "".join(f"(?>.*?{part})" for part in rest[:last] if part)
    tail = (".*" if greedy else ".*?") + rest[last] if rest else ""
    return _Pattern(re.compile(head), len(_parts(pattern)[0]), re.compile(head + middle + tail), bool(rest))


def _parts(pattern: str) -> list[list[str]]:
    """The expressions for the characters before, between and behind the stars."""
    parts: list[list[str]] = [[]]
    i = 0
    while i < len(pattern):
        char = pattern[i]
        i += 1
        if char == "*":
            parts.append([])
        elif char == "?":
            parts[-1].append(".")
        elif char == "\\":
            following = pattern[i : i + 1]
            if following in ("}", "/"):  # escaped for the sake of ${…}, not for the pattern
                continue
            if following not in ("*", "?", "\\"):
                raise DockerfileError(f"invalid pattern ({pattern}) in substitution: invalid escape '\\{following or chr(0xFFFD)}'")
            parts[-1].append("\\" + following)
            i += 1
        else:
            parts[-1].append(re.escape(char))
    return parts
