"""The framing of cache keys."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.image.digest import Digest
from engine.plan.keys import KeyBuilder, Value, frame

SCALARS: st.SearchStrategy[Value] = (
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=8) | st.binary(max_size=8)
    | st.binary(max_size=2).map(Digest.of) | st.sampled_from(["1", "s1:1", "l0:", "", b"1", b"n0:", 1, 0, True, False]))
VALUES: st.SearchStrategy[Value] = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


def read(data: bytes, at: int = 0) -> tuple[object, int]:
    """The value an encoding begins with, and where it ends: the inverse of `frame`, so that two values cannot share one."""
    match = re.compile(rb"([snitbdl])(\d+):").match(data, at)
    assert match
    kind, count, at = match[1].decode(), int(match[2]), match.end()
    if kind == "l":
        items = []
        for _ in range(count):
            item, at = read(data, at)
            items.append(item)
        return ("l", tuple(items)), at
    return (kind, data[at:at + count]), at + count


def typed(value: Value) -> object:
    """A value with its type, so that 1, True and "1" differ."""
    if isinstance(value, (list, tuple)):
        return ("l", tuple(map(typed, value)))
    return (type(value).__name__, value)


@given(VALUES)
def test_an_encoding_can_be_read_back_in_one_way_only(value: Value) -> None:
    decoded, end = read(frame(value))
    assert end == len(frame(value))
    again, end = read(frame(value) + frame("what follows"))
    assert again == decoded and end == len(frame(value))


@given(VALUES, VALUES)
def test_different_values_have_different_encodings(one: Value, other: Value) -> None:
    assert (typed(one) == typed(other)) == (frame(one) == frame(other))


INGREDIENTS = st.dictionaries(st.text(max_size=3), SCALARS, max_size=4)


def key(ingredients: dict[str, Value], version: str = "1", kind: str = "run") -> Digest:
    builder = KeyBuilder(version, kind)
    for name, value in ingredients.items():
        builder.add(name, value)
    return builder.digest()


@given(INGREDIENTS, INGREDIENTS)
def test_keys_agree_just_when_their_ingredients_do(one: dict[str, Value], other: dict[str, Value]) -> None:
    same = {k: typed(v) for k, v in one.items()} == {k: typed(v) for k, v in other.items()}
    assert same == (key(one) == key(other))


@given(INGREDIENTS, st.randoms())
def test_the_order_of_adding_does_not_matter(ingredients: dict[str, Value], random: object) -> None:
    names = list(ingredients)
    random.shuffle(names)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert key({name: ingredients[name] for name in names}) == key(ingredients)


def test_the_order_inside_a_sequence_matters() -> None:
    assert key({"argv": ["a", "b"]}) != key({"argv": ["b", "a"]})


def test_version_and_kind_part_keys_from_each_other() -> None:
    keys = {key({}, version, kind) for version in ("1", "2", "") for kind in ("run", "copy", "")}
    assert len(keys) == 9
    assert key({}, "1", "2run") != key({}, "12", "run")


def test_a_name_is_added_once() -> None:
    with pytest.raises(ValueError, match="argv"):
        KeyBuilder("1", "run").add("argv", "a").add("argv", "a")


def test_what_has_no_encoding_is_refused() -> None:
    with pytest.raises(TypeError, match="dict"):
        KeyBuilder("1", "run").add("env", {"a": "b"})  # type: ignore[arg-type]  # that is the point


ITEMS = st.lists(st.lists(st.binary(max_size=4), max_size=3), max_size=4)


@given(ITEMS, ITEMS)
def test_long_lists_agree_just_when_their_items_do(one: list[list[bytes]], other: list[list[bytes]]) -> None:
    first, second = (KeyBuilder("1", "copy").add_each("files", items).digest() for items in (one, other))
    assert (one == other) == (first == second)


def test_ingredients_are_shown_for_people_and_long_ones_as_digests() -> None:
    builder = (KeyBuilder("1", "run").add("argv", ["sh", "-c", "make"]).add("network", None).add("parent", Digest.of(b"p"))
               .add("script", "x" * 1000).add("raw", b"\xff").add_each("files", [(b"a", b"b")]))
    shown = builder.ingredients
    assert shown["argv"] == "sh, -c, make"
    assert shown["network"] == ""
    assert shown["parent"] == str(Digest.of(b"p"))
    assert shown["script"] == f"sha256:{Digest.of(b'x' * 1000).hex} (1000 characters)"
    assert shown["raw"] == "\\xff"
    assert shown["files"].endswith("(1 items)")


def test_a_secret_changes_the_key_and_is_never_shown() -> None:
    one = KeyBuilder("1", "run").add("token", "hunter2", secret=True)
    assert one.digest() != KeyBuilder("1", "run").add("token", "hunter3", secret=True).digest()
    assert one.ingredients == {"token": "(secret)"}


def test_an_explanation_is_shown_and_does_not_enter_the_key() -> None:
    plain = KeyBuilder("1", "copy").add("files", "d")
    before = plain.digest()
    plain.explain("file a", "sha256:…")
    assert plain.digest() == before
    assert plain.ingredients["file a"] == "sha256:…"


def test_keys_stay_what_they_were() -> None:
    """When this fails, keys on users' machines and registries have changed their meaning: raise the version instead."""
    builder = (KeyBuilder("1", "run").add("argv", ["/bin/sh", "-c", "echo ü \udcff"]).add("uid", 1000).add("network", None)
               .add("readonly", True).add("parent", Digest.of(b"base")).add("raw", b"\x00\xff")
               .add_each("files", [(b"etc/passwd", b"file", b"420"), (b"etc",)]))
    assert frame(["a", 1, None, True, b"b", ()]) == b"l6:s1:ai1:1n0:t1:1b1:bl0:"
    assert str(builder.digest()) == "sha256:aa25bcc34fa93cfd7a44ce7dd7685b4457ea9aba9ae4b4d785412bd7790adc06"
