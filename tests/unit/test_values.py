"""What values show, and what makes them equal."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import ClassVar

import pytest
from msgspec.structs import replace

from engine.image.digest import Digest
from engine.registry.challenge import Token
from engine.registry.credentials import Credential
from engine.request import BuildResult, SecretSource
from engine.values import Value


class Point(Value, frozen=True):
    UNSHOWN: ClassVar = frozenset({"secret"})
    UNCOMPARED: ClassVar = frozenset({"origin"})

    x: int
    secret: str = ""
    origin: str = ""


class Other(Value, frozen=True):
    x: int
    secret: str = ""


def test_what_is_not_compared_makes_no_difference() -> None:
    one, two = Point(1, "a", "here"), Point(1, "a", "there")
    assert one == two and hash(one) == hash(two) and len({one, two}) == 1
    assert one != Point(2, "a", "here") and one != Point(1, "b", "here")
    assert replace(one, x=2) == Point(2, "a")
    assert pickle.loads(pickle.dumps(one)).origin == "here"


def test_another_kind_of_value_is_never_equal() -> None:
    assert Point(1, "a") != Other(1, "a")
    assert Point(1) != (1, "")


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Point(1).x = 2  # type: ignore[misc]


def test_what_is_not_to_be_shown_is_not() -> None:
    assert repr(Point(1, "hush", "here")) == "Point(x=1, origin='here')"
    digest = Digest.of(b"")
    for secretive in (SecretSource("id", Path("/x"), b"hush"), Token("hush", 1.0), Credential("user", "hush", "hush", "hush", "x"),
                      BuildResult(digest, digest, "type", 1, b"hush")):  # fmt: skip
        assert "hush" not in repr(secretive)
