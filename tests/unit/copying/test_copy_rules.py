"""COPY, rule by rule. A `Spec` is a tree in lines (see conftest); what a plan makes is compared in the same form."""

from __future__ import annotations

import pytest

from engine.errors import CopyError
from engine.layer.entries import Entry
from engine.solve.copying import CopyRequest, plan_copy

CONTEXT = {
    "f": "file 644 0:0 f", "exe": "file 755 0:0 exe", "d": "dir 700", "d/a": "file 600 0:0 a", "d/s": "dir 2775",
    "d/s/b": "file 644 0:0 b",
    "link": "-> f", "dirlink": "-> d", "abs": "-> /d/s", "up": "-> ../../../f", "dangling": "-> nowhere", "loop": "-> loop",
    "d/inner": "-> ../nowhere", "w/a.txt": "file 644 0:0 wa", "w/b.txt": "file 644 0:0 wb", "w/x1/k": "file 644 0:0 k",
    "w/x2": "-> ../d",
}  # fmt: skip
IMAGE = {
    "etc": "dir", "etc/passwd": "file 644 0:0 old", "data": "dir 711 5:6", "data/sub": "dir 700 7:8",
    "data/sub/old": "file 644 0:0 old",
    "data/l": "-> sub", "data/tofile": "-> sub/old", "data/void": "-> gone/there", "var/run": "-> /run", "run": "dir",
    "climb": "-> ../../../../data/sub",
}  # fmt: skip


@pytest.fixture
def copy(tree_of, lines):
    def run(*arguments: str, context=CONTEXT, image=IMAGE, workdir="/", kept=False, **options):
        *sources, destination = (a.encode() for a in arguments)
        request = CopyRequest(tuple(sources), destination, workdir.encode(), **options)
        plan = plan_copy(request, tree_of(context), tree_of(image))
        assert [c.entry.path for c in plan] == sorted(c.entry.path for c in plan)
        for copied in plan:
            if copied.entry.kind == "file":
                assert copied.from_path is not None
        return lines(c.entry for c in plan if kept or not c.kept)

    return run


@pytest.mark.parametrize("source", ["d", "d/", "d/.", "./d", "/d", "w/../d", "../d", "dirlink", "dirlink/", "//d//"])
def test_a_directory_gives_its_contents_however_it_is_written(copy, source):
    assert copy(source, "/n/") == {
        "n": "dir 755 0:0", "n/a": "file 600 0:0 a", "n/s": "dir 2775 0:0", "n/s/b": "file 644 0:0 b",
        "n/inner": "-> ../nowhere"}


@pytest.mark.parametrize(("destination", "path"), [
    ("/n/", "n/f"), ("/n", "n"), ("/n/.", "n/f"), ("/etc", "etc/f"), ("/etc/", "etc/f"), ("/etc/passwd", "etc/passwd"), ("n",
    "data/n"),
    ("n/", "data/n/f"), (".", "data/f"), ("", "data/f"), ("./", "data/f"), ("..", "f"), ("../n", "n"), ("/../../n", "n"),
    ("/", "f"),
    ("/data/l/", "data/sub/f"), ("/data/l", "data/sub/f"), ("/data/l/n", "data/sub/n"), ("/data/tofile", "data/sub/old"),
    ("/data/void", "data/gone/there"), ("/data/void/", "data/gone/there/f"), ("/var/run/x/f", "run/x/f"), ("/climb/",
    "data/sub/f"),
])
def test_where_a_file_goes(copy, destination, path):
    made = copy("f", destination, workdir="/data")
    assert made.pop(path) == "file 644 0:0 f"
    assert all(text == "dir 755 0:0" and path.startswith(above + "/") for above, text in made.items())


def test_the_directories_that_lead_there_come_along_as_they_are(copy):
    assert copy("f", "/data/sub/n/f", kept=True) == {
        "data": "dir 711 5:6", "data/sub": "dir 700 7:8", "data/sub/n": "dir 755 0:0", "data/sub/n/f": "file 644 0:0 f"}


@pytest.mark.parametrize(("source", "content"), [("link", "f"), ("up", "f"), ("dirlink/a", "a"), ("abs/b", "b"), ("../../f",
"f")])
def test_a_source_that_is_a_link_gives_what_it_points_to_under_its_own_name(copy, source, content):
    made = copy(source, "/n/")
    assert made[f"n/{source.rpartition('/')[2]}"].endswith(f" {content}")


def test_links_deeper_inside_stay_links(copy):
    assert copy("w", "/n")["n/x2"] == "-> ../d"


@pytest.mark.parametrize("source", ["nope", "d/nope", "f/x", "nope/*", "dangling", "../nope"])
def test_a_source_that_is_not_there_is_named(copy, source):
    with pytest.raises(CopyError, match="not found") as error:
        copy(source, "/n/")
    assert '"/' in error.value.message


def test_a_missing_source_says_what_was_perhaps_meant(copy):
    with pytest.raises(CopyError) as error:
        copy("w/a.tx", "/n/")
    assert (error.value.message, error.value.hint) == ('"/w/a.tx": not found', "did you mean a.txt?")


def test_a_missing_source_says_why_if_the_tree_knows(tree_of):
    tree = tree_of({})
    tree.why_absent = lambda path: f"{path.decode()} is ignored"
    with pytest.raises(CopyError) as error:
        plan_copy(CopyRequest((b"x",), b"/", b"/"), tree, tree_of({}))
    assert error.value.hint == "x is ignored"


def test_a_loop_of_links_ends(copy):
    with pytest.raises(CopyError, match="too many links"):
        copy("loop", "/n/")


def test_wildcards_match_in_order_part_by_part_and_follow_what_they_find(copy):
    assert copy("w/*.txt", "/n/") == {"n": "dir 755 0:0", "n/a.txt": "file 644 0:0 wa", "n/b.txt": "file 644 0:0 wb"}
    assert copy("w/x*", "/n/") == {"n": "dir 755 0:0", "n/k": "file 644 0:0 k", "n/a": "file 600 0:0 a", "n/s": "dir 2775 0:0",
                                  "n/s/b": "file 644 0:0 b", "n/inner": "-> ../nowhere"}
    assert "n/a" not in copy("w/x*/*", "/n/"), "wildcards do not look into directories that are links"
    assert copy("[!d]*/a.???", "/n/") == {}, "! is no negation"
    assert "n/a.txt" in copy("[^d]*/a.???", "/n/")


def test_a_wildcard_without_a_match_copies_nothing_and_makes_nothing(copy):
    assert copy("nomatch*", "/n/") == {}


def test_a_malformed_wildcard_is_an_error(copy):
    with pytest.raises(CopyError, match="syntax error in pattern"):
        copy("w/[a", "/n/")


def test_several_sources_fill_one_directory_and_the_last_wins(copy):
    assert copy("f", "d", "exe", "w/", "/n/")["n/a.txt"] == "file 644 0:0 wa"
    assert copy("f", "exe", "/n") == {"n": "file 755 0:0 exe"}


def test_an_existing_directory_keeps_mode_and_owner_but_the_ones_inside_take_those_of_the_source(copy):
    image = {"t": "dir 700 7:8", "t/s": "dir 711 9:9", "t/s/old": "file 644 0:0 old", "t/a": "file 644 9:9 old"}
    assert copy("d", "/t", image=image, kept=True) == {
        "t": "dir 700 7:8", "t/a": "file 600 0:0 a", "t/s": "dir 2775 0:0", "t/s/b": "file 644 0:0 b",
        "t/inner": "-> ../nowhere"}


@pytest.mark.parametrize(("image", "message"), [
    ({"t/s": "file 644"}, "cannot copy to non-directory: /t/s"), ({"t/s": "-> /etc"}, "cannot copy to non-directory: /t/s"),
    ({"t/a": "dir"}, "cannot replace to directory /t/a with file"), ({"t": "file 644"}, "cannot copy to non-directory: /t"),
    ({"t/inner": "dir"}, "cannot replace to directory /t/inner with file"),
])
def test_what_cannot_take_the_place_of_what(copy, image, message):
    with pytest.raises(CopyError) as error:
        copy("d", "/t", image=image)
    assert error.value.message == message


def test_a_single_file_does_not_replace_a_directory(copy):
    with pytest.raises(CopyError, match="cannot replace to directory /t/f with file"):
        copy("f", "/t/", image={"t/f": "dir"})


def test_files_and_links_replace_each_other(copy):
    image = {"t/a": "-> /etc/passwd", "t/inner": "file 644"}
    made = copy("d", "/t", image=image)
    assert (made["t/a"], made["t/inner"]) == ("file 600 0:0 a", "-> ../nowhere")


@pytest.mark.parametrize("destination", ["/etc/passwd/x", "/etc/passwd/", "/data/tofile/x"])
def test_a_destination_below_a_file_is_an_error(copy, destination):
    with pytest.raises(CopyError, match="not a directory"):
        copy("f", destination)


def test_owners_of_a_context_do_not_matter_and_those_of_a_stage_do(copy):
    source = {"t": "dir 700 1:2", "t/f": "file 4755 3:4 f", "t/l": "-> f"}
    assert copy("t", "/n", context=source) == {"n": "dir 755 0:0", "n/f": "file 4755 0:0 f", "n/l": "-> f"}
    assert copy("t", "/n", context=source, keep_owner=True) == {"n": "dir 755 0:0", "n/f": "file 4755 3:4 f", "n/l": "-> f"}
    assert copy("t", "/n/m", context=source, keep_owner=True, owner=(8, 9)) == {
        "n": "dir 755 8:9", "n/m": "dir 755 8:9", "n/m/f": "file 4755 8:9 f", "n/m/l": "-> f"}


def test_octal_chmod_counts_for_everything_made_without_special_bits_on_the_way(copy):
    assert copy("d", "/n/m", mode="2750") == {
        "n": "dir 750 0:0", "n/m": "dir 750 0:0", "n/m/a": "file 2750 0:0 a", "n/m/s": "dir 2750 0:0",
        "n/m/s/b": "file 2750 0:0 b",
        "n/m/inner": "-> ../nowhere"}
    assert copy("f", "/n", mode="0") == {"n": "file 0 0:0 f"}


def test_symbolic_chmod_changes_the_modes_of_the_source_and_leaves_made_directories_alone(copy):
    assert copy("d", "/n/m", mode="go=u,a-w") == {
        "n": "dir 755 0:0", "n/m": "dir 755 0:0", "n/m/a": "file 444 0:0 a", "n/m/s": "dir 2555 0:0",
        "n/m/s/b": "file 444 0:0 b",
        "n/m/inner": "-> ../nowhere"}


def test_hard_links_are_kept_within_one_source_and_the_first_name_has_the_content(copy, tree_of):
    source = {"h/a/z": "file 644 0:0 x", "h/a-b": "=> h/a/z", "h/c": "=> h/a/z", "h/single": "file 644"}
    made = copy("h", "/n", context=source)
    assert {p: t for p, t in made.items() if not t.startswith("dir")} == {
        "n/a-b": "file 644 0:0 x", "n/a/z": "=> n/a-b", "n/c": "=> n/a-b", "n/single": "file 644 0:0"}
    made = copy("h/a-b", "h/c", "h/a/z", "/n/", context=source)
    assert [t for t in made.values()][1:] == ["file 644 0:0 x"] * 3


def test_a_hard_link_replaced_by_a_later_source_does_not_take_the_content_of_others_along(copy):
    source = {"h/a": "file 644 0:0 x", "h/b": "=> h/a", "other/a": "file 644 0:0 y"}
    assert copy("h", "other", "/n/", context=source) == {"n": "dir 755 0:0", "n/a": "file 644 0:0 y", "n/b": "file 644 0:0 x"}


def test_odd_kinds(copy):
    source = {"n/b": Entry(b"", "block", 0o660, major=7, minor=3), "n/c": Entry(b"", "char", 0o600, major=1, minor=5),
        "n/p": "fifo 640"}
    assert copy("n", "/n", context=source, keep_owner=True) == {
        "n": "dir 755 0:0", "n/b": "char 660 0:0", "n/c": "char 600 0:0", "n/p": "fifo 640 0:0"}


def test_capabilities_come_from_stages_only_and_other_attributes_never(tree_of):
    attributes = (("security.capability", b"cap"), ("user.color", b"red"))
    tree = tree_of({"f": Entry(b"", "file", 0o755, size=1, xattrs=attributes)})
    for keep, expected in ((True, attributes[:1]), (False, ())):
        (copied,) = plan_copy(CopyRequest((b"f",), b"/f", b"/", keep_owner=keep, owner=(1, 1)), tree, tree_of({}))
        assert copied.entry.xattrs == expected


def test_times_are_those_of_the_source_and_of_made_directories_the_given_one(tree_of):
    context = tree_of({"d": Entry(b"", "dir", 0o755, mtime=11), "d/f": Entry(b"", "file", 0o644, mtime=22)})
    image = tree_of({"old": Entry(b"", "dir", 0o755, mtime=33)})
    plan = plan_copy(CopyRequest((b"d",), b"/old/n/m", b"/", made_mtime=99), context, image)
    assert {c.entry.path: c.entry.mtime for c in plan} == {b"old": 33, b"old/n": 99, b"old/n/m": 11, b"old/n/m/f": 22}


def test_link_does_not_look_at_the_image(copy):
    assert copy("f", "/var/run/f", link=True, kept=True) == {"var": "dir 755 0:0", "var/run": "dir 755 0:0",
        "var/run/f": "file 644 0:0 f"}
    assert copy("f", "/etc", link=True) == {"etc": "file 644 0:0 f"}
    assert copy("f", "/data/l/f", link=True, mode="600") == {"data/sub/f": "file 600 0:0 f"}, "--chmod takes --link away"


TREE = {"a": "dir 700", "a/b": "dir 711", "a/b/c": "file 644 0:0 c", "a/b/e": "file 644 0:0 e", "x/y/z": "file 644 0:0 z",
        "x/q/z": "file 644 0:0 q", "top": "file 644 0:0 t", "l": "-> a"}


@pytest.mark.parametrize(("sources", "files"), [
    (["a/b/c"], ["a/b/c"]), (["./a/b/c"], ["a/b/c"]), (["a/b", "top"], ["a/b/c", "a/b/e", "top"]), (["x/./y/z"], ["y/z"]),
    (["x/./*/z"], ["y/z", "q/z"]), (["[ax]/./**/z"], ["y/z", "q/z"]), (["**/c"], ["a/b/c"]), (["x"], ["x/y/z", "x/q/z"]),
    (["nope*"], []), (["a/./nope*"], []), (["/a/b/c"], ["a/b/c"]), (["a/b/../b/c"], ["a/b/c"]), (["l/./b/c"], ["b/c"]),
    (["a/./"], ["b/c", "b/e"]),
])
def test_parents_keeps_the_directories_behind_the_pivot(copy, sources, files):
    made = copy(*sources, "/d/", context=TREE, parents=True)
    assert sorted(p for p, t in made.items() if t.startswith("file")) == sorted(f"d/{f}" for f in files)
    assert made["d"] == "dir 755 0:0"
    for path, mode in (("d/a", "700"), ("d/a/b", "711")):
        assert made.get(path, f"dir {mode} 0:0") == f"dir {mode} 0:0"


def test_a_file_that_a_pivot_matches_is_copied_too(copy):
    assert copy("t*/./**/z", "/d/", context=TREE, parents=True) == {"d": "dir 755 0:0", "d/top": "file 644 0:0 t"}


@pytest.mark.parametrize("source", ["a/nope", "nope", "a/./nope", "nope/./x", "nope/./*"])
def test_parents_of_what_is_not_there(copy, source):
    with pytest.raises(CopyError, match="not found"):
        copy(source, "/d/", context=TREE, parents=True)


def test_parents_gives_existing_directories_the_mode_of_the_source_and_no_more(copy):
    assert copy("a/b/c", "/d/", context=TREE, parents=True, image={"d/a": "dir 755 5:5"}) == {
        "d/a": "dir 700 5:5", "d/a/b": "dir 711 0:0", "d/a/b/c": "file 644 0:0 c"}


@pytest.mark.parametrize(("exclude", "left"), [
    (["*.txt"], ["b.md", "sub/c.txt", "sub/deep/e.txt"]), (["**/*.txt"], ["b.md"]), (["sub"], ["a.txt", "b.md"]),
    (["sub/deep"], ["a.txt", "b.md", "sub/c.txt"]), (["*", "!sub/deep/*"], ["sub/deep/e.txt"]), (["*/*.txt"], ["a.txt",
    "b.md", "sub/deep/e.txt"]),
    (["*", "!b*"], ["b.md"]),
])
def test_exclude_is_about_paths_below_what_is_copied(copy, exclude, left):
    source = {"d/a.txt": "file", "d/b.md": "file", "d/sub/c.txt": "file", "d/sub/deep": "dir 700", "d/sub/deep/e.txt": "file"}
    made = copy("d", "/n", context=source, exclude=tuple(exclude))
    assert sorted(p for p, t in made.items() if t.startswith("file")) == sorted(f"n/{p}" for p in left)
    assert made.get("n/sub/deep", "dir 700 0:0") == "dir 700 0:0"


def test_exclude_does_not_count_for_what_is_named_itself(copy):
    assert "n/a.txt" in copy("w/*", "/n/", exclude=("*.txt",))


def test_exclude_works_on_what_parents_chooses(copy):
    made = copy("a", "x", "/d/", context=TREE, parents=True, exclude=("a/b/e", "**/q"))
    assert sorted(p for p, t in made.items() if t.startswith("file")) == ["d/a/b/c", "d/x/y/z"]


def test_directories_where_nothing_can_be_chosen_are_not_looked_into(tree_of):
    tree = tree_of({"a/b/c": "file", "z/y/x": "file", "m/n": "file"})
    listed: list[bytes] = []
    children = tree.children
    tree.children = lambda path: listed.append(path) or children(path)
    plan_copy(CopyRequest((b"a/*/c",), b"/d/", b"/", parents=True), tree, tree_of({}))
    plan_copy(CopyRequest((b".",), b"/d/", b"/", exclude=("z", "m", "a/b")), tree, tree_of({}))
    assert listed == [b"", b"a", b"a/b", b"", b"a"]


def test_a_wrong_exclude_pattern_is_an_error(copy):
    with pytest.raises(CopyError, match="invalid pattern"):
        copy("w", "/n", exclude=("[",))
