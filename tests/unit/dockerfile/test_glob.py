"""Wildcards as Go's `filepath.Match` has them; the cases are those of Go's documentation of it."""

from __future__ import annotations

import pytest

from engine.dockerfile.glob import BadPattern, has_wildcards, match_go_glob


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("a*", "ab/c", False),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a?b", "a☺b", True),
        ("a[^a]b", "a☺b", True),
        ("a???b", "a☺b", False),
        ("[a-ζ]*", "α", True),
        ("*[a-ζ]", "A", False),
        ("a?b", "a/b", False),
        ("a*b", "a/b", False),
        ("[\\]a]", "]", True),
        ("[\\-x]", "-", True),
        ("[x\\-]", "z", False),
        ("[!a]", "!", True),
        ("[z-a]", "b", False),
        ("[^z-a]", "b", True),
        ("[[]", "[", True),
        ("[a^]", "^", True),
        ("arr[[]0].txt", "arr[0].txt", True),
        ("**", "ab", True),
        ("a*[^a]*", "a^/ü", False),  # Go does not go back on where `[^a]` was found first
        ("*\n", "a\n", True),
        ("a", "a\n", False),
    ],
)
def test_matching(pattern: str, name: str, matches: bool) -> None:
    assert match_go_glob(pattern, name) is matches


@pytest.mark.parametrize(
    "pattern", ["[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[", "[]", "[^]", "[a", "[a\\", "a\\"]
)
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(BadPattern, match="syntax error in pattern"):
        match_go_glob(pattern, "a")


def test_names_that_are_not_utf8() -> None:
    assert match_go_glob("a?c*", b"a\xffc\xfe\xfd")
    assert not match_go_glob("a?c", b"a\xff\xffc")


@pytest.mark.parametrize(("text", "wild"), [("a/b", False), ("a*", True), ("a\\*b", False), ("[", True), ("\\\\?", True)])
def test_wildcards_are_seen(text: str, wild: bool) -> None:
    assert has_wildcards(text) is wild
