"""Ignore files (rules A4 and 95 to 98): patterns, and a matcher that a walk through a directory asks for every entry.

The grammar and the order of things are moby/patternmatcher's. An entry inherits from its directory which patterns matched
there, so each path is matched once, against patterns that are compiled once: exact names and `**/name` by dictionary, the
rest by one expression that says whether any of them matches at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.dockerfile.glob import compile_go_glob
from engine.dockerfile.gotext import SPACE
from engine.dockerfile.ignore_pattern import SPECIAL, clean, compile_pattern
from engine.errors import ContextError

_LONGEST_LINE = 65535
_DOUBTFUL = frozenset("[]\\^")


def parse_patterns(data: bytes) -> tuple[str, ...]:
    """The patterns of an ignore file: cleaned, without comments and leading slashes. Raises `ContextError` for a lone `!`, a
    malformed pattern or an endless line."""
    lines = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n")
    patterns: list[str] = []
    for number, line in enumerate(lines, 1):
        if len(line) > _LONGEST_LINE:
            raise ContextError(f"error reading .dockerignore: line {number} is too long")
        pattern = line.strip(SPACE)
        if not pattern or line.startswith("#"):
            continue
        negated = pattern[0] == "!"
        pattern = pattern[1:].strip(SPACE) if negated else pattern
        if pattern:
            pattern = clean(pattern)
            if len(pattern) > 1:
                pattern = pattern.removeprefix("/")
        pattern = "!" + pattern if negated else pattern
        try:
            compile_pattern(pattern)
        except ContextError as error:
            error.hint = f"line {number} of the ignore file is {line.strip()!r}"
            raise
        patterns.append(pattern)
    return tuple(patterns)


class IgnoreMatcher:
    """Tells what patterns exclude. Paths are relative to the root they are about, with `/` and without a leading one.

    A state is what a directory hands down to its entries; that of the root is 0. Raises `ContextError` for a bad pattern.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        compiled = [compile_pattern(text) for text in patterns if text.strip(SPACE)]
        self._negated = [negated for negated, _, _ in compiled]
        self.has_exceptions = any(self._negated)
        """Whether there is a `!` pattern."""
        self._exceptions = [body for negated, body, _ in compiled if negated]
        self._exact: dict[str, list[int]] = {}
        self._names: dict[str, list[int]] = {}
        self._expressions: list[tuple[int, re.Pattern[str]]] = []
        for index, (_, body, expression) in enumerate(compiled):
            if expression is None:
                self._exact.setdefault(body, []).append(index)
            elif body.startswith("**/") and not set(body[3:]) & (SPECIAL | {"/"}):
                self._names.setdefault(body[3:], []).append(index)
            else:
                self._expressions.append((index, expression))
        self._any = re.compile("|".join(f"(?:{e.pattern})" for _, e in self._expressions) or "(?!)")

    def match(self, path: str | bytes, parent: int = 0) -> tuple[bool, int]:
        """Whether an entry is excluded, and its state for its own entries. `parent` is its directory's state."""
        text = path if isinstance(path, str) else path.decode("utf-8", "surrogateescape")
        hits = self._hits(text)
        if not hits:
            return parent != 0 and not self._negated[parent.bit_length() - 1], parent
        excluded, state = False, parent
        for index in sorted(hits | _bits(parent)) if parent else sorted(hits):
            if parent >> index & 1:
                excluded = not self._negated[index]
            elif self._negated[index] == excluded:  # else it would change nothing, and is not remembered either
                state |= 1 << index
                excluded = not excluded
        return excluded, state

    def excluded(self, path: str | bytes) -> bool:
        """Whether a path is excluded, asked out of order: what a walk that comes to it would find."""
        text = path if isinstance(path, str) else path.decode("utf-8", "surrogateescape")
        result, state, at = False, 0, 0
        while at >= 0:
            at = text.find("/", at + 1)
            result, state = self.match(text if at < 0 else text[:at], state)
        return result

    def may_skip_subtree(self, directory: str | bytes, state: int) -> bool:
        """Whether a walk can leave out a directory (of the given state): it is excluded, and so is all that is below."""
        if not state or self._negated[state.bit_length() - 1]:
            return False
        text = directory if isinstance(directory, str) else directory.decode("utf-8", "surrogateescape")
        return not any(_may_match_below(body, text) for body in self._exceptions)

    def _hits(self, text: str) -> set[int]:
        """The patterns that match a path itself."""
        hits: set[int] = set()
        if self._exact and (found := self._exact.get(text)):
            hits.update(found)
        if self._names and (found := self._names.get(text.rpartition("/")[2])):
            hits.update(found)
        if self._expressions and self._any.search(text):
            hits.update(index for index, expression in self._expressions if expression.search(text))
        return hits


def _bits(mask: int) -> set[int]:
    return {index for index in range(mask.bit_length()) if mask >> index & 1}


def _may_match_below(pattern: str, directory: str) -> bool:
    """Whether a pattern might match something inside a directory; true in doubt."""
    parts, names = pattern.split("/"), directory.split("/")
    for i, part in enumerate(parts):
        if "**" in part or set(part) & _DOUBTFUL:
            return True
        if i == len(names):
            return True
        if not compile_go_glob(part).match(names[i]):
            return False
    return False
