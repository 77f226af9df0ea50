"""A few paths of a tree whose layers are not put together: the same as the tree says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.layer.tree as trees
from engine.layer.base import Layer
from engine.layer.entries import Entry
from engine.layer.glance import Glance
from engine.layer.index import Index
from engine.layer.scan import scan
from engine.layer.tree import Tree
from tests.unit.layer.models import Files, any_path, chains, tar_of

LAYER = cast(Layer, None)  # a tree looks at the index only


class Untouched:
    """A tree that must not be asked."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the whole tree was asked for {name}")


def over(layers: Sequence[Index], base: int = 0) -> tuple[Tree, Glance]:
    """The tree of the layers, and a glance at it for which the lowest `base` are put together and the tree cannot be asked."""
    lower = Tree.empty()
    for index in layers[:base]:
        lower = lower.extended(LAYER, index)
    tree = lower
    for index in layers[base:]:
        tree = tree.extended(LAYER, index)
    return tree, Glance(cast(Tree, Untouched()), lower, [Index.from_bytes(index.to_bytes()) for index in layers[base:]])


def directory(path: bytes, mode: int = 0o755) -> Entry:
    return Entry(path, "dir", mode)


def file(path: bytes, size: int = 1) -> Entry:
    return Entry(path, "file", 0o644, size=size)


OS = Index([directory(b"etc"), file(b"etc/passwd"), file(b"etc/group"), directory(b"usr"), directory(b"usr/bin"), file(b"usr/bin/sh"),
            Entry(b"bin", "symlink", 0o777, link=b"usr/bin")], {b"etc/passwd": b"below", b"etc/group": b"groups"})  # fmt: skip


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize(("upper", "path"), [
    pytest.param([file(b"f")], b"etc/passwd", id="not in the layer"),
    pytest.param([directory(b"etc"), file(b"etc/passwd", 9)], b"etc/passwd", id="replaced"),
    pytest.param([Entry(b"etc/passwd", "whiteout")], b"etc/passwd", id="removed"),
    pytest.param([Entry(b"etc", "whiteout")], b"etc/passwd", id="removed with its directory"),
    pytest.param([Entry(b"etc", "whiteout"), directory(b"etc")], b"etc/passwd", id="in a directory that was made again"),
    pytest.param([Entry(b"etc", "whiteout"), directory(b"etc", 0o700)], b"etc", id="a directory that was made again"),
    pytest.param([directory(b"etc"), Entry(b"etc", "opaque")], b"etc/passwd", id="in an opaque directory"),
    pytest.param([Entry(b"", "opaque"), file(b"f")], b"etc/passwd", id="in an opaque root"),
    pytest.param([file(b"etc")], b"etc/passwd", id="below what is a file now"),
    pytest.param([Entry(b"etc", "symlink", 0o777, link=b"usr")], b"etc/passwd", id="below what is a link now"),
    pytest.param([directory(b"etc", 0o700)], b"etc", id="the directory itself"),
    pytest.param([directory(b"", 0o700)], b"", id="the root directory"),
    pytest.param([file(b"f")], b"", id="a root directory that nobody has named"),
    pytest.param([file(b"f")], b"bin", id="a link"),
])  # fmt: skip
def test_what_the_layers_say_of_a_path_is_told_without_the_tree(upper: list[Entry], path: bytes, base: int) -> None:
    files = {entry.path: b"above" for entry in upper if entry.path == b"etc/passwd"}
    tree, glance = over([OS, Index(upper, files)], base)
    assert glance.get(path) == tree.get(path)
    try:
        content = tree.read(path)
    except KeyError:
        with pytest.raises(KeyError):
            glance.read(path)
    else:
        assert glance.read(path) == content


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize(("upper", "path"), [
    pytest.param([file(b"bin/ls")], b"usr/bin/ls", id="a name that leads through a link of a lower layer"),
    pytest.param([Entry(b"bin/sh", "whiteout")], b"usr/bin/sh", id="what is removed through a link"),
    pytest.param([Entry(b"bin", "opaque")], b"usr/bin/sh", id="what is emptied through a link"),
    pytest.param([directory(b"usr"), Entry(b"usr/ls", "hardlink", link=b"usr/bin/sh")], b"usr/ls", id="a hard link"),
    pytest.param([file(b"usr/bin/ls")], b"usr/bin", id="a directory that the layer does not describe"),
])  # fmt: skip
def test_where_the_whole_tree_has_to_be_known_it_is_asked(upper: list[Entry], path: bytes, base: int) -> None:
    tree, glance = over([OS, Index(upper)], base)
    with pytest.raises(AssertionError, match="the whole tree was asked"):
        glance.get(path)
    asking = Glance(tree, Tree.empty(), [OS, Index(upper)])
    assert asking.get(path) == tree.get(path)


@given(chains(), st.lists(any_path), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_it_says_what_the_tree_says(tmp_path_factory: pytest.TempPathFactory, chain: tuple[list[list[Entry]], list[Files]],
                                    others: list[bytes], base: int) -> None:  # fmt: skip
    layers, states = chain
    blob = Path(tmp_path_factory.getbasetemp()) / "glance.tar"
    indexes = []
    for entries in layers:
        blob.write_bytes(tar_of(entries))
        indexes.append(scan(str(blob)).index)
    tree, _ = over(indexes)
    lower = Tree.empty()
    for index in indexes[:base]:
        lower = lower.extended(LAYER, index)
    glance = Glance(tree, lower, indexes[base:])
    for path in {b"", *others, *(path.strip("/").encode() for state in states for path in state)}:
        assert glance.get(path) == tree.get(path)


def test_only_very_many_entries_are_not_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree.empty().extended(LAYER, OS)
    assert tree.glance() is tree
    monkeypatch.setattr(trees, "_LARGE", 5)
    glance = tree.glance()
    assert isinstance(glance, Glance)
    assert glance.read(b"etc/passwd") == b"below" and tree._table is None
    tree.grow()
    assert tree.glance() is tree
    upper = tree.extended(LAYER, Index([directory(b"etc"), *(file(b"etc/%d" % number) for number in range(9))]))
    assert upper.glance().get(b"etc/passwd") == file(b"etc/passwd") and upper._table is None
