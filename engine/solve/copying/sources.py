"""From the sources of COPY and ADD, as written, to what they name in a tree.

A name without wildcards must be there. Wildcards are matched part by part against the tree, in the order of the names; they do
not look into directories that are symlinks, and need not match anything. What is found is followed if it is a symlink.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from engine.dockerfile.glob import BadPattern, has_wildcards, match_go_glob
from engine.errors import CopyError
from engine.layer.base import FileTree
from engine.layer.entries import Entry, join, name, parent
from engine.layer.resolve import resolve
from engine.solve.copying.paths import clean, show


class Source(NamedTuple):
    """Something to copy: under which name it was found, where it really lies, and what it is."""

    name: bytes
    path: bytes
    entry: Entry


def is_pattern(text: bytes) -> bool:
    """Whether there is a `*`, `?` or `[` that no backslash stands before."""
    return has_wildcards(_text(text))


def find_sources(tree: FileTree, text: bytes) -> list[Source]:
    """What a source, as written, names in a tree. Raises `CopyError` when it has no wildcard and names nothing."""
    path = clean(text)
    parts = path.split(b"/")
    first = next((i for i, part in enumerate(parts) if is_pattern(part)), len(parts))
    if first == len(parts):
        return [_follow(tree, path)]
    start = b"/".join(parts[:first])
    base = resolve(tree, start)
    if tree.get(base) is None:
        raise missing(tree, start)
    try:
        found = list(_glob(tree, base, [_text(part) for part in parts[first:]]))
    except BadPattern as error:
        raise CopyError(f"{text.decode('utf-8', 'backslashreplace')}: {error}") from error
    return [_follow(tree, path) for path in found]


def _follow(tree: FileTree, path: bytes) -> Source:
    real = resolve(tree, path)
    entry = tree.get(real)
    if entry is None:
        raise missing(tree, path)
    return Source(name(path), real, entry)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _glob(tree: FileTree, directory: bytes, parts: list[str]) -> Iterator[bytes]:
    """Paths below a directory that match a pattern for each part, depth first by name."""
    pattern, *rest = parts
    for child in tree.children(directory):
        if match_go_glob(pattern, child):
            path = join(directory, child)
            if not rest:
                yield path
            else:
                yield from _glob(tree, path, rest)  # links and files have no children


@runtime_checkable
class Explains(Protocol):
    """A tree that knows why something is not there."""

    def why_absent(self, path: bytes) -> str | None:
        """The reason, for people; None if there is none but that it does not exist."""


def missing(tree: FileTree, path: bytes) -> CopyError:
    """The error for a source that is not there, with the reason or the name that was perhaps meant."""
    hint = tree.why_absent(path) if isinstance(tree, Explains) else None
    entry = tree.get(path)
    if hint is not None:
        pass
    elif entry is not None and entry.kind == "symlink":
        hint = f"it is a symlink to {entry.link.decode('utf-8', 'backslashreplace')}, which is not there"
    else:
        names = [child.decode("utf-8", "backslashreplace") for child in tree.children(parent(path))]
        import difflib

        close = difflib.get_close_matches(name(path).decode("utf-8", "backslashreplace"), names[:2000], n=1)
        if close:
            hint = f"did you mean {close[0]}?"
    return CopyError(f'"{show(path)}": not found', hint=hint)
