"""Sources of COPY and ADD that are not files of the context (rules 92 and 93)."""

from __future__ import annotations

import pytest

from engine.dockerfile.instructions import Copy
from engine.dockerfile.sources import check_sources, is_git_source, is_http_source
from engine.errors import DockerfileError

SHA = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("https://h/r.git", "git"),
        ("https://h/r.git#v1:sub", "git"),
        ("http://h/r.git?tag=x", "git"),
        ("git@github.com:a/b", "git"),
        ("ssh://git@h/r", "git"),
        ("git://h/r", "git"),
        ("https://h/f?x=.git", "http"),
        ("http://h/", "http"),
        ("github.com/a/b", "file"),
        ("./a@b:c", "file"),
        ("a.git", "file"),
        ("httpx", "file"),
    ],
)
def test_kinds_of_sources(source: str, kind: str) -> None:
    assert (is_git_source(source), is_http_source(source)) == (kind == "git", kind == "http")


@pytest.mark.rule(92, 93)
@pytest.mark.parametrize(
    ("copy", "message"),
    [
        (Copy(("a", "http://h/f"), "/"), "source can't be a URL for COPY"),
        (Copy(("git@h:a/b",), "/"), "source can't be a git ref for COPY"),
        (Copy(("a",), "/", add=True, checksum=SHA), "checksum requires HTTP(S) or Git sources"),
        (Copy(("http://a/", "http://b/"), "/", add=True, checksum=SHA), "checksum can't be specified for multiple sources"),
        (Copy(("http://a/",), "/", add=True, checksum="md5:00"), 'unsupported digest algorithm: "md5"'),
        (Copy(("http://a/",), "/", add=True, checksum="bad"), 'invalid checksum digest format: "bad"'),
        (Copy(("http://a/",), "/", add=True, checksum="sha256:bad"), 'invalid checksum digest length: "sha256:bad"'),
    ],
)
def test_sources_that_are_refused(copy: Copy, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        check_sources(copy)
    assert caught.value.message == message


@pytest.mark.parametrize(
    "copy",
    [
        Copy(("a", "github.com/x/y"), "/"),
        Copy(("http://a/f",), "/", add=True, checksum=SHA),
        Copy(("https://a/r.git",), "/", add=True, checksum="0123abcd"),
        Copy(("http://a/", "git@h:x"), "/", add=True),
    ],
)
def test_sources_that_are_fine(copy: Copy) -> None:
    check_sources(copy)
