"""Git and http URLs: which is which, and what is in them."""

from __future__ import annotations

import pytest

from engine.context.http import file_name
from engine.context.remote import GitUrl, is_git_context, is_git_url, is_http_url, parse_git_url
from engine.errors import CopyError


@pytest.mark.parametrize("text", [
    "https://h/r.git", "http://h:80/a/r.git#x", "https://u:p@h/r.git?ref=x#", "git://h/r", "ssh://git@h:22/r", "git@h:a/r.git",
    "git@github.com:moby/buildkit.git#v1:sub", "https://h/r.git?subdir=x", "HTTPS://h/r.git",
])
def test_git_urls(text):
    assert is_git_url(text)
    assert not is_http_url(text)
    assert is_git_context(text)


@pytest.mark.parametrize("text", [
    "https://h/r", "http://h/x.git/y", "./git@h:r.git", "../r.git", "r.git", "github.com/a/b", "file:///r.git", "dir", "a:b",
    "https://h/?x=.git",
    "C:/x", "@h:r", "https://[h/r.git",
])
def test_what_is_no_git_url(text):
    assert not is_git_url(text)
    assert is_http_url(text) == text.startswith("http")


def test_github_names_a_repository_for_contexts_only():
    assert is_git_context("github.com/a/b")
    assert parse_git_url("github.com/a/b#dev").remote == "https://github.com/a/b"


@pytest.mark.parametrize(("text", "url"), [
    ("https://h/r.git", GitUrl("https://h/r.git")),
    ("https://h/r.git#v1", GitUrl("https://h/r.git", "v1")),
    ("https://h/r.git#v1:a/b", GitUrl("https://h/r.git", "v1", "a/b")),
    ("https://h/r.git#:a", GitUrl("https://h/r.git", "", "a")),
    ("git@h:r.git#a/b:c", GitUrl("git@h:r.git", "a/b", "c")),
    ("git@h:r.git?branch=b", GitUrl("git@h:r.git", "refs/heads/b")),
    ("https://h/r.git?tag=v1", GitUrl("https://h/r.git", "refs/tags/v1")),
    ("https://h/r.git?tag=refs/tags/v1", GitUrl("https://h/r.git", "refs/tags/v1")),
    ("https://h/r.git?ref=x&subdir=d&keep-git-dir=1&submodules=false&mtime=commit",
     GitUrl("https://h/r.git", "x", "d", "", True, False, True)),
    ("https://h/r.git?keep-git-dir", GitUrl("https://h/r.git", keep_git_dir=True)),
    ("https://h/r.git?keep-git-dir=false", GitUrl("https://h/r.git", keep_git_dir=False)),
    ("https://h/r.git?checksum=abc123", GitUrl("https://h/r.git", "abc123", checksum="abc123")),
    ("https://h/r.git?ref=x&commit=abc123#x", GitUrl("https://h/r.git", "x", checksum="abc123")),
    ("https://u:p@h/r.git#x", GitUrl("https://u:p@h/r.git", "x")),
    ("git://h:9418/r#caf%C3%A9", GitUrl("git://h:9418/r", "café")),
])
def test_parts(text, url):
    assert parse_git_url(text) == url


@pytest.mark.parametrize(("text", "message"), [
    ("https://h/r.git?ref=a#b", 'ref conflicts: "b" vs "a"'), ("https://h/r.git?subdir=a#:b", 'subdir conflicts: "b" vs "a"'),
    ("https://h/r.git?tag=a&branch=a", "branch conflicts with tag"), ("https://h/r.git?ref=a&ref=b",
    'query "ref" has multiple values'),
    ("https://h/r.git?ref=", 'query "ref" has no value'), ("https://h/r.git?nope=1", 'unexpected query "nope"'),
    ("https://h/r.git?submodules=maybe", 'invalid submodules value: "maybe"'), ("https://h/r.git?mtime=now",
    'invalid mtime value: "now"'),
    ("https://h/r.git#--upload-pack=x", "invalid git ref: --upload-pack=x"), ("https://h/r.git#a..b", "invalid git ref: a..b"),
    ("https://h/r.git#:../x", "invalid directory in a git URL: ../x"), ("https://h/r.git#a b", "invalid git ref: a b"),
    ("dir", "dir is no git URL"),
])
def test_contradictions_and_tricks(text, message):
    with pytest.raises(CopyError) as error:
        parse_git_url(text)
    assert error.value.message == message


@pytest.mark.parametrize(("url", "name"), [
    ("http://h/foo", "foo"), ("http://h/a/b.tgz?x=/y", "b.tgz"), ("http://h/a/", "a"), ("http://h/", "__unnamed__"),
    ("http://h", "__unnamed__"), ("http://h?x=y", "__unnamed__"), ("http://h/a%20b", "a b"), ("http://h/a%2Fb", "b"),
    ("http://h/..", "__unnamed__"), ("http://h/x#f", "x"),
])
def test_the_name_of_a_download(url, name):
    assert file_name(url) == name
