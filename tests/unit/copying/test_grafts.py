"""Subtrees that are taken as they are: the same copies, digests and changes as entry by entry."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.context.directory import DirectoryTree
from engine.errors import CopyError
from engine.layer.entries import Entry
from engine.solve.copying import Copied, Copies, CopyPlan, CopyRequest, Dependence
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
    assert one.digest(digests) == other.digest(digests)
    assert one.listing() == other.listing()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.solve.copying.digest.MOST_LISTED", 3)
        assert one.listing() == other.listing()
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


def test_grafts_and_other_entries_come_in_the_order_of_their_paths(tmp_path):
    context = tmp_path / "context"
    for path in ("a/x", "a-b", "b-", "b/y/z", "b.", "c", "d/e/f", "d/old/g"):
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        (context / path).write_text(path)
    (tmp_path / "image" / "app" / "d" / "old").mkdir(parents=True)
    tree, image = DirectoryTree(str(context)), DirectoryTree(str(tmp_path / "image"))
    copies = planned(CopyRequest((b".",), b"/app/", b"/"), tree, image)
    assert isinstance(copies, Copies)
    assert sorted(graft.target for graft in copies.grafts) == [b"app/a", b"app/b", b"app/d/e"]
    paths = [copied.entry.path for copied in copies]
    assert paths == sorted(paths)
    assert len(paths) == len(copies) == 15
    assert [entry.path for entry, _ in changes(copies, tree)] == paths


def test_what_changes_in_a_graft_changes_the_key_and_the_listing_says_where(tmp_path, monkeypatch):
    root = tmp_path / "context"
    tree_of_files(root, 30)
    (root / "d1" / "in").mkdir()
    (root / "d1" / "in" / "link").symlink_to("x")
    (root / "d1" / "empty").touch()

    def looked(**options: str | tuple[int, int]) -> tuple[str, dict[str, str], dict[str, str]]:
        tree = DirectoryTree(str(root))
        copies = planned(CopyRequest((b".",), b"/new/", b"/", **options), tree, tree)  # type: ignore[arg-type]
        assert isinstance(copies, Copies) and copies.grafts
        for prefix, listing in copies.grafts[0].subtree.parts:
            listing.digests = bytearray(b"".join(  # type: ignore[attr-defined, misc]
                hashlib.sha256((root / os.fsdecode(prefix + name)).read_bytes()).digest() if kind == 0 else bytes(32)
                for name, kind in zip(listing.names, listing.kinds, strict=True)))
        on = Dependence(copies)
        found = on.digest({})
        few = on.listing()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("engine.solve.copying.digest.MOST_LISTED", 20)
            return found, few, on.listing()

    before = looked()
    assert set(before[2]) == {*(f"d{n}" for n in range(7)), "new/d1/in"}
    assert len(before[1]) == 32
    assert len({before[0], *(looked(**options)[0] for options in ({"owner": (1, 0)}, {"owner": (0, 1)}, {"mode": "711"}))}) == 4

    def relink() -> None:
        (root / "d1" / "in" / "link").unlink()
        (root / "d1" / "in" / "link").symlink_to("y")

    for change, name, folder in (
            (lambda: (root / "d2" / "f2").write_text("3"), "d2/f2", "d2"), (lambda: os.chmod(root / "d3" / "f3", 0o700), "d3/f3", "d3"),
            (relink, "new/d1/in/link", "new/d1/in"), (lambda: (root / "d1" / "empty").write_text("x"), "d1/empty", "d1")):  # fmt: skip
        change()
        after = looked()
        assert after[0] != before[0]
        assert {path for path in after[1] if after[1][path] != before[1][path]} == {name}
        assert {path for path in after[2] if after[2][path] != before[2][path]} == {folder}
        before = after
    os.utime(root / "d2" / "f2", ns=(1, 1))
    assert looked() == before, "times do not count"
    os.chmod(root / "d1" / "in", 0o700)
    assert looked()[0] != before[0], "modes of directories do"


def test_files_that_come_from_several_directories_are_listed_by_where_they_come_from(monkeypatch):
    monkeypatch.setattr("engine.solve.copying.digest.MOST_LISTED", 3)

    def listed(mode: int) -> dict[str, str]:
        own = [Copied(Entry(b"to/%d" % n, "file", mode if n == 3 else 0o644), b"%b/f%d" % (b"xy"[n % 2 : n % 2 + 1], n)) for n in range(6)]
        on = Dependence(Copies([Copied(Entry(b"to", "dir", 0o755)), *own, Copied(Entry(b"to/link", "symlink", link=b"t"))]))
        on.digest({})
        return on.listing()

    one, two = listed(0o644), listed(0o600)
    assert sorted(one) == ["to", "x", "y"]
    assert {name for name in one if one[name] != two[name]} == {"y"}


@pytest.mark.parametrize("known", [False, True])
def test_a_file_of_a_graft_without_a_digest_gives_no_key(tmp_path, known):
    context = tree_of_files(tmp_path / "context", 20)
    (tmp_path / "context" / "d1" / "empty").touch()
    copies = planned(CopyRequest((b".",), b"/new/", b"/"), context, DirectoryTree(str(tmp_path / "context")))
    assert isinstance(copies, Copies)
    if known:
        copies.grafts[0].subtree.learn(b"x" * 32 * len(copies.grafts[0].subtree))
        context.learn(b"d3/f3", bytes(32))
    with pytest.raises(KeyError, match="f3" if known else "f0"):
        Dependence(copies).digest({})
    context.learn(b"d3/f3", b"y" * 32)
    if known:
        Dependence(copies).digest({})
