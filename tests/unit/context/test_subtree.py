"""What is below a directory, by columns: in the order of the paths, whatever bytes are in names."""

from __future__ import annotations

import os
import shutil

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.context.directory import DirectoryTree
from engine.layer.columns import KINDS

NAMES = st.sampled_from(["a", "a-", "a-b", "a.", "a!", "a0", "b", "a\x01", "é"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@settings(deadline=None, max_examples=50)
@given(files=st.sets(PATHS, max_size=12), directories=st.sets(PATHS, max_size=4))
def test_rows_are_in_the_order_of_their_paths(tmp_path_factory, files, directories):
    root = tmp_path_factory.mktemp("subtree")
    for path in sorted(directories):
        (root / path).mkdir(parents=True, exist_ok=True)
    for path in sorted(files):
        if not (root / path).is_dir() and not any(parent.is_file() for parent in (root / path).parents):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(path)
    os.symlink("text", root / "a-link")
    tree = DirectoryTree(str(root))
    subtree = tree.subtree(b"")
    assert subtree is not None
    columns = subtree.columns(b"to/")
    there = sorted(os.fsencode(path.relative_to(root)) for path in root.rglob("*"))
    assert columns.paths == [b"to/" + path for path in there]
    assert len(subtree) == len(there)
    for at, (path, entry) in enumerate(zip(there, columns.entries(), strict=True)):
        assert entry == tree.get(path)._replace(path=b"to/" + path)
        assert KINDS[columns.kinds[at]] == entry.kind
    states = subtree.states()
    assert [tuple(states[at : at + 2]) for at in range(0, len(states), 2)] == [tree.state(path) or (0, 0) for path in there]
    subtree.learn(b"".join(path.rjust(32, b"*")[-32:] for path in there))
    assert [tree.digest(path) for path in there] == [path.rjust(32, b"*")[-32:] for path in there]
    shutil.rmtree(root)


def test_it_is_told_how_much_is_listed_while_that_is_done(tmp_path):
    for path in ("a/b/1", "a/2", "c/3", "c/4", "c/5"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    counts: list[int] = []
    tree = DirectoryTree(str(tmp_path))
    subtree = tree.subtree(b"", counts.append)
    assert subtree is not None
    assert counts == sorted(counts)
    assert len(counts) == 4
    assert counts[-1] == len(subtree) == 8
