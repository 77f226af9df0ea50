"""What Go's standard library means by a blank, a quoted string and an integer.

BuildKit is written in Go, and where a blank ends a word, or how a text is quoted in a message, is decided by that. Python's
own notions differ in small ways (`str.isspace` counts the separators U+001C to U+001F, `int` takes underscores).
"""

from __future__ import annotations

import re

SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""Every character for which Go's `unicode.IsSpace` is true; made for `str.strip(SPACE)`."""

_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\", '"': '\\"'}
_INTEGER = re.compile(r"[+-]?[0-9]+")


def is_space(char: str) -> bool:
    """Whether Go's `unicode.IsSpace` is true for a character."""
    return char in SPACE


def quote(text: str) -> str:
    """A text as Go's `%q` prints it: in double quotes, what is not printable escaped."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join(_quoted(c) for c in text) + '"'


def _quoted(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, kept by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def parse_int(text: str) -> int | None:
    """The value of a decimal integer as `strconv.Atoi` reads it (a sign is allowed, nothing else), or None."""
    return int(text) if len(text) < 20 and text.isascii() and _INTEGER.fullmatch(text) else None


def parse_unsigned(text: str, base: int, bits: int) -> int | None:
    """The value of an unsigned integer as `strconv.ParseUint` reads it, or None when it is malformed or too large."""
    digits = "0123456789"[:base]
    if not text or len(text) > 40 or any(c not in digits for c in text):
        return None
    value = int(text, base)
    return value if value < 1 << bits else None


_BOOLEANS = {**dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
             **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False)}  # fmt: skip


def parse_bool(text: str) -> bool | None:
    """The value of a boolean as `strconv.ParseBool` reads it, or None."""
    return _BOOLEANS.get(text)
