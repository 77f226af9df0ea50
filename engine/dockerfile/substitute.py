"""The patterns of `${v#p}`, `${v%p}` and `${v/a/b}`: `*` and `?`, no brackets.

As in BuildKit, a wildcard does not match a newline, and in a replacement for all matches `$0` means the match.
"""

from __future__ import annotations

import re
from functools import lru_cache

from engine.errors import DockerfileError

_TEMPLATE = re.compile(r"\$(?:\$|\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+))")


def trim_prefix(pattern: str, value: str, *, longest: bool) -> str:
    """`value` without the shortest or longest start that matches `pattern`; raises `DockerfileError` for a bad pattern."""
    match = _compile(pattern, longest).match(value)
    return value[match.end() :] if match else value


def trim_suffix(pattern: str, value: str, *, longest: bool) -> str:
    """`value` without the shortest or longest end that matches `pattern`; raises `DockerfileError` for a bad pattern."""
    # A search runs from the left and cannot be asked for the shortest match at the right end, so both are turned round.
    return trim_prefix(_reversed(pattern), value[::-1], longest=longest)[::-1]


def replace_first(pattern: str, value: str, replacement: str) -> str:
    """`value` with the first match replaced; raises `DockerfileError` for a bad pattern."""
    match = _compile(pattern, True).search(value)
    return value[: match.start()] + replacement + value[match.end() :] if match else value


def replace_all(pattern: str, value: str, replacement: str) -> str:
    """`value` with every match replaced; raises `DockerfileError` for a bad pattern.

    An empty match right behind another match does not count, as in Go's regexp (Python's `sub` counts it).
    """
    regex = _compile(pattern, True)
    out, last, position = [], 0, 0
    while position <= len(value) and (match := regex.search(value, position)):
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
def _compile(pattern: str, greedy: bool) -> re.Pattern[str]:
    out: list[str] = []
    star = ".*" if greedy else ".*?"
    i = 0
    while i < len(pattern):
        char = pattern[i]
        i += 1
        if char == "*":
            if not out or out[-1] != star:  # two stars are one; and many of them would take very long to fail
                out.append(star)
        elif char == "?":
            out.append(".")
        elif char == "\\":
            following = pattern[i : i + 1]
            if following in ("}", "/"):  # escaped for the sake of ${…}, not for the pattern
                continue
            if following not in ("*", "?", "\\"):
                raise DockerfileError(f"invalid pattern ({pattern}) in substitution: invalid escape '\\{following or chr(0xFFFD)}'")
            out.append("\\" + following)
            i += 1
        else:
            out.append(re.escape(char))
    return re.compile("".join(out))
