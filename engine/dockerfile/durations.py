"""Durations as Go writes them (`1m30s`, `1.5h`, `500ms`), and the rule HEALTHCHECK has for them."""

from __future__ import annotations

import re

from engine.dockerfile.gotext import quote
from engine.errors import DockerfileError

_UNITS = {"ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PART = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?([^.0-9]*)")
_LARGEST = 1 << 63
_MINIMUM = 10**6


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration; raises `DockerfileError` with the text of Go's `time.ParseDuration`."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    invalid = DockerfileError(f"time: invalid duration {quote(text)}")
    total, at = 0, 0
    while at < len(rest):
        match = _PART.match(rest, at)
        if not match or not (match[1] or match[3]) or len(match[0]) > 100:
            raise invalid
        if not match[4]:
            raise DockerfileError(f"time: missing unit in duration {quote(text)}")
        unit = _UNITS.get(match[4])
        if unit is None:
            raise DockerfileError(f"time: unknown unit {quote(match[4])} in duration {quote(text)}")
        fraction = match[3] or ""
        total += int(match[1] or 0) * unit + (int(fraction or 0) * unit) // 10 ** len(fraction)
        at = match.end()
    if not rest or total > _LARGEST or (total == _LARGEST and sign > 0):
        raise invalid
    return sign * total


def parse_interval(name: str, text: str) -> int:
    """Nanoseconds of one of HEALTHCHECK's times; nothing and 0 mean the default, else it is a millisecond at least."""
    if not text:
        return 0
    value = parse_duration(text)
    if value and value < _MINIMUM:
        raise DockerfileError(f"Interval {quote(name)} cannot be less than 1ms")
    return value
