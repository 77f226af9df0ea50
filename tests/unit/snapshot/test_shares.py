"""A root divided among several who look through it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.snapshot.shares import divide


@st.composite
def trees(draw: st.DrawFn) -> dict[str, int]:
    """How much is in each directory of a tree."""
    paths = [""]
    for _ in range(draw(st.integers(0, 30))):
        above = draw(st.sampled_from(paths))
        paths.append((f"{above}/" if above else "") + f"d{len(paths)}")
    return {path: draw(st.integers(0, 50)) for path in paths}


def owners(counts: dict[str, int], heads: list[list[str]]) -> dict[str, int]:
    """The share that each directory is in: that of the nearest head above it."""
    share_of = {head: share for share, theirs in enumerate(heads) for head in theirs}
    out = {}
    for path in counts:
        at = path
        while at not in share_of:
            at = at.rpartition("/")[0]
        out[path] = share_of[at]
    return out


@given(trees(), st.integers(1, 5))
def test_every_directory_is_in_one_share_and_no_share_is_larger_than_it_should_be(counts: dict[str, int], shares: int) -> None:
    heads = divide(counts, shares)
    assert len(heads) == shares and heads[0] == [""]
    every = [head for theirs in heads for head in theirs]
    assert len(set(every)) == len(every) and set(every) <= counts.keys()
    sizes = [0] * shares
    for path, share in owners(counts, heads).items():
        sizes[share] += counts[path]
    assert all(size <= sum(counts.values()) // shares for size in sizes[1:])


@pytest.mark.parametrize("shares", [2, 3, 4])
def test_shares_are_about_equal_where_most_is_in_one_place(shares: int) -> None:
    counts = {"": 20, "etc": 200, "usr": 10, "usr/lib": 1000, "usr/share": 300}
    counts |= {f"usr/lib/python/p{n}": 40 for n in range(100)} | {"usr/lib/python": 100, "opt": 1}
    sizes = [0] * shares
    for path, share in owners(counts, divide(counts, shares)).items():
        sizes[share] += counts[path]
    assert max(sizes) < 1.25 * sum(sizes) / shares
