"""What a tree says before its layers are put together: the same as after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ContentError
from engine.layer.base import Layer
from engine.layer.entries import Entry
from engine.layer.index import Index
from engine.layer.scan import scan
from engine.layer.stack import Stack, UnclearError
from engine.layer.tree import Tree
from tests.unit.layer.models import Files, any_path, chains, tar_of

LAYER = cast(Layer, None)  # a tree looks at the index only
MANY = Index([Entry(b"many", "dir", 0o755), *(Entry(b"many/%d" % n, "file", 0o644) for n in range(5000))])
"""Too much to be put together for a few paths."""


def tree_of(layers: Sequence[Index], lower: Tree | None = None) -> Tree:
    tree = lower or Tree.empty()
    for index in layers:
        tree = tree.extended(LAYER, Index.from_bytes(index.to_bytes()))
    return tree


def over(layers: Sequence[Index], base: int = 0) -> tuple[Tree, Stack]:
    """The tree of the layers, put together; and the stack of them over the lowest `base`, which may be asked very much."""
    lower = tree_of(layers[:base])
    lower.grow()
    stack = Stack(lower, base, size=10**9)
    for index in layers[base:]:
        stack = stack.over(Index.from_bytes(index.to_bytes()))
    tree = tree_of(layers)
    tree.grow()
    return tree, stack


def told(ask: Callable[[bytes], object], path: bytes) -> object:
    try:
        return ask(path)
    except KeyError:
        return KeyError


def directory(path: bytes, mode: int = 0o755) -> Entry:
    return Entry(path, "dir", mode)


def file(path: bytes, size: int = 1) -> Entry:
    return Entry(path, "file", 0o644, size=size)


OS = Index([directory(b"etc"), file(b"etc/passwd"), file(b"etc/group"), directory(b"usr"), directory(b"usr/bin"), file(b"usr/bin/sh"),
            Entry(b"bin", "symlink", 0o777, link=b"usr/bin"), Entry(b"hard", "hardlink", link=b"etc/group")],
           {b"etc/passwd": b"below", b"etc/group": b"groups"})  # fmt: skip


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize(("upper", "path"), [
    pytest.param([file(b"f")], b"etc/passwd", id="not in the layer"),
    pytest.param([directory(b"etc"), file(b"etc/passwd", 9)], b"etc/passwd", id="replaced"),
    pytest.param([Entry(b"etc/passwd", "whiteout")], b"etc/passwd", id="removed"),
    pytest.param([Entry(b"etc", "whiteout")], b"etc/passwd", id="removed with its directory"),
    pytest.param([Entry(b"etc", "whiteout"), directory(b"etc")], b"etc/passwd", id="in a directory that was made again"),
    pytest.param([Entry(b"etc", "whiteout"), directory(b"etc", 0o700)], b"etc", id="a directory that was made again"),
    pytest.param([Entry(b"etc", "whiteout"), file(b"etc/x")], b"etc", id="a directory that was made again without a word"),
    pytest.param([directory(b"etc"), Entry(b"etc", "opaque")], b"etc/passwd", id="in an opaque directory"),
    pytest.param([Entry(b"", "opaque"), file(b"f")], b"etc/passwd", id="in an opaque root"),
    pytest.param([Entry(b"", "opaque"), file(b"etc/x")], b"etc", id="a directory in an opaque root"),
    pytest.param([file(b"etc")], b"etc/passwd", id="below what is a file now"),
    pytest.param([Entry(b"etc", "symlink", 0o777, link=b"usr")], b"etc/passwd", id="below what is a link now"),
    pytest.param([directory(b"etc", 0o700)], b"etc", id="the directory itself"),
    pytest.param([directory(b"", 0o700)], b"", id="the root directory"),
    pytest.param([file(b"f")], b"", id="a root directory that nobody has named"),
    pytest.param([file(b"f")], b"bin", id="a link"),
    pytest.param([file(b"usr/bin/ls")], b"usr/bin", id="a directory that the layer does not describe"),
    pytest.param([file(b"new/er/x")], b"new/er", id="a directory that no layer describes"),
    pytest.param([directory(b"d"), file(b"d/f"), Entry(b"d/g", "hardlink", link=b"d/f")], b"d/g", id="a hard link"),
    pytest.param([directory(b"d"), file(b"d/f"), Entry(b"d/g", "hardlink", link=b"d/f")], b"d/f", id="a file with two names"),
    pytest.param([directory(b"etc"), file(b"etc/x"), Entry(b"etc/a", "whiteout")], b"etc", id="a directory of two layers"),
    pytest.param([directory(b"etc"), file(b"etc/x"), Entry(b"etc/group", "whiteout")], b"etc", id="and without what is removed"),
])  # fmt: skip
def test_what_the_layers_say_of_a_path_is_told_without_putting_them_together(upper: list[Entry], path: bytes, base: int) -> None:
    files = {entry.path: b"above" for entry in upper if entry.path == b"etc/passwd"}
    tree, stack = over([OS, Index(upper, files)], base)
    assert stack.get(path) == tree.get(path)
    assert stack.known({path, b"nowhere"}) == tree.known({path, b"nowhere"})
    assert list(stack.children(path)) == list(tree.children(path))
    assert stack.identity(path) == tree.identity(path)
    assert told(stack.read, path) == told(tree.read, path)
    if not ((entry := tree.get(path)) and entry.kind == "dir"):
        assert told(stack.locate, path) == told(tree.locate, path)


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize(("upper", "path"), [
    pytest.param([file(b"bin/ls")], b"usr/bin/ls", id="a name that leads through a link of a lower layer"),
    pytest.param([Entry(b"bin/sh", "whiteout")], b"usr/bin/sh", id="what is removed through a link"),
    pytest.param([Entry(b"bin", "opaque")], b"usr/bin/sh", id="what is emptied through a link"),
    pytest.param([Entry(b"ls", "hardlink", link=b"usr/bin/sh")], b"etc", id="beside a hard link to a lower layer's file"),
    pytest.param([Entry(b"ls", "hardlink", link=b"etc/group"), file(b"etc/group", 7)], b"ls", id="a link to what comes after it"),
])  # fmt: skip
def test_where_that_is_not_clear_they_are(upper: list[Entry], path: bytes, base: int) -> None:
    tree, stack = over([OS, Index(upper)], base)
    with pytest.raises(UnclearError):
        stack.get(path)
    for ask in (stack.locate, stack.children, stack.identity, stack.read):
        with pytest.raises(UnclearError):
            ask(path)
    lazy = tree_of([OS, Index(upper), MANY])
    assert lazy.get(path) == tree.get(path)
    assert lazy._table is not None


@pytest.mark.parametrize("upper", [
    pytest.param([file(b"etc/passwd/x")], id="below a file"),
    pytest.param([Entry(b"f", "hardlink", link=b"nowhere")], id="a hard link to nothing"),
    pytest.param([Entry(b"f", "hardlink", link=b"g"), file(b"g")], id="a hard link to what is not there yet"),
])  # fmt: skip
def test_what_makes_no_sense_does_not_go_unnoticed(upper: list[Entry]) -> None:
    with pytest.raises(ContentError):
        tree_of([OS, Index(upper), MANY]).get(b"usr")


@given(chains(), st.lists(any_path), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_it_says_what_the_tree_says(tmp_path_factory: pytest.TempPathFactory, chain: tuple[list[list[Entry]], list[Files]],
                                    others: list[bytes], base: int) -> None:  # fmt: skip
    layers, states = chain
    blob = Path(tmp_path_factory.getbasetemp()) / "stack.tar"
    indexes = []
    for entries in layers:
        blob.write_bytes(tar_of(entries))
        indexes.append(scan(str(blob)).index)
    tree, stack = over(indexes, min(base, len(indexes)))
    for path in {b"", *others, *(path.strip("/").encode() for state in states for path in state)}:
        try:
            assert stack.get(path) == tree.get(path)
            if not ((entry := tree.get(path)) and entry.kind == "dir"):  # directories have no content that lies anywhere
                assert told(stack.locate, path) == told(tree.locate, path)
            assert stack.known({path}) == tree.known({path})
            assert list(stack.children(path)) == list(tree.children(path))
            assert stack.identity(path) == tree.identity(path)
        except UnclearError:
            continue


def test_few_entries_are_put_together_at_once_and_many_when_much_is_asked() -> None:
    few = tree_of([OS])
    assert few.get(b"etc") == directory(b"etc") and few._table is not None
    many = tree_of([OS, MANY])
    assert many.read(b"etc/passwd") == b"below" and many.known([b"etc", b"x"]) == {b"etc"} and many._table is None
    upper = many.extended(LAYER, Index([directory(b"etc"), file(b"etc/new")]))
    assert upper.get(b"etc/new") == file(b"etc/new") and upper.locate(b"etc/group") == (0, b"etc/group")
    assert upper._table is None
    assert upper.known(b"many/%d" % n for n in range(3000)) == {b"many/%d" % n for n in range(3000)}
    assert upper._table is not None and upper._stack is None
    again, other = 0, tree_of([OS, MANY])
    while other._table is None:
        assert other.get(b"etc") == directory(b"etc")
        again += 1
    assert 500 < again < 2000


def test_names_are_told_as_long_as_they_are_few() -> None:
    tree = tree_of([OS, MANY])
    assert list(tree.children(b"etc")) == [b"group", b"passwd"] and tree._table is None
    assert tree.identity(b"etc/group") == tree.identity(b"hard") is not None is tree.identity(b"etc/passwd")
    assert tree._table is None


def test_a_directory_of_very_many_names_needs_the_layers_to_be_put_together() -> None:
    tree = tree_of([OS, MANY])
    assert len(tree.children(b"many")) == 5000 and tree._table is not None


def test_who_puts_them_together_meanwhile_leaves_nothing_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    tree, over = tree_of([OS, MANY]), Stack.over

    def grown_meanwhile(self: Stack, index: Index) -> Stack:
        tree.grow()
        return over(self, index)

    monkeypatch.setattr(Stack, "over", grown_meanwhile)
    assert tree.get(b"etc") == directory(b"etc")
    assert tree._table is not None and tree._stack is None
