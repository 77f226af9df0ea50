"""The patterns of substitutions, against the plain expressions that BuildKit makes of them."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.dockerfile.expand import expand
from engine.dockerfile.substitute import replace_all, replace_first, trim_prefix, trim_suffix
from engine.errors import DockerfileError

PATTERN = st.text(st.sampled_from("ab*?\n"), max_size=6)
VALUE = st.text(st.sampled_from("aab\nc"), max_size=10)


def plain(pattern: str, star: str) -> str:
    return "".join({"*": star, "?": "."}.get(c) or re.escape(c) for c in pattern)


@given(PATTERN, VALUE, st.booleans())
def test_prefixes(pattern: str, value: str, longest: bool) -> None:
    match = re.match(plain(pattern, ".*" if longest else ".*?"), value)
    assert trim_prefix(pattern, value, longest=longest) == (value[match.end() :] if match else value)


@given(PATTERN, VALUE, st.booleans())
def test_suffixes(pattern: str, value: str, longest: bool) -> None:
    starts = [i for i in range(len(value) + 1) if re.fullmatch(plain(pattern, ".*"), value[i:])]
    cut = (min(starts) if longest else max(starts)) if starts else len(value)
    assert trim_suffix(pattern, value, longest=longest) == value[:cut]


@given(PATTERN, VALUE)
def test_the_first_match_is_replaced(pattern: str, value: str) -> None:
    match = re.search(plain(pattern, ".*"), value)
    wanted = f"{value[: match.start()]}<$0>{value[match.end() :]}" if match else value
    assert replace_first(pattern, value, "<$0>") == wanted


@given(PATTERN, VALUE)
def test_all_matches_are_replaced(pattern: str, value: str) -> None:
    regex = re.compile(plain(pattern, ".*"))
    assume(all(match.group() for match in regex.finditer(value)))  # empty ones have their own test
    assert replace_all(pattern, value, "<$0>") == regex.sub(lambda match: f"<{match[0]}>", value)


@pytest.mark.parametrize(
    ("pattern", "value", "result"),
    [("", "ab", "-a-b-"), ("*", "abc", "-"), ("*", "", "-"), ("*", "a\nb", "-\n-"), ("b*", "abcb", "a-"), ("?", "ab", "--")],
)
def test_empty_matches_count_as_in_go(pattern: str, value: str, result: str) -> None:
    assert replace_all(pattern, value, "-") == result


def test_references_in_replacements() -> None:
    assert replace_all("b", "abc", "[$0$$${0}$1${x}$]") == "a[b$b$]c"


@pytest.mark.parametrize("text", ["${v#*a*a*a*a*b}", "${v##*a*a*a*a*b}", "${v%%b*a*a*a*a*}", "${v/*a*a*a*b/x}", "${v//a*a*a*b/x}"])
def test_patterns_full_of_stars_take_no_time(text: str) -> None:
    value = "a" * 60_000
    start = time.monotonic()
    assert expand(text, {"v": value}) == value
    assert time.monotonic() - start < 5


def test_values_that_double_are_stopped() -> None:
    values = {"v": "x"}
    with pytest.raises(DockerfileError, match="come to more than"):
        for _ in range(40):
            values["v"] = expand("$v$v", values)
    assert len(values["v"]) <= 1 << 20
