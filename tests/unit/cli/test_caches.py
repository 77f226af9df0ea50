"""The flags about caches: what is asked for, and what is refused."""

from __future__ import annotations

import os

import pytest

from engine.cli import amounts
from engine.cli.caches import CacheFlags, caches
from engine.errors import UsageError
from engine.image.reference import CACHE_LAYOUT, Reference
from engine.request import CacheLocation

A, B = Reference.parse("reg:5000/a"), Reference.parse("reg:5000/b:main")


def test_nothing_is_asked_for() -> None:
    assert caches([], [], None, []) == CacheFlags((), None, ())


def test_several_are_read_and_one_is_written() -> None:
    found = caches(["type=registry,ref=reg:5000/a", "reg:5000/b:main"], ["type=registry,ref=reg:5000/a,mode=max"], None, ["x,y", "z"])
    assert found == CacheFlags((CacheLocation(A, image=True), CacheLocation(B, image=True)), CacheLocation(A, "max"), ("x", "y", "z"))
    assert caches([], ["reg:5000/a"], None, []).target == CacheLocation(A, "min")


def test_the_short_form_of_both() -> None:
    assert caches([], [], "reg:5000/a", []) == CacheFlags((CacheLocation(A, "max"),), CacheLocation(A, "max"), ())


def test_directories_are_read_and_written() -> None:
    found = caches(["type=local,src=/c/one", "type=local,src=two,tag=trunk"], ["type=local,dest=/c/../d,mode=max"], None, [])
    two = Reference(CACHE_LAYOUT, os.path.abspath("two"), "trunk")
    assert found.sources == (CacheLocation(Reference(CACHE_LAYOUT, "/c/one")), CacheLocation(two))
    assert found.target == CacheLocation(Reference(CACHE_LAYOUT, "/d"), "max")
    assert not found.inline


def test_a_cache_in_the_image_is_written_beside_another() -> None:
    assert caches([], ["type=inline"], None, []) == CacheFlags((), None, (), inline=True)
    both = caches([], ["type=inline,mode=min", "type=registry,ref=reg:5000/a,ignore-error=true"], None, [])
    assert (both.target, both.inline) == (CacheLocation(A), True)


@pytest.mark.parametrize(
    ("read", "write", "repository", "scopes", "text"),
    [
        (["type=local"], [], None, [], "is named by src"),
        (["type=local,dest=x"], [], None, [], "unexpected key 'dest'"),
        (["type=local,src=x,ref=a"], [], None, [], "unexpected key 'ref'"),
        ([], ["type=local,src=x"], None, [], "unexpected key 'src'"),
        ([], ["type=local,dest=x,tag=a b"], None, [], "invalid tag"),
        ([], ["type=local,dest=x", "type=registry,ref=a"], None, [], "only one cache can be written"),
        (["type=inline"], [], None, [], "cannot be of type inline"),
        ([], ["type=inline,mode=max"], None, [], "only have mode=min"),
        ([], ["type=inline,ref=a"], None, [], "unexpected key 'ref'"),
        ([], ["type=gha"], None, [], "type gha are not supported"),
        ([], ["type=registri,ref=a"], None, [], "unsupported cache type 'registri'"),
        ([], ["type=registry"], None, [], "is named by ref"),
        ([], ["type=registry,ref=a,mode=most"], None, [], "unsupported cache mode"),
        ([], ["type=registry,ref=a,dest=b"], None, [], "unexpected key 'dest'"),
        (["type=registry,ref=a,mode=max"], [], None, [], "unexpected key 'mode'"),
        ([], ["a", "b"], None, [], "only one cache can be written"),
        ([], ["a"], "b", [], "only one cache can be written"),
        ([], [], None, ["x"], "--cache-scope needs a cache"),
        (["a"], [], None, ["x y"], "invalid cache scope"),
        (["A"], [], None, [], "must be lowercase"),
        ([], ["type=registry,ref=a,image-manifest=false"], None, [], "can only be true"),
    ],
)
def test_mistakes(read: list[str], write: list[str], repository: str | None, scopes: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        caches(read, write, repository, scopes)


def test_times_and_sizes() -> None:
    assert [amounts.seconds(t) for t in (None, "90", "90s", "1.5h", "7d", "2w")] == [None, 90, 90, 5400, 604800, 1209600]
    assert [amounts.size(t) for t in (None, "10", "500MB", "1GiB", "1.5kb", "2T")] == [
        None, 10, 500_000_000, 1 << 30, 1500, 2_000_000_000_000]
    for text in ("", "h", "1 year"):
        with pytest.raises(UsageError, match="invalid time"):
            amounts.seconds(text)
    with pytest.raises(UsageError, match="invalid size"):
        amounts.size("many")
