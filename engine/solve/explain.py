"""Why a step was not found in the cache: what its key is made of, against the most similar earlier record. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from engine.cache.base import Record

BY: Final = "by"
"""The ingredient that says which of a step's two keys a record is under; the two are not to be compared with each other."""
MOST: Final = 12
"""Reasons that are told; the others are counted."""

_TEXTS = {
    "parent": "what it starts from",
    "command": "the command",
    "script": "the script",
    "cwd": "the working directory",
    "user": "the user",
    "platform": "the platform",
    "network": "the network mode",
    "sources": "the list of sources",
    "destination": "the destination",
    "workdir": "the working directory",
    "epoch": "SOURCE_DATE_EPOCH",
    "latest": "the latest time of files",
    "files": "the copied files",
}
_LEAST_ALIKE: Final = 0.5
"""The share of ingredients other than files that two records must have in common to be compared."""


def reasons(ingredients: Mapping[str, str], earlier: Iterable[Record]) -> tuple[str, ...]:
    """What changed against the most similar of some earlier records (the newest ones first); one sentence for each thing."""
    best: Sequence[str] | None = None
    for record in earlier:
        before = record.ingredients
        if before.get(BY) != ingredients.get(BY):
            continue
        changed = _changed(ingredients, before)
        plain = [name for name in {*ingredients, *before} if not _is_file(name)]
        if sum(not _is_file(name) for name in changed) > len(plain) * _LEAST_ALIKE:
            continue
        if best is None or len(changed) < len(best):
            best = [_sentence(name, before.get(name), ingredients.get(name)) for name in changed]
    if best is None:
        return ("there is no earlier result of an instruction like this one",)
    if not best:
        return ("its earlier result is gone, or may not be used",)
    return (*best[:MOST], *([f"and {len(best) - MOST} more"] if len(best) > MOST else []))


def _changed(now: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """The names of ingredients that differ. A digest over files says nothing when the files themselves are there."""
    names = [name for name in (*before, *(n for n in now if n not in before)) if now.get(name) != before.get(name)]
    files = {name.partition(" file ")[0] if " file " in name else "" for name in names if _is_file(name)}
    covered = {"files" if not prefix else f"{prefix} files" for prefix in files}
    return sorted((name for name in names if name not in covered), key=lambda name: (_is_file(name), name))


def _is_file(name: str) -> bool:
    return name.startswith("file ") or " file " in name


def _sentence(name: str, before: str | None, now: str | None) -> str:
    kind, _, rest = name.partition(" ")
    if _is_file(name):
        path = name.partition("file ")[2]
        return f"{path} {'is new' if before is None else 'is gone' if now is None else 'changed'}"
    if kind == "env":
        return f"variable {rest} {'is new' if before is None else 'is gone' if now is None else 'has another value'}"
    if name == "parent" and before and now:
        return _parent(before, now)
    what = _TEXTS.get(name) or (f"heredoc {rest}" if kind == "heredoc" else name if kind == "mount" else f"--{name}")
    if before and now and max(len(before), len(now)) <= 80 and "sha256:" not in before + now:
        return f"{what} changed from {before} to {now}"
    return f"{what} changed"


def _parent(before: str, now: str) -> str:
    old, old_digest = before.rpartition(" ")[::2]
    new, new_digest = now.rpartition(" ")[::2]
    if old == new and new.startswith("image "):
        return f"{new} changed from {old_digest} to {new_digest}"
    if old == new:
        return f"the result of {new} changed"
    return f"it comes after {new} and no longer after {old}"
