"""ADD of archives, and files that come from no tree."""

from __future__ import annotations

import pytest

from engine.errors import CopyError
from engine.layer.entries import Change, Entry
from engine.solve.copying import CopyPlan, CopyRequest, EmptyTree, plan_archive, plan_files, plan_workdir


@pytest.fixture
def add(tree_of, lines, entry_for):
    def run(*members: tuple[str, str | Entry], to="/t", image=None, kept=False, **options) -> dict[str, str]:
        changes = [Change(entry_for(path, text), b"/a.tar" if str(text).startswith("file") else None, 512) for path,
        text in members]
        plan = CopyPlan(CopyRequest((b"a.tar",), to.encode(), b"/w", **options), tree_of(image or {}))
        plan.add_archive(changes)
        result = plan.result()
        assert [c.entry.path for c in result] == sorted(c.entry.path for c in result)
        return lines(c.entry for c in result if kept or not c.kept)

    return run


def test_members_land_below_the_destination_with_all_they_have(add):
    assert add(("f", "file 4755 1:2 x"), ("d", "dir 1777 3:4"), ("d/l", "-> ../../etc"), ("p", "fifo 640 5:6")) == {
        "t": "dir 755 0:0", "t/d": "dir 1777 3:4", "t/d/l": "-> ../../etc", "t/f": "file 4755 1:2 x", "t/p": "fifo 640 5:6"}


def test_block_devices_stay(add, lines):
    assert add(("b", Entry(b"", "block", 0o660, major=7))) == {"t": "dir 755 0:0", "t/b": "block 660 0:0"}


@pytest.mark.parametrize("to", ["/n/m", "/n/m/", "/n/m/.", "../n/m"])
def test_the_destination_is_a_directory_however_it_is_written(add, to):
    assert add(("f", "file"), to=to) == {"n": "dir 755 0:0", "n/m": "dir 755 0:0", "n/m/f": "file 644 0:0"}


def test_the_roots_own_member_changes_nothing(add):
    image = {"t": "dir 700 7:8"}
    assert add(("", "dir 751 1:1"), ("f", "file"), image=image, kept=True) == {"t": "dir 700 7:8", "t/f": "file 644 0:0"}
    assert add(("", "dir 751 1:1"), ("f", "file")) == {"t": "dir 755 0:0", "t/f": "file 644 0:0"}


def test_directories_that_no_member_names_are_roots(add):
    assert add(("a/b/f", "file 644 9:9"), owner=(1, 2)) == {
        "t": "dir 755 1:2", "t/a": "dir 755 0:0", "t/a/b": "dir 755 0:0", "t/a/b/f": "file 644 1:2"}


def test_chown_counts_for_members_and_for_the_way_to_the_destination_and_chmod_does_not(add):
    assert add(("d", "dir 700"), ("f", "file 600"), to="/n/m", owner=(100, 200), mode="777") == {
        "n": "dir 755 100:200", "n/m": "dir 755 100:200", "n/m/d": "dir 700 100:200", "n/m/f": "file 600 100:200"}


def test_an_existing_directory_takes_the_members_metadata_and_keeps_what_is_in_it(add):
    image = {"t/d": "dir 700 7:8", "t/d/old": "file 644 0:0 old"}
    assert add(("d", "dir 711 1:1"), ("d/new", "file"), image=image) == {"t/d": "dir 711 1:1", "t/d/new": "file 644 0:0"}


def test_a_destination_that_is_a_file(add):
    with pytest.raises(CopyError, match="mkdir /t: not a directory"):
        add(("f", "file"), image={"t": "file"})
    with pytest.raises(CopyError, match="mkdir /t/f: not a directory"):
        add(("f", "file"), ("f/x", "file"))


def test_links_of_the_image_are_followed_inside_the_destination(add):
    image = {"var/run": "-> /run", "run": "dir", "lib": "-> usr/lib", "usr/lib": "dir"}
    assert add(("var/run/x", "file"), ("lib/y", "file"), to="/", image=image) == {"run/x": "file 644 0:0",
        "usr/lib/y": "file 644 0:0"}
    assert add(("lib", "dir 700 1:1"), to="/", image=image) == {"usr/lib": "dir 700 1:1"}, "a directory over a link to one"
    assert add(("lib", "file"), to="/", image=image) == {"lib": "file 644 0:0"}, "a file replaces the link"


def test_a_directory_that_becomes_a_link_is_one_for_the_members_that_follow(add):
    assert add(("e", "dir"), ("d/x", "file"), ("d", "-> e"), ("d/y", "file")) == {
        "t": "dir 755 0:0", "t/d": "-> e", "t/e": "dir 755 0:0", "t/e/y": "file 644 0:0"}
    assert add(("e", "dir"), ("d", "-> e"), ("d/y", "file"), ("d", "file"), ("e/z", "file"))["t/e/z"] == "file 644 0:0"
    with pytest.raises(CopyError, match="not a directory"):
        add(("d/x", "file"), ("d", "file"), ("d/y", "file"))


def test_absolute_links_mean_the_destination_not_the_image(add):
    image = {"t/l": "-> /x", "x": "dir"}
    assert add(("l/f", "file"), image=image) == {"t/x": "dir 755 0:0", "t/x/f": "file 644 0:0"}
    assert add(("k", "-> /etc"), ("k/f", "file")) == {
        "t": "dir 755 0:0", "t/k": "-> /etc", "t/etc": "dir 755 0:0", "t/etc/f": "file 644 0:0"}


@pytest.mark.parametrize("link", ["../x", "d/../../x", "../../t/x", ".."])
def test_links_that_climb_out_may_be_made_but_not_followed(add, link):
    assert add(("l", f"-> {link}"))["t/l"] == f"-> {link}"
    with pytest.raises(CopyError, match="archive symlink /l points outside extraction root"):
        add(("l", f"-> {link}"), ("l/f", "file"))


def test_later_members_replace_earlier_ones(add):
    assert add(("f", "file 644 0:0 1"), ("f", "file 600 0:0 2"), ("d/x", "file"), ("d", "-> y"), ("e/late", "file"), ("e",
    "dir 750 9:9")) == {
        "t": "dir 755 0:0", "t/f": "file 600 0:0 2", "t/d": "-> y", "t/e": "dir 750 9:9", "t/e/late": "file 644 0:0"}


def test_a_directory_that_comes_back_has_nothing_of_the_images_in_it(add):
    image = {"t/d/old": "file", "t/d/s/older": "file"}
    assert add(("d", "file"), ("d", "dir 711"), ("d/new", "file"), image=image) == {
        "t/d": "dir 711 0:0", "t/d opaque": "opaque", "t/d/new": "file 644 0:0"}
    assert add(("d", "file"), image=image) == {"t/d": "file 644 0:0"}


def test_a_hard_link_stays_one_and_carries_owner_and_mode_to_the_file(add):
    assert add(("a", "file 644 1:1 x"), ("b", Entry(b"", "hardlink", 0o600, 2, 2, link=b"a"))) == {
        "t": "dir 755 0:0", "t/a": "file 600 2:2 x", "t/b": "=> t/a"}


def test_of_hard_links_the_first_by_name_has_the_content(add):
    assert add(("z", "file 644 0:0 x"), ("a", "=> z"), ("m", "=> a")) == {
        "t": "dir 755 0:0", "t/a": "file 644 0:0 x", "t/m": "=> t/a", "t/z": "=> t/a"}


def test_a_replaced_file_lives_on_in_its_hard_links(add):
    assert add(("a", "file 644 0:0 x"), ("b", "=> a"), ("c", "=> a"), ("a", "file 644 0:0 y")) == {
        "t": "dir 755 0:0", "t/a": "file 644 0:0 y", "t/b": "file 644 0:0 x", "t/c": "=> t/b"}
    assert add(("a", "file 644 0:0 x"), ("b", "=> a"), ("b", "file 644 0:0 y")) == {
        "t": "dir 755 0:0", "t/a": "file 644 0:0 x", "t/b": "file 644 0:0 y"}


def test_a_hard_link_to_a_file_of_the_image_brings_that_along(tree_of):
    plan = CopyPlan(CopyRequest((), b"/t", b"/"), tree_of({"t/old": "file 644 5:5 o"}))
    plan.add_archive([Change(Entry(b"new", "hardlink", 0o600, 1, 1, link=b"old"))])
    first, second = [c for c in plan.result() if not c.kept]
    assert (first.entry.kind, first.entry.mode, first.entry.uid, first.below) == ("file", 0o600, 1, b"t/old")
    assert (second.entry.path, second.entry.kind, second.entry.link) == (b"t/old", "hardlink", first.entry.path)


def test_hard_links_to_links_are_links(add):
    assert add(("l", "-> x"), ("h", "=> l")) == {"t": "dir 755 0:0", "t/l": "-> x", "t/h": "-> x"}


@pytest.mark.parametrize("members", [[("h", "=> nope")], [("d", "dir"), ("h", "=> d")], [("h", "=> h")], [("a", "file"),
("a", "=> a")]])
def test_hard_links_to_nothing(add, members):
    with pytest.raises(CopyError, match="archive hardlink"):
        add(*members)


def test_names_like_whiteouts_delete_from_the_image_and_not_from_the_archive(add):
    image = {"t/a": "file", "t/b": "file", "t/d/c": "file", "t/e/x": "file"}
    made = add(("new", "file"), ("a", "whiteout"), ("d", "opaque"), ("d/e", "file"), ("e", "dir 711"), ("e", "whiteout"),
    ("new", "whiteout"),
               image=image)
    assert made == {"t/a": "whiteout", "t/d opaque": "opaque", "t/d/e": "file 644 0:0", "t/e": "dir 711 0:0",
    "t/e opaque": "opaque",
                    "t/new": "file 644 0:0"}


def test_an_archive_made_to_cost_time_is_refused(add, monkeypatch):
    monkeypatch.setattr("engine.solve.copying.draft.MOST_WORK", 1000)
    add(*[(f"f{i}", "file") for i in range(900)])
    with pytest.raises(CopyError, match="too many"):
        add(*[(name, kind) for i in range(100) for name, kind in ((f"f{i}", "file"), ("d", "dir"), ("d", "file"))])


def test_contents_lie_in_the_archive(tree_of):
    (change,) = [c for c in plan_archive(CopyRequest((), b"/", b"/"), [Change(Entry(b"f", "file", 0o644, size=5), b"/a.tar",
    1024)],
                                         tree_of({})) if c.entry.kind == "file"]
    assert (change.source, change.offset, change.entry.path) == (b"/a.tar", 1024, b"f")


def heredoc(name: str, size: int = 3, mode: int = 0o644) -> tuple[bytes, Change]:
    return name.encode(), Change(Entry(name.encode(), "file", mode, size=size, digest=name), b"/scratch/" + name.encode(), 7)


@pytest.mark.parametrize(("to", "paths"), [("/d/", ["d", "d/A", "d/B"]), ("/one", ["one"]), ("/there", ["there/A", "there/B"]),
                                          (".", ["w", "w/A", "w/B"])])
def test_files_of_no_tree(tree_of, to, paths):
    changes = plan_files(CopyRequest((), to.encode(), b"/w"), [heredoc("A"), heredoc("B")], tree_of({"there": "dir 700"}))
    made = [c for c in changes if c.entry.path != b"there"]
    assert [c.entry.path.decode() for c in made] == paths
    assert made[-1].source == b"/scratch/B"
    assert (made[-1].offset, made[-1].entry.mode) == (7, 0o644)


def test_files_of_no_tree_take_owner_and_mode(tree_of):
    (change,) = plan_files(CopyRequest((), b"/f", b"/", owner=(1, 2), mode="700"), [heredoc("A", mode=0o600)], tree_of({}))
    assert (change.entry.mode, change.entry.uid, change.entry.gid) == (0o700, 1, 2)
    with pytest.raises(CopyError, match="cannot replace to directory /d/A with file"):
        plan_files(CopyRequest((), b"/d/", b"/"), [heredoc("A")], tree_of({"d/A": "dir"}))


def test_sources_of_several_kinds_see_each_other(tree_of, lines):
    plan = CopyPlan(CopyRequest((b"d",), b"/t/", b"/"), EmptyTree())
    plan.add_file(*heredoc("f"))
    plan.add_archive([Change(Entry(b"f", "symlink", 0o777, link=b"x"))])
    plan.add_sources(tree_of({"d/g": "file 644 0:0 g"}))
    assert lines(c.entry for c in plan.result()) == {"t": "dir 755 0:0", "t/f": "-> x", "t/g": "file 644 0:0 g"}


@pytest.mark.parametrize(("path", "made"), [
    ("/n1/n2", {"n1": "dir 755 5:6", "n1/n2": "dir 755 5:6"}), ("/d/l/n", {"d": "dir 700 0:0", "d/r": "dir 700 0:0",
    "d/r/n": "dir 755 5:6"}),
    ("/d", {}), ("/", {}), ("/d//r/", {}), ("/d/l", {}), ("/void/x", {"gone": "dir 755 5:6", "gone/x": "dir 755 5:6"}),
])
def test_workdir_makes_what_is_missing(tree_of, lines, path, made):
    tree = tree_of({"d": "dir 700", "d/r": "dir 700", "d/l": "-> r", "f": "file", "void": "-> gone"})
    changes = plan_workdir(path.encode(), (5, 6), tree, 77)
    assert lines(c.entry for c in changes) == made
    assert all(c.entry.mtime == 77 for c in changes if c.entry.uid == 5)


def test_workdir_at_a_file(tree_of):
    with pytest.raises(CopyError, match="mkdir /f: not a directory"):
        plan_workdir(b"/f/x", (0, 0), tree_of({"f": "file"}), 0)
