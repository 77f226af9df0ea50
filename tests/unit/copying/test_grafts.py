"""Subtrees that are taken as they are: the same copies, digests and changes as entry by entry."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.context.directory import DirectoryTree
from engine.errors import CopyError
from engine.layer.entries import Entry
from engine.solve.copying import Copied, Copies, CopyPlan, CopyRequest, Dependence, digest_items
from engine.solve.copying.fingerprint import LEAST, fingerprinted
from engine.solve.steps.rows import Rows
from tests.unit.copying.test_copy_properties import PATHS, SPECS, sane, write


class ByEntries:
    """A tree without subtrees."""

    def __init__(self, tree: DirectoryTree) -> None:
        self.get, self.children, self.source, self.identity, self.read = (
            tree.get, tree.children, tree.source, tree.identity, tree.read)  # fmt: skip


def planned(request: CopyRequest, tree: DirectoryTree | ByEntries, below: DirectoryTree) -> Copies | str:
    plan = CopyPlan(request, below)
    try:
        plan.add_sources(tree)
        return plan.result()
    except CopyError as error:
        return str(error)


def changes(copies: Copies, tree: DirectoryTree) -> list[tuple[Entry, bytes]]:
    rows = Rows(copies, tree.source, lambda _: (b"", 0), tree.state).take()
    states = memoryview(rows.states).cast("q")
    sources = rows.sources.split(b"\0") if rows.count else []
    for n, source in enumerate(sources):
        if source:
            found = os.lstat(source)
            assert (states[2 * n], states[2 * n + 1]) == (found.st_ino, found.st_ctime_ns)
        else:
            assert (states[2 * n], states[2 * n + 1]) == (0, 0)
    return [(copied.entry, source) for copied, source in zip(copies, sources, strict=True)]


@settings(deadline=None, max_examples=150)
@given(source=SPECS.map(sane), image=SPECS.map(sane), links=st.lists(st.tuples(PATHS, PATHS), max_size=3),
       sources=st.lists(st.sampled_from([b".", b"a", b"b", b"a/b", b"c*"]), min_size=1, max_size=3),
       to=st.sampled_from([b"/", b"/t/", b"/a/", b"/b/c/"]), mode=st.sampled_from([None, "750", "u+x,go-w"]),
       owner=st.sampled_from([None, (3, 4)]))  # fmt: skip
def test_grafts_are_what_their_entries_are(tmp_path_factory, source, image, links, sources, to, mode, owner):
    base = tmp_path_factory.mktemp("graft")
    (base / "source").mkdir()
    (base / "image").mkdir()
    write(base / "source", source)
    write(base / "image", image)
    for old, new in links:
        old_path, new_path = base / "source" / old, base / "source" / new
        if old_path.is_file() and not old_path.is_symlink() and not os.path.lexists(new_path) and new_path.parent.is_dir():
            os.link(old_path, new_path)
    tree, below = DirectoryTree(str(base / "source")), DirectoryTree(str(base / "image"))
    request = CopyRequest(tuple(sources), to, b"/", owner=owner, mode=mode)
    ours, theirs = planned(request, tree, below), planned(request, ByEntries(DirectoryTree(str(base / "source"))), below)
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours == theirs
        return
    assert list(ours) == list(theirs)
    assert len(ours) == len(theirs)
    digests = {copied.from_path: "ab" * 32 for copied in theirs if copied.from_path is not None}
    for graft in ours.grafts:
        graft.subtree.learn(bytes.fromhex("ab" * 32) * len(graft.subtree))
    one, other = Dependence(ours), Dependence(theirs)
    one.learn(digests)
    other.learn(digests)
    assert list(digest_items(one.columns)) == list(digest_items(other.columns))
    assert list(one.names()) == list(other.names())
    assert changes(ours, tree) == changes(theirs, tree)
    shutil.rmtree(base)


def tree_of_files(root: Path, count: int) -> DirectoryTree:
    for n in range(count):
        place = root / f"d{n % 7}" / f"f{n}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(str(n))
    return DirectoryTree(str(root))


def test_a_new_directory_is_a_graft_and_one_that_is_there_is_looked_into(tmp_path):
    context = tree_of_files(tmp_path / "context", 20)
    (tmp_path / "context" / "top").write_text("x")
    (tmp_path / "image" / "app" / "d3").mkdir(parents=True)
    image = DirectoryTree(str(tmp_path / "image"))
    fresh = planned(CopyRequest((b".",), b"/new/", b"/"), context, image)
    assert isinstance(fresh, Copies)
    assert [graft.target for graft in fresh.grafts] == [b"new"]
    merged = planned(CopyRequest((b".",), b"/app/", b"/"), context, image)
    assert isinstance(merged, Copies)
    assert sorted(graft.target for graft in merged.grafts) == [b"app/d%d" % n for n in range(7) if n != 3]
    assert {copied.entry.path for copied in merged.own} >= {b"app/top", b"app/d3/f3"}


def test_digests_of_a_packed_layer_find_their_files(tmp_path):
    context = tree_of_files(tmp_path / "context", 30)
    (tmp_path / "context" / "d1-").write_text("sorted between d1 and what is in it")
    copies = planned(CopyRequest((b".",), b"/new/", b"/"), context, DirectoryTree(str(tmp_path / "context")))
    assert isinstance(copies, Copies)
    rows = Rows(copies, context.source, lambda _: (b"", 0), context.state)
    order = [copied.from_path or b"" for copied in copies]
    files, subtrees = rows.digests(b"".join(path.ljust(32, b"-") for path in order))
    assert not files
    for subtree, digests in subtrees:
        subtree.learn(digests)
    for path in order:
        if path:
            assert context.digest(path) == path.ljust(32, b"-")


def many(tmp_path: Path) -> tuple[Path, CopyRequest]:
    root = tmp_path / "context"
    tree_of_files(root, LEAST)
    (root / "d1" / "link").symlink_to("f1")
    return root, CopyRequest((b".",), b"/new/", b"/")


def print_of(root: Path, request: CopyRequest) -> bytes:
    found = fingerprinted(request, DirectoryTree(str(root)))
    assert found is not None
    return found.fingerprint


def test_a_fingerprint_tells_of_every_change(tmp_path):
    root, request = many(tmp_path)
    seen = [print_of(root, request)]
    assert print_of(root, request) == seen[0]

    def relink() -> None:
        (root / "d1" / "link").unlink()
        (root / "d1" / "link").symlink_to("f8")

    def replace() -> None:
        status = os.stat(root / "d1" / "f1")
        (root / "d1" / "other").write_text("2")
        os.utime(root / "d1" / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
        os.rename(root / "d1" / "other", root / "d1" / "f1")

    for change in (lambda: (root / "d2" / "new").touch(), lambda: (root / "d2" / "f2").unlink(), relink, replace,
                   lambda: os.chmod(root / "d3", 0o700), lambda: os.rename(root / "d4" / "f4", root / "d5" / "f4"),
                   lambda: os.utime(root / "d6" / "f6", ns=(1, 1)), lambda: os.rename(root / "d5", root / "e5")):  # fmt: skip
        change()
        seen.append(print_of(root, request))
    assert len(set(seen)) == len(seen)
    for other in (CopyRequest((b".",), b"/else/", b"/"), CopyRequest((b"./",), b"/new/", b"/", mode="700"),
                  CopyRequest((b".",), b"/new/", b"/", exclude=("x",))):  # fmt: skip
        assert print_of(root, other) not in seen


def test_only_whole_directories_with_many_files_have_a_fingerprint(tmp_path):
    root, request = many(tmp_path)
    tree = DirectoryTree(str(root))
    assert fingerprinted(request, tree) is not None
    for other in (CopyRequest((b"d1",), b"/", b"/"), CopyRequest((b"*",), b"/", b"/"), CopyRequest((b".",), b"/", b"/", parents=True),
                  CopyRequest((b".", b"d1/f1"), b"/", b"/")):  # fmt: skip
        assert fingerprinted(other, tree) is None
    assert fingerprinted(request, ByEntries(tree)) is None
    os.mkfifo(root / "d1" / "fifo")
    assert fingerprinted(request, DirectoryTree(str(root))) is not None
    with pytest.raises(CopyError, match="not found"):
        fingerprinted(CopyRequest((b"nope",), b"/", b"/"), tree)


def test_a_fingerprint_is_settled_when_every_file_is(tmp_path):
    root, request = many(tmp_path)
    found = fingerprinted(request, DirectoryTree(str(root)))
    last = max(os.stat(path).st_ctime_ns for path in root.rglob("f*"))
    assert found is not None
    assert found.settled(last + 3 * 10**9)
    assert not found.settled(last)


def test_a_copied_entry_of_a_graft_has_no_digest_of_its_own(tmp_path):
    context = tree_of_files(tmp_path / "context", 3)
    copies = planned(CopyRequest((b".",), b"/new/", b"/"), context, DirectoryTree(str(tmp_path / "context")))
    assert isinstance(copies, Copies)
    copies.grafts[0].subtree.learn(b"x" * 32 * len(copies.grafts[0].subtree))
    assert all(isinstance(copied, Copied) and not copied.entry.digest for copied in copies)
