"""Sizes and durations for people, as BuildKit writes them: decimal units, tenths of a second."""

from __future__ import annotations

_UNITS = ("kB", "MB", "GB", "TB")


def size(count: int) -> str:
    """`512B`, `1.05MB`: bytes in decimal units with two digits after the point."""
    if count < 1000:
        return f"{count}B"
    value = float(count)
    for unit in _UNITS:
        value /= 1000
        if value < 999.995 or unit == _UNITS[-1]:
            break
    return f"{value:.2f}{unit}"


def transferred(done: int, total: int) -> str:
    """How much of a transfer is done: `1.05MB / 2.00MB`, or only what is done when the total is not known."""
    return f"{size(done)} / {size(total)}" if total else size(done)


def age(seconds: float) -> str:
    """`40 seconds`, `3 minutes`, `2 days`: a time that has passed, to the unit that says most."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{max(int(seconds), 0)} seconds"


def duration(seconds: float) -> str:
    """`0.1s`, `75.0s`; never negative."""
    return f"{max(seconds, 0.0):.1f}s"
