"""One pattern of an ignore file → a regular expression, as moby/patternmatcher makes it.

Go's expressions never take long; Python's can, and both patterns and names come from outside. So a pattern of the usual kind
is written in a way that does not try again what cannot help, and of the others only those with few wildcards are taken.
"""

from __future__ import annotations

import posixpath
import re

from engine.dockerfile.glob import BadPattern, compile_go_glob
from engine.dockerfile.gotext import SPACE
from engine.errors import ContextError

SPECIAL = frozenset("*?[]\\")
_CLASSES = frozenset("dDsSwWbBAafnrtv")
_MOST_WILDCARDS = 4
_USUAL = re.compile(
    r"(?P<deep>\*\*/?)|(?P<star>\*)|(?P<one>\?)|(?P<set>\[(?:[A-Za-z0-9_]-[A-Za-z0-9_]|[A-Za-z0-9_.])+\])"
    r"|\\(?P<escaped>[^A-Za-z0-9])|(?P<plain>[^\[\]{|}^\\*?])"
)


def compile_pattern(text: str) -> tuple[bool, str, re.Pattern[str] | None]:
    """Whether a pattern is a `!` one, its body, and what to `search` a path with; None if only the body itself matches.

    Raises `ContextError` for a pattern that is malformed, a lone `!`, or too much work.
    """
    text = clean(text.strip(SPACE))
    negated = text.startswith("!")
    body = text[1:] if negated else text
    if not body:
        raise ContextError('illegal exclusion pattern: "!"')
    try:
        compile_go_glob(body)
        expression = _expression(body)
        return negated, body, None if expression is None else re.compile(expression)
    except (BadPattern, re.error):
        raise ContextError("syntax error in pattern") from None


def clean(path: str) -> str:
    """Go's `filepath.Clean`."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _expression(body: str) -> str | None:
    """The regular expression of a pattern, or None if the pattern has no special characters.

    What patternmatcher compares as a prefix or a suffix is literal here, and newlines do not stop it.
    """
    if not set(body) & SPECIAL:
        return None
    if body.startswith("**"):
        rest = body[2:].removeprefix("/")
        if not set(rest) & SPECIAL:
            anywhere = r"(?:[\s\S]*/)?" if body[2:3] == "/" else r"[\s\S]*"
            return "^" + anywhere + re.escape(rest) + r"\Z" if rest else ""
    elif body.endswith("**") and not set(body[:-2]) & SPECIAL:
        return "^" + re.escape(body[:-2])
    usual = _usual(body)
    if usual is not None:
        return f"^{usual}\\Z"
    if body.count("*") > _MOST_WILDCARDS:
        raise ContextError("pattern is too complex", hint=f"it may have {_MOST_WILDCARDS} `*` beside its other special characters")
    return "(?a:^" + _translated(body) + r"\Z)"


def _usual(body: str) -> str | None:
    """The expression of a pattern whose pieces each match one character, or never a slash; None for any other.

    What stands between two `*` is taken where it comes first: `[^/]*` behind it reaches every later place. The same holds
    for whole components between two `**`.
    """
    groups: list[list[str]] = [[""]]  # between `**`, and in there between `*`
    at, ends_deep = 0, False
    while at < len(body):
        token = _USUAL.match(body, at)
        if token is None:
            return None
        at, ends_deep = token.end(), token.lastgroup == "deep"
        if token.lastgroup == "deep":
            if groups[-1] != [""] or len(groups) == 1:
                groups.append([""])
        elif token.lastgroup == "star":
            groups[-1].append("")
        elif token.lastgroup == "one":
            groups[-1][-1] += "[^/]"
        elif token.lastgroup == "set":
            groups[-1][-1] += token[0]
        else:
            groups[-1][-1] += re.escape(token["escaped"] or token["plain"])
    if ends_deep:
        groups.pop()
    out = _group(groups[0])
    for i, group in enumerate(groups[1:], 1):
        inner = _group(group)
        again = i < len(groups) - 1 or ends_deep
        out += f"(?>(?:.*?/)??{inner})" if again and inner.endswith("/") else f"(?:.*/)?{inner}"
    return out + (".*" if ends_deep else "")


def _group(parts: list[str]) -> str:
    """What stands between two `**`."""
    head, *rest = parts
    last = len(rest) - 1
    middle = "".join(f"(?>[^/]*?{part})" for part in rest[:last] if part)
    return head + middle + ("[^/]*" + rest[last] if rest else "")


def _translated(body: str) -> str:
    """A pattern in the language of regular expressions, classes and all.

    patternmatcher means to escape `|`, `{` and `}` too, but its table of characters ends before them: so they mean something.
    """
    out: list[str] = []
    at = 0
    in_class = False
    while at < len(body):
        char = body[at]
        at += 1
        if char == "*" and body.startswith("*", at):
            at += 1
            at += body.startswith("/", at)
            out.append("(.*/)?" if at < len(body) else ".*")
        elif char in "*?":  # inside a class, the bracket of what stands for it ends the class
            out.append(("\\" if in_class else "") + ("[^/]*" if char == "*" else "[^/]"))
            in_class = False
        elif char == "[":
            out.append("\\[" if in_class else "[")
            in_class = True
        elif char == "]":
            out.append("]" if in_class else "\\]")
            in_class = False
        elif char == "\\" and at < len(body):
            out.append(_escape(body[at]))
            at += 1
        elif in_class:
            out.append(char if char in "^-" else re.escape(char))
        elif char == "{" and body.startswith(",", at):  # a repetition in Python, not in Go
            out.append("\\{")
        else:
            out.append("\\" + char if char in ".+()$" else char)
    return "".join(out)


def _escape(char: str) -> str:
    """What `\\` and a character mean: itself, but for the letters that stand for a class in Go's expressions."""
    if char.isascii() and char.isalnum() and char not in _CLASSES:
        raise BadPattern
    return "\\" + char if char in _CLASSES else re.escape(char)
