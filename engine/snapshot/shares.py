"""A root divided among several who look through it. Pure.

A share begins at some directories, its heads, and has all that is below them but what is below the heads of others. So every
directory, also one that does not exist yet, is in one share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

ENOUGH = 1 / 16
"""Of a share's size: what it may lack."""


def divide(counts: Mapping[str, int], shares: int) -> list[list[str]]:
    """The heads of each share, so that they are of about the same size. `counts` says how much is in each directory, by its path;
    the root is there, and is a head of the first share."""
    sizes, children = _trees(counts)
    taken: set[str] = set()
    heads = [[""]]
    for _ in range(1, shares):
        left = whole = sum(counts.values()) // shares
        mine: list[str] = []
        at: str | None = ""
        while at is not None and left > whole * ENOUGH:
            larger = None
            for child in sorted(children.get(at, ()), key=lambda each: (-sizes[each], each)):
                if child in taken:
                    continue
                if sizes[child] <= left:
                    left -= sizes[child]
                    mine.append(child)
                    taken.add(child)
                    for above in _above(child):
                        sizes[above] -= sizes[child]
                elif larger is None:
                    larger = child
            at = larger
        heads.append(mine)
    return heads


def _trees(counts: Mapping[str, int]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """How much is in whole trees, and the directories in each directory."""
    sizes = dict(counts)
    children: dict[str, list[str]] = {}
    for path in sorted(counts, reverse=True):  # what is in a directory comes before it
        if path:
            above = path.rpartition("/")[0]
            sizes[above] += sizes[path]
            children.setdefault(above, []).append(path)
    return sizes, children


def _above(path: str) -> Iterable[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path
