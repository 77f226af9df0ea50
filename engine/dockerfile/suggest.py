"""The name that was probably meant, for messages: "did you mean …?"."""

from __future__ import annotations

from collections.abc import Iterable

_LIMIT = 3
_LONGEST = 100


def suggest(word: str, options: Iterable[str], *, case_sensitive: bool = False) -> str | None:
    """The option nearest to `word`, when fewer than three letters have to be inserted, removed or replaced. Among equals, one
    that begins alike, else the first (BuildKit takes any).

    None when there is none, or when `word` is one of the options: then the mistake is another. Without `case_sensitive` the
    answer is in upper case if `word` is, else in lower case.
    """
    wanted = word if case_sensitive else word.lower()
    best, best_distance = None, float(_LIMIT)
    for option in options:
        candidate = option if case_sensitive else option.lower()
        if candidate == wanted:
            return None
        distance = _distance(wanted, candidate) + (0 if candidate[:1] == wanted[:1] else 0.5)
        if distance < best_distance:
            best, best_distance = candidate, distance
    if best is None or case_sensitive or word == word.lower():
        return best
    return best.upper() if word == word.upper() else best


def did_you_mean(word: str, options: Iterable[str], *, case_sensitive: bool = True) -> str:
    """The words to put behind a message that names `word`: ` (did you mean x?)`, or nothing."""
    near = suggest(word, options, case_sensitive=case_sensitive)
    return f" (did you mean {near}?)" if near else ""


def _distance(one: str, two: str) -> int:
    """The Levenshtein distance; anything not below the limit may be answered with the limit."""
    if abs(len(one) - len(two)) >= _LIMIT or len(one) > _LONGEST:
        return _LIMIT
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(two, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
