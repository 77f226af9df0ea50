"""JSON, in the one place that knows how: orjson for speed, sorted keys where bytes are digested."""

from __future__ import annotations

from typing import Any

import orjson


def encode(value: Any) -> bytes:
    """The JSON of a value as compact UTF-8, keys in the order given."""
    return orjson.dumps(value)


def encode_canonical(value: Any) -> bytes:
    """The JSON of a value as compact UTF-8 with sorted keys: equal values give equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def encode_pretty(value: Any) -> bytes:
    """The JSON of a value for people: two spaces of indentation and a last newline."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def decode(data: bytes | str) -> Any:
    """The value of a JSON text; raises `ValueError` when it is not JSON."""
    return orjson.loads(data)
