"""A directory as a file tree: kinds, ignore rules, and nothing from outside."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.context.directory import DirectoryTree
from engine.dockerfile.ignore import IgnoreMatcher
from engine.errors import ContextError


def make(root: Path, *paths: str) -> Path:
    """Files (with their name as content), directories (`d/`) and links (`l -> x`)."""
    for path in paths:
        name, arrow, target = path.partition(" -> ")
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if arrow:
            place.symlink_to(target)
        elif name.endswith("/"):
            place.mkdir(exist_ok=True)
        else:
            place.write_text(place.name)
    return root


def walk(tree: DirectoryTree, path: bytes = b"") -> list[str]:
    """All visible paths."""
    out = []
    for child in tree.children(path):
        inner = path + b"/" + child if path else child
        out.append(os.fsdecode(inner))
        entry = tree.get(inner)
        assert entry is not None and entry.path == inner
        if entry.kind == "dir":
            out += walk(tree, inner)
    return out


def test_entries_have_kind_mode_size_and_time_and_belong_to_root(tmp_path):
    make(tmp_path, "f", "d/s/", "l -> ../nowhere")
    os.chmod(tmp_path / "f", 0o4751)
    os.utime(tmp_path / "f", ns=(1, 1_000_000_007))
    tree = DirectoryTree(str(tmp_path))
    f, d, link = tree.get(b"f"), tree.get(b"d"), tree.get(b"l")
    assert (f.kind, f.mode, f.size, f.mtime, f.uid, f.gid) == ("file", 0o4751, 1, 1_000_000_007, 0, 0)
    assert (d.kind, link.kind, link.link, link.mode) == ("dir", "symlink", b"../nowhere", 0o777)
    assert tree.children(b"") == [b"d", b"f", b"l"]
    assert tree.read(b"f") == b"f"
    assert tree.source(b"f") == (os.fsencode(tmp_path / "f"), 0)
    assert tree.get(b"").kind == "dir"


def test_odd_kinds_and_names(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.relpath(tmp_path / "sock"))
    (tmp_path / "new\nline").touch()
    open(os.fsencode(tmp_path) + b"/\xff", "w").close()
    tree = DirectoryTree(str(tmp_path))
    assert tree.children(b"") == [b"fifo", b"new\nline", b"sock", b"\xff"]
    assert (tree.get(b"fifo").kind, tree.get(b"sock").kind, tree.get(b"sock").size) == ("fifo", "file", 0)
    assert tree.source(b"sock") == (b"/dev/null", 0)
    assert tree.key(b"sock") is None


def test_hard_links_have_one_identity(tmp_path):
    make(tmp_path, "a", "c")
    os.link(tmp_path / "a", tmp_path / "b")
    tree = DirectoryTree(str(tmp_path))
    tree.children(b"")
    assert tree.identity(b"a") == tree.identity(b"b") is not None
    assert tree.identity(b"c") is None


@pytest.mark.parametrize("path", [b"l/f", b"out/passwd", b"f/x", b"nope", b"nope/x", b"l/../f"])
def test_nothing_is_behind_links_and_files(tmp_path, path):
    make(tmp_path, "f", "d/f", "l -> d", "out -> /etc")
    tree = DirectoryTree(str(tmp_path))
    assert tree.get(path) is None
    assert tree.children(path) == ()


def test_a_path_can_be_asked_for_before_its_directories_are(tmp_path):
    make(tmp_path, "a/b/c/d")
    assert DirectoryTree(str(tmp_path)).get(b"a/b/c/d").kind == "file"
    assert list(DirectoryTree(str(tmp_path)).children(b"a/b")) == [b"c"]


def test_one_state_is_seen_for_the_whole_build(tmp_path):
    make(tmp_path, "d/a")
    tree = DirectoryTree(str(tmp_path))
    assert list(tree.children(b"d")) == [b"a"]
    make(tmp_path, "d/b")
    assert list(tree.children(b"d")) == [b"a"]
    assert tree.get(b"d/b") is None


@pytest.mark.parametrize(("patterns", "visible"), [
    (["a"], ["b", "b/x", "b/y", "c"]), (["b/x"], ["a", "b", "b/y", "c"]), (["*", "!b/x"], ["b", "b/x"]), (["**"], []),
    (["*", "!c"], ["c"]), (["b", "!b/nope"], ["a", "c"]), (["**/x"], ["a", "b", "b/y", "c"]), (["b/*"], ["a", "b", "c"]),
])
def test_ignored_files_are_invisible_and_directories_show_when_something_in_them_does(tmp_path, patterns, visible):
    make(tmp_path, "a", "b/x", "b/y", "c")
    tree = DirectoryTree(str(tmp_path), IgnoreMatcher(patterns))
    assert walk(tree) == visible
    for path in ("a", "b", "b/x", "b/y", "c"):
        assert (tree.get(path.encode()) is not None) == (path in visible)


@pytest.mark.parametrize(("patterns", "path", "ignored"), [
    (["b/x"], "", True), (["b/x"], "b", True), (["b/x"], "b/x", True), (["b/x"], "b/y", False), (["b/x"], "d", False),
    (["nope"], "", False),
    (["d/e/f"], "d", True), (["d/e/f"], "b", False), ([], "", False), (["b", "!b/*"], "b", False), (["b", "!b/x"], "b", True),
    (["nope"], "absent", False), (["b"], "b", True),
])
def test_whether_something_is_ignored_below_a_path(tmp_path, patterns, path, ignored):
    make(tmp_path, "b/x", "b/y", "d/e/f", "d/e/g")
    tree = DirectoryTree(str(tmp_path), IgnoreMatcher(patterns) if patterns else None)
    assert tree.ignored_below(path.encode()) is ignored


def test_a_tree_deeper_than_the_stack(tmp_path):
    depth = 1500
    home = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("keep").touch()
        os.chdir(home)
        tree = DirectoryTree(str(tmp_path), IgnoreMatcher(["**", "!**/keep"]))
        assert list(tree.children(b"")) == [b"d"]
        assert tree.get(b"/".join([b"d"] * depth + [b"keep"])) is not None
    finally:
        os.chdir(home)
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


def test_what_is_no_directory_cannot_be_a_context(tmp_path):
    with pytest.raises(ContextError, match="No such file"):
        DirectoryTree(str(tmp_path / "nope"))


NAMES = st.sampled_from(["a", "b", "c", "ab", "x.txt", "y.md"])
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12, unique=True)
PARTS = st.sampled_from(["a", "b", "c", "*", "**", "?", "a*", "*.txt", "[ab]", "x.txt"])
PATTERNS = st.lists(st.builds(lambda negated, parts: ("!" if negated else "") + "/".join(parts), st.booleans(),
                              st.lists(PARTS, min_size=1, max_size=3)), max_size=5)


@settings(deadline=None, max_examples=300)
@given(paths=PATHS, patterns=PATTERNS)
def test_the_walk_shows_what_filtering_all_paths_leaves(tmp_path_factory, paths, patterns):
    root = tmp_path_factory.mktemp("walk")
    for path in paths:
        if not any(p != path and (p.startswith(path + "/") or path.startswith(p + "/")) for p in paths):
            make(root, path)
    every = walk(DirectoryTree(str(root)))
    matcher = IgnoreMatcher(patterns)
    chosen = {path for path in every if not matcher.excluded(path)}
    expected = [path for path in every if path in chosen or any(other.startswith(path + "/") for other in chosen)]
    assert walk(DirectoryTree(str(root), matcher)) == expected
    shutil.rmtree(root)


def test_what_cannot_be_read_is_named_with_a_way_out(tmp_path, monkeypatch):
    make(tmp_path, "secret/x", "open")
    tree = DirectoryTree(str(tmp_path), IgnoreMatcher(["secret"]))
    real = os.scandir

    def scandir(path):
        if os.fsdecode(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr("engine.context.directory.os.scandir", scandir)
    assert walk(tree) == ["open"], "what is ignored need not be readable"
    with pytest.raises(ContextError) as error:
        walk(DirectoryTree(str(tmp_path)))
    assert error.value.message == "cannot read /secret of the build context: Permission denied"
    assert ".dockerignore" in str(error.value.hint)
