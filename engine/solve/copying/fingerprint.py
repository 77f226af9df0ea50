"""Whether what a copy takes is the same as in an earlier build, told without a look at each file's digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from msgspec import Struct

from engine.layer.base import FileTree, Subtree, Subtrees
from engine.solve.copying.request import CopyRequest
from engine.solve.copying.sources import find_sources, is_pattern

LEAST = 200
"""Entries. For less it is as quick to look for the digest of each."""

_VERSION = b"2"


class Fingerprinted(Struct, frozen=True):
    """The subtrees that a copy takes from a context, and sha256 of all that is known of them, and of the copy, without reading
    files."""

    fingerprint: bytes
    subtrees: tuple[Subtree, ...]

    @property
    def count(self) -> int:
        """How many entries are taken."""
        return sum(map(len, self.subtrees))

    def settled(self, now: int) -> bool:
        """Whether the fingerprint will tell of every change after `now` (nanoseconds since the epoch)."""
        return all(subtree.settled(now) for subtree in self.subtrees)


def fingerprinted(request: CopyRequest, tree: FileTree, told: Callable[[int], None] | None = None) -> Fingerprinted | None:
    """What a copy takes, if that is whole directories, and many files; `told` as for `Subtrees.subtree`. Raises `CopyError` for a
    source that is not there."""
    if not isinstance(tree, Subtrees) or request.parents or any(map(is_pattern, request.sources)):
        return None
    digest = hashlib.sha256(_VERSION + repr(request).encode())
    subtrees: list[Subtree] = []
    for text in request.sources:
        for source in find_sources(tree, text):
            subtree = tree.subtree(source.path, told) if source.entry.kind == "dir" else None
            if subtree is None:
                return None
            digest.update(subtree.fingerprint())
            subtrees.append(subtree)
    found = Fingerprinted(digest.digest(), tuple(subtrees))
    return found if found.count >= LEAST else None
