"""Ignore files (rules A4, 95 to 98), with the cases patternmatcher is tested with."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dockerfile.glob import match_go_glob
from engine.dockerfile.ignore import IgnoreMatcher, parse_patterns
from engine.errors import ContextError

EXACT, BELOW, NEVER = "the path itself", "through a directory above it", "not at all"


@pytest.mark.parametrize(
    ("pattern", "path", "how"),
    [
        ("**", "file", EXACT),
        ("**/", "dir/file", EXACT),
        ("**/**", "dir/file", EXACT),
        ("dir/**", "dir/file", EXACT),
        ("dir/**", "dir/dir2/file", EXACT),
        ("dir/**", "dir", NEVER),
        ("**/dir", "dir", EXACT),
        ("**/dir", "dir/file", BELOW),
        ("**/dir2/*", "dir/dir2/file", EXACT),
        ("**/dir2/*", "dir/dir2/file/x", BELOW),
        ("**/dir2/**", "dir/dir2/dir3/file", EXACT),
        ("**file", "file", EXACT),
        ("**file", "dir/myfile", EXACT),
        ("**/file", "dir/dir/file", EXACT),
        ("**/file", "dir/myfile", NEVER),
        ("**/file*", "dir/dir/file.txt", EXACT),
        ("**/file*txt", "dir/dir/file.txt", EXACT),
        ("**/**/*.txt", "dir/dir/file.txt", EXACT),
        ("**/**/*.txt2", "dir/dir/file.txt", NEVER),
        ("**/*.txt", "file.txt", EXACT),
        ("a**/*.txt", "a/file.txt", EXACT),
        ("a**/*.txt", "a/dir/dir/file.txt", EXACT),
        ("a/*.txt", "a/dir/file.txt", NEVER),
        ("a/*.txt**", "a/file.txt", EXACT),
        ("a[b-d]e", "ace", EXACT),
        ("a[b-d]e", "aae", NEVER),
        ("a[^b-d]e", "aze", EXACT),
        (".*", ".foo", EXACT),
        (".*", "foo", NEVER),
        ("abc.def", "abcdef", NEVER),
        ("abc.def", "abcZdef", NEVER),
        ("abc?def", "abcZdef", EXACT),
        ("**/foo/bar", "dir/dir2/foo/bar", EXACT),
        ("abc/**", "abc/def/ghi", EXACT),
        ("a.c^/**", "a.c^/x", EXACT),
        ("a.c/**", "abc/x", NEVER),
        ("**/.foo", "bar.foo", NEVER),
        ("a(b)c/def", "a(b)c/def", EXACT),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", EXACT),
        ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", EXACT),
        ("a\\*b", "a*b", EXACT),
        ("a\\\\", "a\\", EXACT),
        ("foo", "foo/bar", BELOW),
        ("foo", "a/foo", NEVER),
        ("f?", "f33", NEVER),
        ("g[0-9]", "ga", NEVER),
        ("x-[!1]", "x-1", EXACT),
        ("x-[!1]", "x-2", NEVER),
        ("[[]a]", "[a]", EXACT),
        ("a^b", "a^b", EXACT),
        ("a^*", "a^b", NEVER),
        ("^*", "b", EXACT),
        ("a\\d?", "a1x", EXACT),
        ("한?", "한국", EXACT),
        # patternmatcher does not escape these as it means to, once there is a wildcard too
        ("foo|x?", "foobar", EXACT),
        ("a{2}?", "aab", EXACT),
        ("{a}*", "{a}b", EXACT),
        ("a{,2}*", "a{,2}", EXACT),
        ("a{2}", "a{2}", EXACT),
        ("a**/b**/c", "a/x/b/y/c", EXACT),
        ("a**b", "a/ab", NEVER),
        ("a**b", "a/b", EXACT),
        ("*a*b", "xaaxb", EXACT),
        ("*/*a*/**/b/**", "x/yay/z/b/c", EXACT),
        ("\\***", "*x/y", EXACT),
        ("*.md", "a\n.md", EXACT),
        ("a*", "a", EXACT),
    ],
)
def test_single_patterns(pattern: str, path: str, how: str) -> None:
    matcher = IgnoreMatcher([pattern])
    assert matcher.excluded(path) is (how != NEVER)
    assert matcher.match(path)[0] is (how == EXACT)


@pytest.mark.rule(95)
@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        (["**", "!util/docker/web"], "util/docker/web/foo", False),
        (["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", True),
        (["**", "!dist/*.whl"], "dist/a.whl", False),
        (["!fileutils.go", "*.go"], "fileutils.go", True),
        (["*.go", "!fileutils.go"], "fileutils.go", False),
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs", "!docs/README.md"], "docs/x", True),
        (["docs/*", "!docs/README.md"], "docs/README.md", False),
        (["*.md", "!README*.md", "README-secret.md"], "README-secret.md", True),
        (["*.md", "!README*.md", "README-secret.md"], "README.md", False),
        (["a", "!a/b", "a/b/c"], "a/b/c", True),
        (["a", "!a/b", "a/b/c"], "a/b/d", False),
        # A `!` that changed nothing for the directory is not remembered for what is in it, as in BuildKit's walk.
        (["dir/f", "!dir"], "dir/f", True),
        ([], "x", False),
    ],
)
def test_several_patterns(patterns: list[str], path: str, excluded: bool) -> None:
    assert IgnoreMatcher(patterns).excluded(path) is excluded


@pytest.mark.rule(97)
def test_patterns_of_a_file() -> None:
    text = (
        b"\xef\xbb\xbftest1\n/test2\n/a/file/here\n\nlastfile\n# comment\n # x\r\n! /inverted/abs/path\n"
        b"./c/d/\ne/../g\nb/\n/\n  spaced name \n!./q\n..\n"
    )
    assert parse_patterns(text) == (
        "test1", "test2", "a/file/here", "lastfile", "# x", "!inverted/abs/path", "c/d", "g", "b", "/", "spaced name", "!q", "..",
    )  # fmt: skip


@pytest.mark.rule(97)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\n!\n", 'illegal exclusion pattern: "!"'),
        (b"a\n! \n", 'illegal exclusion pattern: "!"'),
        (b"a\n[\n", "syntax error in pattern"),
        (b"a\n![]a]\n", "syntax error in pattern"),
        (b"a\n\\q*\n", "syntax error in pattern"),
        (b"a\nx*[z-a]\n", "syntax error in pattern"),
    ],
)
def test_bad_patterns_name_their_line(text: bytes, message: str) -> None:
    with pytest.raises(ContextError) as caught:
        parse_patterns(text)
    assert caught.value.message == message
    assert caught.value.hint is not None and "line 2" in caught.value.hint


def test_patterns_full_of_wildcards_take_no_time() -> None:
    patterns = ["*a" * 12 + "b", "**/a/" * 12 + "x", "**/*a*a*a/" * 6 + "x", "*[ab]" * 4 + "c"]
    matcher = IgnoreMatcher(patterns)
    start = time.monotonic()
    for path in ("a" * 255, "/".join("a" * 2000), "/".join(["aaaaaa"] * 500)):
        assert matcher.match(path) == (False, 0)
    assert time.monotonic() - start < 5


def test_patterns_that_could_take_long_are_refused() -> None:
    with pytest.raises(ContextError, match="too complex"):
        IgnoreMatcher(["*[^a]" * 5])
    assert IgnoreMatcher(["*[^a]" * 4]).excluded("bbbb")


def test_an_endless_line_is_refused() -> None:
    with pytest.raises(ContextError, match="line 1 is too long"):
        parse_patterns(b"x" * 70_000)


def test_names_that_are_not_utf8() -> None:
    matcher = IgnoreMatcher(parse_patterns(b"a\xff\n*.\xfe?\n"))
    assert matcher.excluded(b"a\xff") and matcher.excluded(b"x.\xfe\xfd")
    assert not matcher.excluded(b"a\xfe")


@pytest.mark.parametrize(
    ("patterns", "directory", "skip"),
    [
        (["node_modules"], "node_modules", True),
        (["node_modules"], "src", False),
        (["a", "!a/b"], "a", False),
        (["a", "!a/b/c"], "a/b", False),
        (["a", "!a/b/c"], "a/x", True),
        (["a", "!a/*/c"], "a/x", False),
        (["a", "!b"], "a", True),
        (["*", "!**/keep"], "a", False),
        (["*", "!src/*.go"], "docs", True),
        (["*", "!src/*.go"], "src", False),
        (["*", "!src/*.go"], "src/deep", True),
        (["*", "!s[r]c/x"], "src", False),
        (["*", "!*"], "a", False),
    ],
)
def test_directories_that_a_walk_may_leave_out(patterns: list[str], directory: str, skip: bool) -> None:
    matcher = IgnoreMatcher(patterns)
    state, parts = 0, directory.split("/")
    for i in range(len(parts)):
        _, state = matcher.match("/".join(parts[: i + 1]), state)
    assert matcher.may_skip_subtree(directory, state) is skip
    assert matcher.may_skip_subtree(directory.encode(), state) is skip


NAMES = st.sampled_from(["a", "b", "ab", "c.x", ".h"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PIECES = st.sampled_from(["a", "b", "ab", "*", "**", "?", "a*", "*.x", ".h", "[ab]", "[^a]", "\\a", "c.x"])
PATTERNS = st.lists(
    st.tuples(st.booleans(), st.lists(PIECES.filter(lambda p: p != "\\a"), min_size=1, max_size=3).map("/".join)).map(
        lambda t: ("!" if t[0] else "") + t[1]
    ),
    max_size=6,
)


def one_by_one(pattern: str, path: str) -> bool:
    """A pattern against a path, by another way than the matcher's: `**` by trying, the rest as Go's globs."""
    if "**" not in pattern:
        return match_go_glob(pattern, path)
    regex = ""
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]*\]|.", pattern):
        regex += {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token) or (
            token if token.startswith("[") else re.escape(token)
        )
    if pattern.startswith("**") and pattern != "**" and not re.search(r"[*?\[]", pattern[2:]):
        suffix = pattern[2:]
        return path.endswith(suffix) or (suffix.startswith("/") and path == suffix[1:])
    return re.fullmatch(regex, path) is not None


def plainly(patterns: list[str], path: str) -> bool:
    """patternmatcher's `MatchesUsingParentResults` from the root down, word for word."""
    matched_before: list[bool] = []
    excluded = False
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        prefix = "/".join(parts[:depth])
        excluded, now = False, []
        for i, pattern in enumerate(patterns):
            negated = pattern.startswith("!")
            match = matched_before[i] if matched_before else False
            if not match:
                if negated != excluded:
                    now.append(False)
                    continue
                match = one_by_one(pattern.removeprefix("!"), prefix)
            now.append(match)
            if match:
                excluded = not negated
        matched_before = now
    return excluded


@given(patterns=PATTERNS, path=PATHS)
def test_the_matcher_agrees_with_the_plain_algorithm(patterns: list[str], path: str) -> None:
    assert IgnoreMatcher(patterns).excluded(path) is plainly(patterns, path)


@given(patterns=PATTERNS, paths=st.lists(PATHS, min_size=1, max_size=12))
def test_a_walk_that_skips_finds_the_same_as_asking_for_each(patterns: list[str], paths: list[str]) -> None:
    matcher = IgnoreMatcher(patterns)
    tree: dict[str, dict[str, object]] = {}
    everything = sorted({"/".join(p.split("/")[:i]) for p in paths for i in range(1, p.count("/") + 2)})
    for path in everything:
        node = tree
        for part in path.split("/"):
            node = node.setdefault(part, {})  # type: ignore[assignment]  # a tree of dictionaries
    kept: list[str] = []

    def walk(node: dict[str, object], above: str, state: int) -> None:
        for name, below in node.items():
            path = f"{above}{name}"
            excluded, own = matcher.match(path, state)
            if not excluded:
                kept.append(path)
            if isinstance(below, dict) and not matcher.may_skip_subtree(path, own):
                walk(below, f"{path}/", own)

    walk(tree, "", 0)  # type: ignore[arg-type]
    assert sorted(kept) == [path for path in everything if not matcher.excluded(path)]


@given(data=st.binary(max_size=60))
def test_any_file_gives_patterns_or_an_error(data: bytes) -> None:
    try:
        patterns = parse_patterns(data)
    except ContextError:
        return
    matcher = IgnoreMatcher(patterns)
    for path in ("a", "a/b", b"\xff/x"):
        matcher.excluded(path)
