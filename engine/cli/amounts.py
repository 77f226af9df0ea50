"""Sizes and times as people write them on a command line."""

from __future__ import annotations

import re

from engine.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(text: str | None) -> float | None:
    """`90s`, `30m`, `24h`, `7d`, `2w`; a number alone is seconds. None stays None."""
    if text is None:
        return None
    match = _TIME.fullmatch(text.strip())
    if not match:
        raise UsageError(f"invalid time {text!r}", hint="as in 90s, 30m, 24h, 7d or 2w")
    return float(match[1]) * _SECONDS[match[2].lower()]


def size(text: str | None) -> int | None:
    """`500MB`, `20GB`, `1GiB` in bytes; a number alone is bytes. None stays None."""
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"invalid size {text!r}", hint="as in 500MB or 20GB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2].lower() or " "))
