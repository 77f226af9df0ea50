"""What counts as changed, decided on values alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.image.descriptor import OCI_LAYER, Descriptor
from engine.image.digest import Digest
from engine.isolate.base import IdMap
from engine.layer import columns
from engine.layer.base import Layer
from engine.layer.changes import Changes
from engine.layer.entries import Entry, ancestors
from engine.layer.index import Index
from engine.layer.tree import Tree
from engine.snapshot.compare import Found, all_new, changes, suspects

ALL = IdMap("identity")
LAYER = Layer(Digest.of(b""), Descriptor(OCI_LAYER, Digest.of(b""), 0))
CAPABILITY = (("security.capability", b"\1"),)


def tree(*entries: Entry) -> Tree:
    return Tree.empty().extended(LAYER, Index(entries))


def seen(new: Changes | None) -> list[tuple[Entry, bytes]]:
    """The entries of changes, and where those of files have their bytes."""
    assert new is not None
    rows, _ = columns.decode(new.entries)
    entries = list(rows.entries())
    assert (new.count, new.size) == (len(rows), sum(entry.size for entry in entries))
    return [(entry, place if entry.kind == "file" else b"") for entry, place in zip(entries, new.places(rows.paths), strict=False)]


def directory(path: bytes, mode: int = 0o755, **more: int) -> Entry:
    return Entry(path, "dir", mode, **more)


def file(path: bytes, size: int = 1, mode: int = 0o644, mtime: int = 5 * 10**9, **more: object) -> Entry:
    return Entry(path, "file", mode, size=size, mtime=mtime)._replace(**more)


BELOW = tree(directory(b"d"), file(b"d/a"), file(b"d/b", xattrs=CAPABILITY), directory(b"d/e"), file(b"d/e/f"),
             Entry(b"l", "symlink", 0o777, link=b"d", mtime=1))


def names(found: Found, below: Tree = BELOW, same: Iterable[bytes] = (), ids: IdMap = ALL) -> list[tuple[bytes, str]]:
    return [(c.entry.path, c.entry.kind) for c in changes(found, below, ids, frozenset(same), b"/up")]


def test_nothing_found_is_nothing_changed() -> None:
    assert names(Found(())) == []


def test_a_file_that_looks_the_same_is_a_suspect_and_changed_unless_its_content_is_the_same() -> None:
    found = Found((directory(b"d"), file(b"d/a")))
    assert suspects(found, BELOW, ALL) == [b"d/a"]
    assert names(found) == [(b"d", "dir"), (b"d/a", "file")]
    assert names(found, same=[b"d/a"]) == []


def test_an_empty_file_needs_no_look_at_its_content() -> None:
    below = tree(file(b"z", 0))
    found = Found((file(b"z", 0),))
    assert suspects(found, below, ALL) == []
    assert names(found, below) == []


def test_each_kind_of_metadata_is_a_change() -> None:
    for other in (file(b"d/b", xattrs=CAPABILITY, mode=0o600), file(b"d/b", xattrs=CAPABILITY, uid=1),
                  file(b"d/b", xattrs=CAPABILITY, gid=1), file(b"d/b", 2, xattrs=CAPABILITY), file(b"d/b"),
                  file(b"d/b", xattrs=CAPABILITY, mtime=6 * 10**9), file(b"d/b", xattrs=(*CAPABILITY, ("user.x", b"")))):
        found = Found((directory(b"d"), other))
        assert suspects(found, BELOW, ALL) == []
        assert names(found, same=[b"d/b"]) == [(b"d", "dir"), (b"d/b", "file")]


def test_times_are_equal_when_one_of_them_has_whole_seconds_only() -> None:
    below = tree(file(b"whole", mtime=7 * 10**9), file(b"fine", mtime=7 * 10**9 + 5))
    assert suspects(Found((file(b"whole", mtime=7 * 10**9 + 1),)), below, ALL) == [b"whole"]
    assert suspects(Found((file(b"fine", mtime=7 * 10**9),)), below, ALL) == [b"fine"]
    assert suspects(Found((file(b"fine", mtime=7 * 10**9 + 6),)), below, ALL) == []
    assert suspects(Found((file(b"whole", mtime=8 * 10**9),)), below, ALL) == []


def test_attributes_that_layers_do_not_keep_do_not_count() -> None:
    below = tree(file(b"f", xattrs=(("security.selinux", b"x"), *CAPABILITY)))
    assert names(Found((file(b"f", xattrs=CAPABILITY),)), below, [b"f"]) == []


def test_a_directorys_time_is_no_change_but_travels_with_one() -> None:
    assert names(Found((directory(b"d", mtime=99),))) == []
    out = changes(Found((directory(b"d", mtime=99), file(b"d/new"))), BELOW, ALL, frozenset(), b"/up")
    assert [change.entry for change in out] == [directory(b"d", mtime=99), file(b"d/new")]
    assert [change.source for change in out] == [None, b"/up/d/new"]


def test_directories_above_that_were_not_found_come_from_the_tree() -> None:
    below = tree(directory(b"t", 0o1777, uid=3), directory(b"t/u", mtime=8))
    out = changes(Found((file(b"t/u/new"),)), below, ALL, frozenset(), b"/up")
    assert [change.entry for change in out] == [directory(b"t", 0o1777, uid=3), directory(b"t/u", mtime=8), file(b"t/u/new")]


def test_the_root_is_never_changed() -> None:
    assert names(Found((directory(b"", 0o700), file(b"x")))) == [(b"x", "file")]


def test_removed_is_what_the_tree_had() -> None:
    assert names(Found((directory(b"d"),), removed=(b"d/a", b"d/never"))) == [(b"d", "dir"), (b"d/a", "whiteout")]


def test_an_opaque_directory_is_described_by_what_differs() -> None:
    found = Found((directory(b"d"), file(b"d/a"), directory(b"d/e"), file(b"d/new")), opaque=frozenset({b"d"}))
    assert names(found, same=[b"d/a"]) == [
        (b"d", "dir"), (b"d/b", "whiteout"), (b"d/e", "dir"), (b"d/e/f", "whiteout"), (b"d/new", "file")]


def test_an_opaque_directory_where_there_was_none() -> None:
    found = Found((directory(b"l"), file(b"l/x")), opaque=frozenset({b"l"}))
    assert names(found) == [(b"l", "dir"), (b"l/x", "file")]


def test_hard_links_are_links_to_the_first_changed_name() -> None:
    found = Found((directory(b"d"), file(b"d/a"), Entry(b"m", "hardlink", 0o644, size=1, mtime=5 * 10**9, link=b"d/a"),
                   Entry(b"n", "hardlink", 0o644, size=1, mtime=5 * 10**9, link=b"d/a")))
    out = changes(found, BELOW, ALL, frozenset([b"d/a"]), b"/up")
    assert [(c.entry.path, c.entry.kind, c.entry.link, c.source) for c in out] == [
        (b"m", "file", b"", b"/up/m"), (b"n", "hardlink", b"m", None)]
    changed = changes(found, BELOW, ALL, frozenset(), b"/up")
    assert [(c.entry.path, c.entry.link) for c in changed] == [(b"d", b""), (b"d/a", b""), (b"m", b"d/a"), (b"n", b"d/a")]


def test_owners_that_cannot_be_on_disk_are_the_trees() -> None:
    below = tree(directory(b"o", uid=1000, gid=1000), file(b"o/f", uid=1000, gid=5))
    found = Found((directory(b"o"), file(b"o/f"), file(b"o/new")))
    single = IdMap("single")
    assert suspects(found, below, single) == [b"o/f"]
    out = changes(found, below, single, frozenset(), b"/up")
    assert [(c.entry.path, c.entry.uid, c.entry.gid) for c in out] == [(b"o", 1000, 1000), (b"o/f", 1000, 5), (b"o/new", 0, 0)]
    assert names(found, below, [b"o/f"], single) == [(b"o", "dir"), (b"o/new", "file")]
    assert suspects(found, below, IdMap("subids", 2000)) == []


PATHS = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(b"/".join)


@given(st.dictionaries(PATHS, st.sampled_from(["file", "dir"])), st.dictionaries(PATHS, st.sampled_from(["file", "dir", "gone"])))
def test_the_changes_on_the_tree_below_give_what_is_on_disk(before: dict[bytes, str], after: dict[bytes, str]) -> None:
    """For any two states: what is found, compared and put on the first state as a layer, is the second."""
    first, second = _whole(before, {}), _whole(before, after)
    below = tree(*first.values())
    found = [entry for path, entry in sorted(second.items()) if first.get(path) != entry]
    removed = [path for path in first if path not in second and _holder(path, second)]
    out = changes(Found(found, removed), below, ALL, frozenset(), b"/up")
    merged = below.extended(LAYER, Index(change.entry for change in out))
    assert {path: merged.get(path) for path in {*first, *second}} == {path: second.get(path) for path in {*first, *second}}


def test_files_that_are_new_are_changes_as_they_were_found() -> None:
    found = [directory(b"d"), directory(b"d/new"), file(b"d/new/f", 7), Entry(b"d/new/l", "symlink", 0o777, link=b"f"), file(b"z", 5)]
    index = Index(found)
    new = all_new(index, BELOW, ALL, b"/up")
    assert new is not None
    assert new.entries == index.to_bytes()
    assert (new.count, new.size, seen(new)) == (5, 12, seen(Changes.of(changes(Found(found), BELOW, ALL, (), b"/up"))))
    assert seen(new)[-1] == (found[-1], b"/up/z")
    assert seen(all_new(Index(()), BELOW, ALL, b"/up")) == []


@pytest.mark.parametrize("found", [
    pytest.param([directory(b"d"), file(b"d/a")], id="a file that was there"),
    pytest.param([directory(b"l"), file(b"l/x")], id="a link that is a directory now, and may hide something"),
    pytest.param([file(b"d/x")], id="without the directory it is in"),
    pytest.param([directory(b"d"), file(b"d/x"), Entry(b"d/y", "hardlink", 0o644, size=1, link=b"d/x")], id="two names of one file"),
    pytest.param([directory(b""), file(b"x")], id="the root"),
])  # fmt: skip
def test_anything_else_is_looked_at_more_closely(found: list[Entry]) -> None:
    assert all_new(Index(found), BELOW, ALL, b"/up") is None


def test_a_directory_whose_owner_cannot_be_on_disk_is_looked_at_more_closely() -> None:
    below = tree(directory(b"d", uid=70_000))
    found = Index([directory(b"d"), file(b"d/x")])
    assert all_new(found, below, IdMap("subids", 65_536), b"/up") is None
    assert all_new(found, below, ALL, b"/up") is not None


def test_directories_that_were_only_looked_at_are_no_changes() -> None:
    """Overlayfs copies a directory up when something was made in it, and it stays when that is gone again."""
    kept = [directory(b"d"), directory(b"d/n"), Entry(b"d/n/l", "symlink", 0o777, link=b"f"), file(b"z", 5)]
    looked_at = [directory(b"d"), directory(b"d/e"), *kept[1:]]
    new = all_new(Index(looked_at), BELOW, ALL, b"/up")
    assert new == all_new(Index(kept), BELOW, ALL, b"/up")
    assert seen(new) == seen(Changes.of(changes(Found(looked_at), BELOW, ALL, (), b"/up")))
    assert seen(all_new(Index([directory(b"d"), directory(b"d/e")]), BELOW, ALL, b"/up")) == []
    other = Index([directory(b"d"), directory(b"d/e", 0o700)])
    assert all_new(other, BELOW, ALL, b"/up") == Changes(2, 0, directory(b"d").mtime, other.to_bytes(), root=b"/up")
    with_attribute = Index([directory(b"d"), directory(b"d/e"), file(b"d/x", xattrs=CAPABILITY)])
    assert all_new(with_attribute, BELOW, ALL, b"/up") is None


@given(st.dictionaries(PATHS, st.sampled_from(["file", "dir"])), st.dictionaries(PATHS, st.sampled_from(["file", "dir"])),
       st.sets(PATHS))
def test_what_is_new_comes_to_the_same_either_way(before: dict[bytes, str], after: dict[bytes, str], looked_at: set[bytes]) -> None:
    """For any two states: what is found and not looked at more closely are the changes that looking finds."""
    first, second = _whole(before, {}), _whole(before, after)
    below = tree(*first.values())
    differ = [path for path, entry in second.items() if first.get(path) != entry or path in looked_at]
    found = [second[path] for path in sorted({at for path in differ for at in [*ancestors(path), path]})]
    new = all_new(Index(found), below, ALL, b"/up")
    assert new is None or seen(new) == seen(Changes.of(changes(Found(found), below, ALL, frozenset(), b"/up")))


def _whole(before: dict[bytes, str], after: dict[bytes, str]) -> dict[bytes, Entry]:
    """Entries in which every path's directory is a directory; what is set later wins."""
    out: dict[bytes, Entry] = {}
    for step in (before, after):
        for path, kind in sorted(step.items()):
            parts = path.split(b"/")
            for i in range(1, len(parts) + 1):
                at = b"/".join(parts[:i])
                wanted = kind if i == len(parts) else "dir"
                if wanted == "gone" or (at in out and out[at].kind != wanted):
                    for each in [each for each in out if each == at or each.startswith(at + b"/")]:
                        del out[each]
                if wanted == "dir":
                    out.setdefault(at, directory(at, 0o755 if step is before else 0o700))
                elif wanted == "file":
                    out[at] = file(at, 1 if step is before else 2)
    return out


def _holder(path: bytes, second: dict[bytes, Entry]) -> bool:
    above = path.rpartition(b"/")[0]
    return not above or (above in second and second[above].kind == "dir")


def test_changes_are_sorted() -> None:
    entries: Sequence[Entry] = [file(bytes([n])) for n in range(97, 120)]
    assert [path for path, _ in names(Found(entries))] == [entry.path for entry in entries]
