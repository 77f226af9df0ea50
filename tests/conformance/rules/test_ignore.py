"""Ignore files, rule by rule (95–98)."""

from __future__ import annotations

import pytest

from .images import Case, case

pytestmark = pytest.mark.system

BARE = {"/c": "d 755 0:0"}
CASES = [
    case("the-last-match-wins", 95, dockerfile="FROM scratch\nCOPY . /c",
         context={".dockerignore": "ba*\n!bay\nDockerfile\n.dockerignore\n", "foo": "foo", "bar": "", "baz": "", "bay": "bay"},
         files=BARE | {"/c/foo": "- 644 0:0 foo", "/c/bay": "- 644 0:0 bay"}),
    case("a-file-for-one-dockerfile", 96, dockerfile="FROM scratch", context={
         ".dockerignore": "a\n", "Dockerfile2.dockerignore": "b\n*ockerfile*\n.d*\n", "Dockerfile2": "FROM scratch\nCOPY . /c", "a": "a",
         "b": "b"}, named="Dockerfile2", files=BARE | {"/c/a": "- 644 0:0 a"}),
    case("without-one-the-common-file", 96, dockerfile="FROM scratch", context={
         ".dockerignore": "a\n*ockerfile*\n.d*\n", "Dockerfile2": "FROM scratch\nCOPY . /c", "a": "a", "b": "b"},
         named="Dockerfile2", files=BARE | {"/c/b": "- 644 0:0 b"}),
    case("a-lone-exclamation-mark", 97, dockerfile="FROM scratch\nCOPY . /c", context={".dockerignore": "a\n!\n"},
         error="illegal exclusion pattern"),
    case("a-number-sign-after-a-blank", 97, dockerfile="FROM scratch\nCOPY . /c",
         context={".dockerignore": " # x\n*ockerfile\n.d*\n#y\n", "# x": "", "x": "x", "#y": "y"},
         files=BARE | {"/c/x": "- 644 0:0 x", "/c/#y": "- 644 0:0 y"}),
    case("an-ignored-file-is-not-there", 98, dockerfile="FROM scratch\nCOPY hidden /", context={".dockerignore": "hidden", "hidden": ""},
         error='"/hidden": not found'),
    case("stages-are-not-filtered", 98, dockerfile="FROM @busybox AS s\nRUN touch /hidden\nFROM scratch\nCOPY --from=s /hidden /",
         context={".dockerignore": "hidden"}, files={"/hidden": "- 644 0:0"}),
    case("a-child-of-an-ignored-directory-comes-back", 95, dockerfile="FROM scratch\nCOPY . /c",
         context={".dockerignore": "*\n!sub/keep\n", "sub/keep": "k", "sub/drop": "", "x": ""},
         files=BARE | {"/c/sub": "d 755 0:0", "/c/sub/keep": "- 644 0:0 k"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_ignored_files(shop, case: Case) -> None:
    named = case.options.get("named")
    if named is None:
        shop.check(case)
    else:
        folder = shop.context(case.context)
        assert shop.build(case.dockerfile, folder=folder, file=str(folder / named)).files == case.files


@pytest.mark.rule(98)
def test_copying_an_ignored_file_is_warned_of_when_asked_for(shop) -> None:
    context = {".dockerignore": "hidden", "hidden": "", "kept": ""}
    dockerfile = "# check=experimental=all\nFROM scratch AS unused\nCOPY hidden /\nFROM scratch\nCOPY kept /"
    assert shop.build(dockerfile, context).warnings == ["CopyIgnoredFile"]
    assert shop.build(dockerfile.partition("\n")[2], context).warnings == []
