"""Paths through links."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import CopyError
from engine.layer.entries import Entry
from engine.layer.resolve import follow, resolve

LINKS = {b"abs": b"/usr/bin", b"usr/rel": b"bin", b"up": b"../../../etc", b"usr/lib": b"../lib64/./", b"chain": b"abs", b"to-root": b"/",
         b"self": b"self", b"a": b"b", b"b": b"a", b"usr/dots": b"..", b"dangling": b"no/such/thing"}  # fmt: skip


@pytest.mark.parametrize(("path", "want"), [
    (b"", b""), (b"/", b""), (b"usr/bin/x", b"usr/bin/x"), (b"/usr//./bin/", b"usr/bin"), (b"abs/x", b"usr/bin/x"),
    (b"usr/rel/x", b"usr/bin/x"), (b"up", b"etc"), (b"usr/lib/c", b"lib64/c"), (b"chain/x", b"usr/bin/x"), (b"to-root/abs", b"usr/bin"),
    (b"../../x", b"x"), (b"abs/../y", b"usr/y"), (b"usr/dots/x", b"x"), (b"dangling/new", b"no/such/thing/new"), (b"new/../x", b"x"),
])  # fmt: skip
def test_paths_are_followed_inside_the_root(path: bytes, want: bytes) -> None:
    assert follow(path, LINKS.get) == want


@pytest.mark.parametrize(("path", "want"), [(b"abs", b"abs"), (b"chain/..", b"usr"), (b"to-root/abs", b"abs"), (b"usr/rel", b"usr/rel")])
def test_the_last_name_is_left_when_asked(path: bytes, want: bytes) -> None:
    assert follow(path, LINKS.get, follow_last=False) == want


@pytest.mark.parametrize("path", [b"self", b"a/x", b"b"])
def test_a_circle_is_an_error(path: bytes) -> None:
    with pytest.raises(CopyError, match="too many links"):
        follow(path, LINKS.get)


def test_as_many_links_as_are_allowed_and_one_more() -> None:
    links = {b"%d" % i: b"%d" % (i + 1) for i in range(256)}
    assert follow(b"1", links.get) == b"256"
    with pytest.raises(CopyError):
        follow(b"0", links.get)


def test_a_link_longer_than_any_path_is_an_error() -> None:
    with pytest.raises(CopyError):
        follow(b"x", {b"x": b"a/" * 3000}.get)


names = st.sampled_from([b"a", b"b", b"c"])
texts = st.lists(st.one_of(names, st.just(b".."), st.just(b"."), st.just(b"")), max_size=4).map(b"/".join)


@settings(deadline=None)
@given(st.dictionaries(st.lists(names, min_size=1, max_size=2).map(b"/".join), texts.filter(len), max_size=6), texts, st.booleans())
def test_nothing_leads_out_and_what_comes_out_has_no_links(links: dict[bytes, bytes], path: bytes, last: bool) -> None:
    try:
        real = follow(path, links.get, follow_last=last)
    except CopyError:
        return
    parts = real.split(b"/") if real else []
    assert not {b"", b".", b".."} & set(parts)
    followed = parts if last else parts[:-1]
    assert all(b"/".join(parts[: i + 1]) not in links for i in range(len(followed)))
    assert follow(real, links.get, follow_last=last) == real


def test_in_a_tree_only_symlinks_are_followed() -> None:
    class Files:
        def get(self, path: bytes) -> Entry | None:
            return {b"l": Entry(b"l", "symlink", link=b"d"), b"d": Entry(b"d", "dir", link=b"x")}.get(path)

    assert resolve(Files(), b"l/f") == b"d/f"  # type: ignore[arg-type]
    assert resolve(Files(), b"l", follow_last=False) == b"l"  # type: ignore[arg-type]
