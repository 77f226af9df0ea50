"""Expansion of variables: the rules A2 and 1 to 15, 83 and 84 of the Dockerfile rules."""

from __future__ import annotations

import pytest

from engine.dockerfile.expand import expand, expand_heredoc, expand_words, expansion, heredoc_expansion
from engine.errors import DockerfileError

VARIABLES = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": ""}

RESULTS = [
    # words, quotes and escapes
    ("hello", "hello"),
    ("he'll'o", "hello"),
    (r"he\'llo", "he'llo"),
    (r"abc\tdef", "abctdef"),
    (r'"abc\tdef"', r"abc\tdef"),
    (r'"abc\\tdef"', r"abc\tdef"),
    (r"'abc\tdef'", r"abc\tdef"),
    (r"'hello\\there'", r"hello\\there"),
    (r'"hello\\there"', r"hello\there"),
    ("hello\\", "hello"),
    ("hello\\\\", "hello\\"),
    ("'hello\\'", "hello\\"),
    ('"$"', "$"),
    ("he\"llo $PWD's\"", "hello /home's"),
    ("'$PWD'", "$PWD"),
    ('"\\$PWD"', "$PWD"),
    ("  two  words ", "  two  words "),
    # plain variables
    ("$.", "$."),
    ("he$PWD.", "he/home."),
    ("he$1x", "hex"),
    ("he$.x", "he$.x"),
    ("he$pwd.", "he."),
    ("$@@@", "@@"),
    ("$*x$#y$?z$-a$!b$0", "xyzab"),
    ("$12x", "x"),
    ("$$", ""),
    ("a$", "a$"),
    ("\\${}", "${}"),
    ("${PWD}", "/home"),
    ("${aaa}}", "}"),
    ("$KOREAN 안녕", "한국어 안녕"),
    ("$변수", ""),
    ("${#}", ""),
    # defaults and alternatives
    ("${aaa:-bbb}", "bbb"),
    ("${aaa:-${PWD}}", "/home"),
    ("${aaa:-${bbb:-ccc}}", "ccc"),
    ("${PWD:-999}", "/home"),
    ("${NULL:-x}", "x"),
    ("${NULL-x}", ""),
    ("${aaa-x}", "x"),
    ("${PWD:+more}", "more"),
    ("${PWD:+${SHELL}}", "bash"),
    ("${NULL:+x}", ""),
    ("${NULL+x}", "x"),
    ("${aaa:+x}", ""),
    ("${aaa+x}", ""),
    ('${aaa:-"a b"}', "a b"),
    ("${aaa:-'}'}", "}"),
    ("${aaa:-\\}}", "}"),
    ("${NULL?}", ""),
    ("${PWD:?no}", "/home"),
    ("${a:-1}${b-2}", "12"),
]

FAILURES = [
    (r"he\\'llo", "unexpected end of statement while looking for matching single-quote"),
    ("he'llo", "unexpected end of statement while looking for matching single-quote"),
    (r'"hello\"', "unexpected end of statement while looking for matching double-quote"),
    ('"$PWD', "unexpected end of statement while looking for matching double-quote"),
    ("${}", "syntax error: bad substitution"),
    ("${{a}}", "syntax error: bad substitution"),
    ("${:x}", "syntax error: bad substitution"),
    ("${", "syntax error: missing '}'"),
    ("${.}", "unsupported modifier (.) in substitution"),
    ("${XXX:YYY}", "unsupported modifier (:Y) in substitution"),
    ("${PWD:=0}", "unsupported modifier (:=) in substitution"),
    ("${FOO=}", "unsupported modifier (=) in substitution"),
    ("${FOO:#}", "unsupported modifier (:#) in substitution"),
    ("${aaa", "unsupported modifier (\ufffd) in substitution"),
    ("${aaa:", "syntax error: missing '}'"),
    ("${aaa:-b", "syntax error: missing '}'"),
    ("${aaa:-'b}", "syntax error: missing '}'"),
    ("${NULL:?}", "NULL: is not allowed to be empty"),
    ("${NULL:?is empty}", "NULL: is empty"),
    ("${XXX?}", "XXX: is not allowed to be unset"),
    ("${XXX:?no $SHELL}", "XXX: no bash"),
    ("${PWD//ww}", "syntax error: missing '/' in ${}"),
    ("${PWD//}", "syntax error: missing '/' in ${}"),
    ("${PWD/a/b", "syntax error: missing '}'"),
    ("${PWD#\\x}", "invalid pattern (\\x) in substitution: invalid escape '\\x'"),
]


@pytest.mark.rule(1, 2, 3, 4, 5)
@pytest.mark.parametrize(("text", "result"), RESULTS)
def test_expansion_of_words(text: str, result: str) -> None:
    assert expand(text, VARIABLES) == result


@pytest.mark.rule(1, 3, 4, 5, 6, 8)
@pytest.mark.parametrize(("text", "message"), FAILURES)
def test_expansion_that_fails_quotes_the_text_and_says_why(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        expand(text, VARIABLES)
    assert caught.value.message.startswith("failed to process ")
    assert caught.value.message.endswith(f": {message}")


def test_the_text_in_an_error_is_quoted_as_go_does() -> None:
    with pytest.raises(DockerfileError) as caught:
        expand('"/a\t\x01ü', {})
    assert caught.value.message.startswith('failed to process "\\"/a\\t\\x01ü": ')


@pytest.mark.rule(8)
@pytest.mark.parametrize(
    ("text", "value", "result"),
    [
        ("${v#()[]{\\}^$.\\*\\?|\\\\}", "()[]{}^$.*?|\\x", "x"),
        ("${v%%\\**}", "xx**", "xx"),
        ("${v#*x*y}", "xxyy", "y"),
        ("${v#*}", "xxyy", "xxyy"),
        ("${v##*}", "xxyy", ""),
        ("${v##*x}", "xxyy", "yy"),
        ("${v#?\\?}", "???y", "?y"),
        ("${v%%\\**\\*}", "a***yy*", "a"),
        ("${v%}", "xxyy", "xxyy"),
        ("${v#}", "xxyy", "xxyy"),
        ("${v##}", "xxyy", "xxyy"),
        ("${v%y*}", "xxyy", "xxy"),
        ("${v%%y*}", "xxyy", "xx"),
        ("${v%.*}", "a.tar.gz", "a.tar"),
        ("${v%%.*}", "a.tar.gz", "a"),
        ("${v#*/}", "a/b/c", "b/c"),
        ("${v##*/}", "a/b/c", "c"),
        ("${v/x/z}", "xxyy", "zxyy"),
        ("${v//x/z}", "xxyy", "zzyy"),
        ("${v//x/}", "xxyy", "yy"),
        ("${v///}", "xxyy", "xxyy"),
        ("${v//\\//\\/}", "/tmp/foo.txt", "\\/tmp\\/foo.txt"),
        ("${v//*/X}", "abc", "X"),
        ("${v/b*/X}", "abcb", "aX"),
        ("${v//?/<$0>}", "ab", "<><>"),
        ("${v//b/'<\\$0>'}", "abc", "a<\\b>c"),
        ("${v/b/[x]}", "abc", "a[x]c"),
        ("${v%[a-c]}", "xa", "xa"),
    ],
)
def test_patterns(text: str, value: str, result: str) -> None:
    assert expand(text, {"v": value}) == result


@pytest.mark.rule(9)
def test_patterns_may_come_from_variables() -> None:
    assert expand("${FOO/$NEEDLE/.} - ${FOO//$NEEDLE/.}", {"FOO": "/foo*/*/*.txt", "NEEDLE": "\\*/"}) == (
        "/foo.*/*.txt - /foo..*.txt"
    )
    assert expand("${FOO/$N/$R} - ${FOO//$N/$R}", {"FOO": "/a/foo/b/c.txt", "N": "/?/", "R": "/"}) == "/foo/b/c.txt - /foo/c.txt"
    assert expand("busy${image#idle}", {"image": "idlebox"}) == "busybox"


@pytest.mark.rule(7)
def test_unset_empty_and_set_are_told_apart() -> None:
    values = {"FOO": "xxx", "BAR": ""}
    assert expand("${FOO-aaa} ${BAR-bbb} ${BAZ-ccc}", values) == "xxx  ccc"
    assert expand("${FOO:-aaa} ${BAR:-bbb} ${BAZ:-ccc}", values) == "xxx bbb ccc"
    assert expand("${FOO+a} ${BAR+b} ${BAZ+c}", values) == "a b "


def test_backtick_as_the_escape_makes_a_backslash_plain_text() -> None:
    assert expand("C:\\dir\\$A `$A \"`$A `x\"", {"A": "v"}, escape="`") == "C:\\dir\\v $A $A `x"
    assert expand("end`", {}, escape="`") == "end"


@pytest.mark.rule(103)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("80 443", ["80", "443"]),
        ("$P", ["1", "2"]),
        ('"$P"', ["1 2"]),
        ("\\ $P", [" 1", "2"]),
        ("a$P'b c'", ["a1", "2b c"]),
        ("$NONE", []),
        ("''", []),
        ("${X:-a b}c", ["a", "bc"]),
        ("80${X:-81}", ["8081"]),
    ],
)
def test_words_are_split_after_expansion(text: str, words: list[str]) -> None:
    assert expand_words(text, {"P": "1 2"}) == words


@pytest.mark.rule(84)
@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("plain\n", "plain\n"),
        ("\"$A\" '$A' $B\n", "\"v\" 'v' \n"),
        ("end \\\nnext\n", "end \nnext\n"),
        ("two \\\\ one \\n \\$A\n", "two \\ one n $A\n"),
        ("it's\n", "it's\n"),
        ("${B:-'x'}\n", "'x'\n"),
    ],
)
def test_heredoc_bodies_keep_their_quotes(body: str, result: str) -> None:
    assert expand_heredoc(body, {"A": "v"}) == result


def test_heredoc_bodies_escape_with_the_backslash_whatever_the_directive() -> None:
    assert expand_heredoc("`$A \\$A", {"A": "v"}, escape="`") == "`v $A"


def test_the_variables_that_had_a_say_are_reported() -> None:
    found = expansion("$A ${B:-$C} '$D' ${A:-$E}", {"A": "1"})
    assert (found.text, found.words) == ("1  $D 1", ("1", "$D", "1"))
    assert (found.used, found.undefined) == ({"A"}, {"B", "C", "E"})
    assert heredoc_expansion("'$A' $B", {"A": "1"}).undefined == {"B"}


def test_endless_nesting_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(DockerfileError, match="nested too deeply"):
        expand("${a:-" * 20_000 + "}" * 20_000, {})
