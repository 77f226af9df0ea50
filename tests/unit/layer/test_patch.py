"""Patches: small where little has changed, whole again, and nothing but an error if they are not what they should be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ContentError
from engine.layer.patch import patch, unpatch

NOISE = random.Random(4).randbytes(3_000_000)


@given(st.binary(max_size=500), st.binary(max_size=500))
def test_a_patch_gives_the_data_again(data: bytes, base: bytes) -> None:
    assert unpatch(patch(data, base), base, 500) == data


def test_a_patch_is_as_large_as_what_has_changed() -> None:
    data = NOISE[:1_000_000] + b"something new" + NOISE[1_000_100:2_500_000] + NOISE[100:200]
    made = patch(data, NOISE)
    assert len(made) < 5000
    assert unpatch(made, NOISE, 3_000_000) == data


def test_a_patch_of_something_else_or_of_too_much_is_refused() -> None:
    made = patch(NOISE, NOISE[:2_000_000])
    for wrong in (NOISE[1:2_000_000], b""):
        with pytest.raises(ContentError):
            unpatch(made, wrong, len(NOISE))
    with pytest.raises(ContentError):
        unpatch(made, NOISE[:2_000_000], len(NOISE) - 1)
    for broken in (made[:-1], made[5:], b"", b"noise"):
        with pytest.raises(ContentError):
            unpatch(broken, NOISE[:2_000_000], len(NOISE))
