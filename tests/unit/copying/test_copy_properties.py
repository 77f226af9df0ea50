"""What holds for every copy: it agrees with a simple model on real files, copying again changes nothing,
keys tell copies apart."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.context.directory import DirectoryTree
from engine.errors import CopyError
from engine.layer.entries import Change, Entry, ancestors
from engine.layer.resolve import follow, resolve
from engine.solve.copying import Copied, Copies, CopyRequest, Dependence, EmptyTree, plan_archive, plan_copy
from engine.solve.copying.draft import Draft
from engine.solve.copying.paths import clean, destination

NAMES = st.sampled_from(["a", "a-", "b", "c", "d"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
LINKS = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=4).map("/".join)
SPECS = st.dictionaries(PATHS, st.one_of(st.just("file"), st.just("dir"), LINKS.map("-> {}".format),
LINKS.map("-> /{}".format)), max_size=10)


def sane(spec: dict[str, str]) -> dict[str, str]:
    """Only what can be: nothing below files and links."""
    out = dict(spec)
    for path in sorted(spec):
        if any(out.get(path.rsplit("/", n)[0], "dir") != "dir" for n in range(1, path.count("/") + 1)):
            del out[path]
    return out


@settings(deadline=None, max_examples=100)
@given(spec=SPECS.map(sane), path=LINKS)
def test_paths_are_resolved_as_the_kernel_does_in_a_root(tree_of, tmp_path_factory, spec, path):
    """Against a real directory, through a chroot-like walk by os.readlink: each step looks at the disk, not at a tree."""
    root = tmp_path_factory.mktemp("root")
    write(root, spec)
    draft = Draft(tree_of(spec))
    try:
        found = draft.resolve(clean(path.encode()))
    except CopyError:
        with pytest.raises(OSError, match="loop"):
            on_disk(root, clean(path.encode()).decode())
        return
    assert found.decode() == on_disk(root, clean(path.encode()).decode())
    for above in ancestors(found):
        entry = draft.get(above)
        assert entry is None or entry.kind != "symlink"
    shutil.rmtree(root)


def on_disk(root: Path, path: str, hops: int = 0) -> str:
    """One component after the other, by the operating system."""
    at: list[str] = []
    todo = path.split("/")
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            at = at[:-1]
            continue
        place = root.joinpath(*at, part)
        if place.is_symlink():
            hops += 1
            if hops > 255:
                raise OSError("loop")
            text = os.readlink(place)
            at = [] if text.startswith("/") else at
            todo = [*text.split("/"), *todo]
        else:
            at.append(part)
    return "/".join(at)


def write(root: Path, spec: dict[str, str], content: str = "x") -> None:
    for path, text in sorted(spec.items()):
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if text == "dir":
            place.mkdir(exist_ok=True)
        elif text == "file":
            place.write_text(content + path)
        else:
            place.symlink_to(text[3:])


def look(root: Path) -> dict[str, str]:
    out = {}
    for place in sorted(root.rglob("*")):
        name = str(place.relative_to(root))
        out[name] = f"-> {os.readlink(place)}" if place.is_symlink() else "dir" if place.is_dir() else place.read_text()
    return out


@settings(deadline=None, max_examples=40)
@given(source=SPECS.map(sane), image=SPECS.map(sane), directory=st.one_of(st.just("t"), PATHS))
def test_copying_a_directory_is_what_cp_does_where_cp_can(tree_of, applied, tmp_path_factory, source, image, directory):
    """`cp -a --remove-destination src/. dst` for destinations that are real directories or new."""
    base = tmp_path_factory.mktemp("copy")
    write(base / "source", source, "new ")
    write(base / "image", image, "old ")
    (base / "source").mkdir(exist_ok=True)
    (base / "image").mkdir(exist_ok=True)
    target = base / "image" / directory
    if any(p.is_symlink() or p.is_file() for p in (target, *target.parents)):
        return
    tree = DirectoryTree(str(base / "source"))
    below = DirectoryTree(str(base / "image"))
    try:
        plan = plan_copy(CopyRequest((b".",), b"/" + directory.encode(), b"/"), tree, below)
    except CopyError:
        plan = None
    target.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["cp", "-a", "--remove-destination", f"{base}/source/.", str(target)], capture_output=True,
    check=False)
    assert (plan is not None) == (done.returncode == 0), done.stderr
    if plan is not None:
        assert paint(plan, tree, look_before(image)) == look(base / "image")
    shutil.rmtree(base)


def look_before(image: dict[str, str]) -> dict[str, str]:
    out = {}
    for path, text in image.items():
        for above in ancestors(path.encode()):
            out[above.decode()] = "dir"
        out[path] = "old " + path if text == "file" else text
    return out


def paint(plan: list[Copied], tree: DirectoryTree, before: dict[str, str]) -> dict[str, str]:
    """The image with the layer on it."""
    out = dict(before)
    for copied in plan:
        entry, name = copied.entry, copied.entry.path.decode()
        if entry.kind == "file":
            out[name] = Path(os.fsdecode(tree.source(copied.from_path)[0])).read_text()
        else:
            out[name] = "dir" if entry.kind == "dir" else f"-> {entry.link.decode()}"
    return dict(sorted(out.items()))


@settings(deadline=None, max_examples=150)
@given(source=SPECS.map(sane), image=SPECS.map(sane), to=st.sampled_from(["/", "/t", "/a", "/a/b/", "/b/c"]),
octal=st.booleans(),
       options=st.fixed_dictionaries({"parents": st.booleans(), "exclude": st.sampled_from([(), ("a",), ("*/b", "!a/b")])}))
def test_copying_twice_is_copying_once(tree_of, applied, source, image, to, octal, options):
    request = CopyRequest((b".", b"a*"), to.encode(), b"/", mode="750" if octal else None, **options)
    context, below = tree_of(source), tree_of(image)
    try:
        first = plan_copy(request, context, below)
    except CopyError:
        return
    once = applied(below, [c.entry for c in first])
    if resolve(below, to.encode()) != resolve(once, to.encode()):
        return  # the copy has replaced a link that led to its destination
    second = plan_copy(request, context, once)
    assert applied(once, [c.entry for c in second]).entries == once.entries
    paths = [c.entry.path for c in first]
    assert len(set(paths)) == len(paths)


@settings(deadline=None, max_examples=150)
@given(members=st.lists(st.tuples(PATHS, st.one_of(st.sampled_from(["file", "dir", "whiteout"]), LINKS.map("-> {}".format),
                                                   PATHS.map("=> {}".format))), max_size=8), image=SPECS.map(sane))
def test_an_archive_gives_a_layer_that_can_be_applied(tree_of, applied, entry_for, members, image):
    below = tree_of(image)
    try:
        plan = plan_archive(CopyRequest((), b"/t", b"/"), [Change(entry_for(*m),
        b"/a" if m[1] == "file" else None) for m in members], below)
    except CopyError:
        return
    entries = [change.entry for change in plan]
    assert [e.path for e in entries] == sorted(e.path for e in entries)
    after = applied(below, entries)
    for path in after.entries:
        assert path == b"" or after.entries[path.rpartition(b"/")[0]].kind == "dir"
    for entry in entries:
        if entry.kind == "hardlink":
            assert after.entries[entry.link].kind == "file"
    changed = {p for p in after.entries if after.get(p) != below.get(p)} | (below.entries.keys() - after.entries.keys())
    assert all(p == b"t" or p.startswith(b"t/") or follow(b"t", Draft(below).link) in (p, *ancestors(p)) or p in ancestors(
        follow(b"t", Draft(below).link)) for p in changed), "nothing outside of the destination changes"


PARTS = st.binary(min_size=1, max_size=2).filter(lambda name: not {0, ord("/")} & set(name))
ENTRIES = st.builds(
    Entry, st.lists(PARTS, min_size=1, max_size=2).map(b"/".join), st.sampled_from(["file", "dir", "symlink", "char"]),
    st.integers(0, 0o7777), st.integers(0, 5), st.integers(0, 5), st.integers(0, 1), st.integers(0, 9),
    st.binary(max_size=3).filter(lambda link: 0 not in link), st.sampled_from(["1" * 64, "2" * 64]),
    st.integers(0, 2), st.integers(0, 2), st.lists(st.tuples(st.text(max_size=2), st.binary(max_size=2)),
    max_size=2).map(tuple))  # fmt: skip
LAYERS = st.lists(ENTRIES, max_size=4, unique_by=lambda entry: entry.path).map(lambda entries: sorted(entries, key=lambda e: e.path))


def key(entries: list[Entry]) -> str:
    return Dependence(Copies([Copied(entry) for entry in entries])).digest({})


def timeless(entries: list[Entry]) -> list[Entry]:
    files = [e._replace(mtime=0) if e.kind == "file" else e._replace(mtime=0, size=0) for e in entries]
    return [e if e.size else e._replace(digest="") for e in files]


@given(one=LAYERS, other=LAYERS)
def test_different_copies_have_different_keys_and_times_do_not_count(one, other):
    assert (key(one) == key(other)) == (timeless(one) == timeless(other))


CHANGES = {"path": PARTS.map(lambda name: b"d/" + name), "kind": st.sampled_from(["file", "dir", "symlink", "fifo"]),
           "mode": st.integers(0, 0o7777), "uid": st.integers(0, 1 << 40), "gid": st.integers(0, 1 << 40),
           "size": st.integers(0, 1 << 40), "mtime": st.integers(0, 9), "link": st.binary(max_size=2).filter(lambda link: 0 not in link),
           "digest": st.sampled_from(["1" * 64, "2" * 64, "0" * 63 + "1"]), "major": st.integers(0, 9), "minor": st.integers(0, 9),
           "xattrs": st.lists(st.tuples(st.text(max_size=2), st.binary(max_size=2)), max_size=2).map(tuple)}  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(layer=LAYERS.filter(bool), at=st.integers(0, 3), field=st.sampled_from(sorted(CHANGES)), data=st.data())
def test_whatever_changes_of_one_entry_counts(layer, at, field, data):
    at %= len(layer)
    changed = layer[at]._replace(**{field: data.draw(CHANGES[field])})
    other = sorted([*layer[:at], changed, *layer[at + 1 :]], key=lambda entry: entry.path)
    if len({entry.path for entry in other}) == len(other):
        assert (key(layer) == key(other)) == (timeless(layer) == timeless(other))


def file(path: bytes, size: int = 1, digest: str = "1" * 64) -> Entry:
    return Entry(path, "file", 0o644, size=size, digest=digest)


@pytest.mark.parametrize(("one", "other"), [
    ([file(b"d/a")], [file(b"e/a")]), ([file(b"ab/c")], [file(b"a/bc")]), ([file(b"a")], [file(b"a", 2)]),
    ([file(b"d/a")], [file(b"a")]), ([file(b"a/b"), file(b"a/c")], [file(b"a/b"), file(b"c")]),
    ([file(b"a"), file(b"b", digest="2" * 64)], [file(b"a", digest="2" * 64), file(b"b")]),
    ([Entry(b"a", "symlink", link=b"bc"), Entry(b"b", "symlink", link=b"d")],
     [Entry(b"a", "symlink", link=b"b"), Entry(b"b", "symlink", link=b"cd")]),
    ([Entry(b"a", "file", xattrs=(("k", b"v"),)), Entry(b"b", "file")], [Entry(b"a", "file"), Entry(b"b", "file", xattrs=(("k", b"v"),))]),
])  # fmt: skip
def test_copies_that_are_nearly_the_same_have_different_keys(one, other):
    assert key(one) != key(other)


def test_a_key_has_the_digests_of_a_context_and_no_directories_that_were_there(tree_of):
    context, image = tree_of({"f": Entry(b"", "file", 0o644, size=3)}), tree_of({"d": "dir 700 5:5"})
    planned = plan_copy(CopyRequest((b"f",), b"/d/g", b"/"), context, image)
    assert [copied.kept for copied in planned] == [True, False]
    digest = "cafe" * 16
    assert Dependence(Copies(planned)).digest({b"f": digest}) == key([Entry(b"d/g", "file", 0o644, size=3, digest=digest)])
    with pytest.raises(KeyError):
        Dependence(Copies(planned)).digest({})


@given(path=LINKS, workdir=st.sampled_from([b"/", b"/w", b"/w/x"]))
def test_destinations_never_climb(path, workdir):
    found, directory = destination(path.encode(), workdir)
    assert not {b"", b".", b".."} & set(found.split(b"/")) or not found
    assert "/" + found.decode() == os.path.normpath(os.path.join(workdir.decode(), path)).replace("//", "/")
    assert directory == (path == "." or path.endswith("/."))


def test_forty_thousand_files_are_planned_without_a_lookup_in_the_image_for_each(tree_of):
    class Counting(EmptyTree):
        asked = 0

        def get(self, path):
            Counting.asked += 1
            return super().get(path)

    names = [b"d%d" % i for i in range(200)]

    class Wide(EmptyTree):
        def get(self, path):
            return Entry(path, "file", 0o644, size=1) if path.count(b"/") else Entry(path, "dir", 0o755)

        def children(self, path):
            return () if path.count(b"/") else names

    plan = plan_copy(CopyRequest((b"/",), b"/app", b"/"), Wide(), Counting())
    assert len(plan) == 40201
    assert Counting.asked < 20
