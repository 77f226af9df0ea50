"""Cutting by content: the same bytes give the same chunks, and a change does not spread."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cache.carry.chunks import LEAST, MOST, pieces

NOISE = random.Random(1).randbytes(5_000_000)
TEXT = b"\n".join(b"%d: the line with number %d of a log, %d" % (n, n * n, n % 17) for n in range(80_000))


def cut(data: bytes, sizes: random.Random | None = None) -> list[bytes]:
    """The chunks of some bytes, as a file that gives fewer than it is asked for."""
    file = io.BytesIO(data)
    read = file.read if sizes is None else lambda size: file.read(min(size, sizes.randint(1, 3_000_000)))
    return [bytes(piece) for piece in pieces(read)]


@pytest.mark.parametrize("data", [b"", b"x", NOISE[:LEAST], NOISE[:LEAST + 1], NOISE, TEXT, bytes(9_000_000)])
def test_the_chunks_are_the_file_and_within_bounds(data: bytes) -> None:
    chunks = cut(data)
    assert b"".join(chunks) == data
    assert all(LEAST <= len(chunk) <= MOST for chunk in chunks[:-1])
    assert all(0 < len(chunk) <= MOST for chunk in chunks[-1:])


@pytest.mark.parametrize("seed", range(4))
def test_they_do_not_depend_on_how_a_file_is_read(seed: int) -> None:
    assert cut(NOISE, random.Random(seed)) == cut(NOISE)


@given(st.integers(0, len(NOISE)), st.binary(max_size=5000), st.integers(0, 5000))
@settings(max_examples=15, deadline=None)
def test_an_insertion_or_removal_anywhere_changes_few_chunks_of_noise(at: int, new: bytes, removed: int) -> None:
    changed = NOISE[:at] + new + NOISE[at + removed :]
    assert len(set(cut(changed)) - set(cut(NOISE))) <= 4


@given(st.integers(0, len(TEXT)), st.binary(min_size=1, max_size=100))
@settings(max_examples=15, deadline=None)
def test_a_change_of_text_does_not_spread(at: int, new: bytes) -> None:
    changed = TEXT[:at] + new + TEXT[at:]
    fresh = set(cut(changed)) - set(cut(TEXT))
    assert sum(map(len, fresh)) <= 3 * MOST


def test_noise_is_cut_into_chunks_of_some_200_kilobytes_and_text_is_cut_too() -> None:
    assert 15 <= len(cut(NOISE)) <= 40
    assert len(cut(TEXT)) > len(TEXT) // MOST + 1
