"""The quick `dataclass` makes what the standard one makes."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Mapping
from dataclasses import field

import pytest

from engine import frozen


@dataclasses.dataclass(frozen=True, slots=True)
class StandardPoint:
    """A point."""

    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list, compare=False)
    secret: str = field(default="s", repr=False)


@frozen.dataclass(frozen=True, slots=True)
class Point:
    """A point."""

    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list, compare=False)
    secret: str = field(default="s", repr=False)


@frozen.dataclass(frozen=True, slots=True)
class Deeper(Point):
    z: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("below zero")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    where: int = 0


@frozen.dataclass(frozen=True, slots=True)
class Named(Base):
    name: str


@frozen.dataclass(frozen=True, slots=True)
class Own:
    value: float

    def __eq__(self, other: object) -> bool:
        return True


@frozen.dataclass(frozen=True, slots=True)
class Nothing:
    pass


def test_values_are_equal_hashed_shown_and_copied_as_with_the_standard_one() -> None:
    for kind in (Point, StandardPoint):
        one = kind(1, tags=["a"])
        assert one == kind(1, 2) and one != kind(1, 3) and one != (1, 2)
        assert {one: 1}[kind(1)] == 1
        assert repr(one).endswith("Point(x=1, y=2, tags=['a'])")
        assert pickle.loads(pickle.dumps(one)).tags == ["a"]
        assert copy.deepcopy(one) == one
        assert dataclasses.replace(one, x=5) == kind(5)
        assert dataclasses.asdict(one) == {"x": 1, "y": 2, "tags": ["a"], "secret": "s"}
        assert kind.__match_args__ == ("x", "y", "tags", "secret")
        assert kind(1).tags is not kind(1).tags
        assert not hasattr(one, "__dict__") and kind.__doc__ == "A point."


def test_nothing_of_a_value_can_be_changed() -> None:
    one = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        one.x = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del one.x
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.other = 2  # type: ignore[attr-defined]


def test_fields_are_inherited_and_checked_after_init() -> None:
    assert [f.name for f in dataclasses.fields(Deeper)] == ["x", "y", "tags", "secret", "z"]
    assert Deeper(1, 2, [], "s", {"k": "v"}).z == {"k": "v"}
    assert Deeper(1) != Point(1) and Deeper(1) != Deeper(1, z={"k": "v"})
    assert hash(Deeper(1)) == hash(Deeper(1, z={"k": "v"})), "what cannot be hashed is left out, as it was asked for"
    with pytest.raises(ValueError, match="below zero"):
        Deeper(-1)


def test_what_a_standard_base_takes_by_name_only_stays_so() -> None:
    assert Named("n", where=3) == Named("n", where=3) != Named("n")
    assert Named.__match_args__ == ("name",)
    with pytest.raises(TypeError):
        Named("n", 3)  # type: ignore[misc]


def test_methods_that_a_class_has_are_its_own() -> None:
    assert Own(1.0) == Own(2.0) and isinstance(hash(Own(1.0)), int)
    assert Nothing() == Nothing() and repr(Nothing()) == "Nothing()"


def test_wrong_arguments_are_errors_that_name_the_class() -> None:
    with pytest.raises(TypeError, match=r"Point.__init__\(\) missing 1 required positional argument: 'x'"):
        Point()  # type: ignore[call-arg]


def test_a_mutable_default_is_refused() -> None:
    with pytest.raises(ValueError, match="mutable default"):
        @frozen.dataclass(frozen=True, slots=True)
        class Wrong:
            items: list[str] = []  # noqa: RUF012
