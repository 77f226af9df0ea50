"""The merged view of layers, against a naive model and by example."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import cast

import pytest
from hypothesis import given, settings

from engine.errors import ContentError
from engine.layer.base import Layer
from engine.layer.entries import Entry
from engine.layer.index import Index
from engine.layer.scan import scan
from engine.layer.tree import Tree, walk
from tests.unit.layer.models import Files, Node, chains, tar_of

LAYER = cast(Layer, None)  # a tree looks at the index only


def tree_of(*layers: Sequence[Entry], files: dict[bytes, bytes] | None = None) -> Tree:
    tree = Tree.empty()
    for entries in layers:
        tree = tree.extended(LAYER, Index(entries, files))
    return tree


def seen(tree: Tree) -> Files:
    """All that a tree shows, as the model has it."""
    out: Files = {}
    for entry in walk(tree):
        path = "/" + entry.path.decode()
        assert tree.get(entry.path) == entry
        out[path] = Node(entry.kind, entry.mode, entry.uid, entry.gid, link=entry.link.decode(), inode=tree.identity(entry.path))
    return out


def same(got: Files, want: Files) -> None:
    """Equal but for contents, and hard links are of the same files."""
    assert {p: (n.kind, n.mode, n.uid, n.gid, n.link) for p, n in got.items()} \
        == {p: (n.kind, n.mode, n.uid, n.gid, n.link) for p, n in want.items()}
    for one in want:
        for other in want:
            linked = want[one].inode is not None and want[one].inode == want[other].inode
            assert linked == (got[one].inode is not None and got[one].inode == got[other].inode) or one == other


@given(chains())
@settings(max_examples=60, deadline=None)
def test_a_tree_is_what_a_naive_model_says(tmp_path_factory: pytest.TempPathFactory, chain: tuple[list[list[Entry]], list[Files]]) -> None:
    layers, states = chain
    blob = Path(tmp_path_factory.getbasetemp()) / "layer.tar"
    tree, sizes = Tree.empty(), []
    for entries, state in zip(layers, states, strict=True):
        blob.write_bytes(tar_of(entries))
        tree = tree.extended(LAYER, scan(str(blob)).index)
        same(seen(tree), state)
        asked = {path.strip("/").encode() for each in states for path in each}
        assert tree.known(asked) == {path for path in asked if tree.get(path) is not None}
        for path in state:
            entry = tree.get(path.strip("/").encode())
            assert entry and entry.size == len(state[path].content)
        sizes.append(entries)
    # A file's bytes are where the tree says: in the entry of that path of that layer, or in what that is a hard link to.
    for entry in walk(tree):
        if entry.kind == "file":
            layer, at = tree.locate(entry.path)
            own = {e.path: e for e in scan_entries(blob, sizes[layer])}
            found = own[at]
            assert (own[found.link] if found.kind == "hardlink" else found).size == entry.size


def scan_entries(blob: Path, entries: Sequence[Entry]) -> tuple[Entry, ...]:
    blob.write_bytes(tar_of(entries))
    return scan(str(blob)).entries


def test_an_older_tree_stays_as_it_was() -> None:
    one = tree_of([Entry(b"a", "dir", 0o700), Entry(b"a/f", "file")])
    two = one.extended(LAYER, Index([Entry(b"a/f", "whiteout"), Entry(b"a/g", "file")]))
    three = one.extended(LAYER, Index([Entry(b"a/h", "file")]))
    assert list(two.children(b"a")) == [b"g"]
    assert list(three.children(b"a")) == [b"f", b"h"]
    assert list(one.children(b"a")) == [b"f"]


def test_the_root_is_there_always_and_takes_its_own_entry() -> None:
    assert Tree.empty().get(b"") == Entry(b"", "dir", 0o755)
    assert tree_of([Entry(b"", "dir", 0o700, 5)]).get(b"") == Entry(b"", "dir", 0o700, 5)
    assert tree_of([Entry(b"a", "file")], [Entry(b"", "opaque")]).children(b"") == []


def test_nothing_is_there_and_nothing_is_in_a_file() -> None:
    tree = tree_of([Entry(b"f", "file")])
    assert tree.get(b"g") is None and tree.get(b"f/x") is None
    assert list(tree.children(b"f")) == list(tree.children(b"nothing")) == []
    with pytest.raises(KeyError):
        tree.owner_layer(b"g")
    assert list(walk(tree, b"g")) == []


def test_a_hard_link_is_shown_as_the_file() -> None:
    tree = tree_of([Entry(b"a", "file", 0o600, 7, size=3), Entry(b"b", "hardlink", link=b"a"), Entry(b"c", "file")])
    assert tree.get(b"b") == Entry(b"b", "file", 0o600, 7, size=3)
    assert tree.identity(b"a") == tree.identity(b"b") is not None
    assert tree.identity(b"c") is None
    assert tree.locate(b"b") == (0, b"b")


def test_a_hard_link_to_a_lower_layer_is_that_layer_s_file() -> None:
    tree = tree_of([Entry(b"a", "file", size=3)], [Entry(b"b", "hardlink", link=b"a")], [Entry(b"a", "whiteout")])
    assert tree.get(b"a") is None
    assert tree.get(b"b") == Entry(b"b", "file", size=3)
    assert tree.locate(b"b") == (0, b"a")


def test_files_below_a_symlink_of_a_lower_layer_lie_where_it_leads() -> None:
    tree = tree_of([Entry(b"run", "dir", 0o711), Entry(b"var", "dir"), Entry(b"var/run", "symlink", 0o777, link=b"/run")],
                   [Entry(b"var/run/x/pid", "file", size=1)])  # fmt: skip
    assert tree.get(b"run/x/pid") == Entry(b"run/x/pid", "file", size=1)
    assert tree.get(b"run/x") == Entry(b"run/x", "dir", 0o755)
    assert tree.locate(b"run/x/pid") == (1, b"var/run/x/pid")
    assert tree.get(b"var/run") == Entry(b"var/run", "symlink", 0o777, link=b"/run")
    gone = tree.extended(LAYER, Index([Entry(b"var/run/x", "whiteout")]))
    assert list(gone.children(b"run")) == []


def test_consulted_files_follow_the_layers() -> None:
    one = tree_of([Entry(b"etc/passwd", "file", size=3)], files={b"etc/passwd": b"one"})
    two = one.extended(LAYER, Index([Entry(b"etc/passwd", "file", size=3)], {b"etc/passwd": b"two"}))
    gone = two.extended(LAYER, Index([Entry(b"etc/passwd", "whiteout")]))
    other = two.extended(LAYER, Index([Entry(b"etc/passwd", "file", size=1 << 30)]))
    assert (one.read(b"etc/passwd"), two.read(b"etc/passwd")) == (b"one", b"two")
    for tree in (gone, other):
        with pytest.raises(KeyError):
            tree.read(b"etc/passwd")
    with pytest.raises(KeyError):
        one.source(b"etc/passwd")


def test_a_long_chain_of_small_layers_keeps_all_and_goes_through_the_tables() -> None:
    tree = tree_of([Entry(b"d%d" % (i % 50), "dir") if i < 50 else Entry(b"d%d/f%d" % (i % 50, i), "file") for i in range(6000)])
    for layer in range(12):
        more = [Entry(b"d%d/n%d" % (i % 50, layer * 1000 + i), "file") for i in range(1000)]
        tree = tree.extended(LAYER, Index([*more, Entry(b"d%d/f%d" % (layer + 1, 51 + layer), "whiteout")]))
        tree.get(b"")
    assert sum(1 for _ in walk(tree)) == 1 + 6000 + 12000 - 12
    assert tree.owner_layer(b"d7/n3007") == 4


@pytest.mark.parametrize("layers", [
    [[Entry(b"a", "hardlink", link=b"b")]],
    [[Entry(b"d", "dir"), Entry(b"a", "hardlink", link=b"d")]],
    [[Entry(b"f", "file")], [Entry(b"f/x", "file")]],
    [[Entry(b"f", "file"), Entry(b"f/x", "file")]],
])  # fmt: skip
def test_what_makes_no_sense_is_a_content_error(layers: list[list[Entry]]) -> None:
    with pytest.raises(ContentError):
        tree_of(*layers).get(b"")


def test_several_threads_may_look_first() -> None:
    layers = [[Entry(b"etc", "dir", 0o755), Entry(b"etc/passwd", "file", 0o644, size=1),
               *(Entry(f"etc/{n}-{i}".encode(), "file", 0o644) for i in range(200))] for n in range(6)]  # fmt: skip
    indexes = [Index(entries, {b"etc/passwd": b"%d" % n}) for n, entries in enumerate(layers)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            trees = [Tree.empty()]
            for index in indexes:
                trees.append(trees[-1].extended(LAYER, index))
            start = Barrier(8)

            def look(n: int, trees: Sequence[Tree] = tuple(trees), start: Barrier = start) -> bytes:
                start.wait()
                tree = trees[-1 - n % 3]
                assert tree.get(b"etc/0-0") is not None
                return tree.read(b"etc/passwd")

            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(look, range(8))) == [b"%d" % (5 - n % 3) for n in range(8)]
    finally:
        sys.setswitchinterval(interval)


def test_a_root_directory_that_is_alone_is_kept() -> None:
    tree = tree_of([Entry(b"", "dir", 0o700, uid=5)], [Entry(b"a", "file", 0o644)])
    root = tree.get(b"")
    assert root is not None
    assert (root.mode, root.uid) == (0o700, 5)
