"""Layers and changes onto a root that is there, held against the model and against overlayfs."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings

from engine.errors import ContentError, ContextError
from engine.isolate.copies import remove_tree
from engine.layer.apply import apply_changes, apply_layer, apply_unpacked, unpack
from engine.layer.base import Layer
from engine.layer.entries import Change, Entry
from engine.layer.index import Index
from engine.layer.pack import pack
from engine.layer.tree import Tree, walk
from tests.contract.layer_files import SECOND, changes_of, every_kind, folder, hardlink, listing, member, symlink, tar
from tests.unit.layer.models import Files, chains, tar_of

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
LAYER = cast(Layer, None)


def apply_moved(blob: str, root: str, *, owners: bool = True, diff_id: str = "") -> str:
    """As `apply_layer`, by unpacking the layer first, and by itself where that does not help."""
    directory = tempfile.mkdtemp(dir=Path(root).parent)
    os.chmod(directory, 0o755)
    unpacked = unpack(blob, directory, style="plain", owners=owners, diff_id=diff_id)
    before = listing(root)
    if not apply_unpacked(directory, unpacked.index, root, owners=owners):
        assert listing(root) == before
        apply_layer(blob, root, owners=owners)
    remove_tree(directory)
    return unpacked.diff_id


Apply = Callable[..., str]
ways = pytest.mark.parametrize("apply", [apply_layer, apply_moved])


def on_disk(root: Path) -> dict[str, tuple[object, ...]]:
    out: dict[str, tuple[object, ...]] = {}
    for change in changes_of(root):
        entry = change.entry
        path = root / os.fsdecode(entry.path)
        found = path.lstat()
        kind = "file" if entry.kind == "hardlink" and stat.S_ISREG(found.st_mode) else entry.kind
        if kind == "hardlink":
            kind = "fifo"
        out["/" + entry.path.decode()] = (kind, stat.S_IMODE(found.st_mode), found.st_uid, path.read_bytes() if kind == "file" else b"",
                                          entry.link.decode() if kind == "symlink" else "", found.st_nlink > 1 and kind != "dir")
    return out


def in_model(files: Files) -> dict[str, tuple[object, ...]]:
    links: dict[object, int] = {}
    for node in files.values():
        links[node.inode] = links.get(node.inode, 0) + 1
    return {path: (n.kind, 0o777 if n.kind == "symlink" else n.mode, n.uid, n.content, n.link, n.inode is not None and links[n.inode] > 1)
            for path, n in files.items()}  # fmt: skip


@root_only
@ways
@given(chains())
@settings(max_examples=60, deadline=None)
def test_layers_over_each_other_are_what_a_naive_model_says(apply: Apply, tmp_path_factory: pytest.TempPathFactory,
                                                             chain: tuple[list[list[Entry]], list[Files]]) -> None:
    work = tmp_path_factory.mktemp("apply")
    root, blob = work / "root", work / "layer.tar"
    root.mkdir(mode=0o755)
    try:
        for entries, state in zip(*chain, strict=True):
            blob.write_bytes(tar_of(entries))
            apply(str(blob), str(root))
            assert on_disk(root) == in_model(state)
    finally:
        shutil.rmtree(work)


@root_only
@given(chains())
@settings(max_examples=60, deadline=None)
def test_moving_an_unpacked_layer_comes_to_the_same(tmp_path_factory: pytest.TempPathFactory,
                                                    chain: tuple[list[list[Entry]], list[Files]]) -> None:
    work, began = tmp_path_factory.mktemp("apply"), time.time_ns() - SECOND
    for name in ("read", "moved"):
        (work / name).mkdir(mode=0o755)
        os.utime(work / name, ns=(0, 0))
    try:
        for n, entries in enumerate(chain[0]):
            (work / "layer.tar").write_bytes(tar_of(entry._replace(mtime=n * SECOND) for entry in entries))
            for apply, name in ((apply_layer, "read"), (apply_moved, "moved")):
                apply(str(work / "layer.tar"), str(work / name))
            read, moved = listing(work / "read"), listing(work / "moved")
            for path in read.keys() & moved.keys():
                if max(cast(int, rows[path][8]) for rows in (read, moved)) > began:  # nobody has said of what time it is
                    read[path], moved[path] = ((*rows[path][:8], *rows[path][9:]) for rows in (read, moved))
            assert moved == read
    finally:
        shutil.rmtree(work)


@ways
def test_what_has_no_entry_is_not_made_of_a_file(apply: Apply, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/f").write_text("a file")
    tar(member("f/in"), path=tmp_path / "layer.tar")
    with pytest.raises(ContentError, match="below something that is no directory"):
        apply(str(tmp_path / "layer.tar"), str(tmp_path / "root"), owners=False)


@ways
def test_directories_that_are_deeper_than_python_can_recurse(apply: Apply, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    deep = "/".join("d" * 1200)
    tar(member(f"{deep}/a"), path=tmp_path / "layer.tar")
    try:
        apply(str(tmp_path / "layer.tar"), str(tmp_path / "root"), owners=False)
        tar(member(f"{deep}/b"), path=tmp_path / "layer.tar")
        apply(str(tmp_path / "layer.tar"), str(tmp_path / "root"), owners=False)
        assert sorted(os.listdir(tmp_path / "root" / deep)) == ["a", "b"]
        tar(member(".wh.d"), path=tmp_path / "layer.tar")
        apply(str(tmp_path / "layer.tar"), str(tmp_path / "root"), owners=False)
        assert os.listdir(tmp_path / "root") == []
    finally:
        remove_tree(str(tmp_path / "root"))  # which pytest could not


@ways
def test_a_device_that_cannot_be_made_hides_what_was_there(apply: Apply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/null").write_text("no device")
    mknod = os.mknod

    def refuse(path: bytes, mode: int, device: int = 0, *, dir_fd: int | None = None) -> None:
        if os.path.lexists(f"/proc/self/fd/{dir_fd}/{os.fsdecode(path)}"):
            mknod(path, mode, device, dir_fd=dir_fd)  # which says that there is something
        raise PermissionError(errno.EPERM, "not allowed")

    monkeypatch.setattr(os, "mknod", refuse)
    tar(member("null", kind=tarfile.CHRTYPE), path=tmp_path / "layer.tar")
    apply(str(tmp_path / "layer.tar"), str(tmp_path / "root"), owners=False)
    assert os.listdir(tmp_path / "root") == []


@ways
def test_what_is_hidden_below_a_symlink_is_hidden_where_it_leads(apply: Apply, tmp_path: Path) -> None:
    (tmp_path / "root/usr/lib").mkdir(parents=True)
    (tmp_path / "root/lib").symlink_to("usr/lib")
    for name in ("old", "gone"):
        (tmp_path / "root/usr/lib" / name).touch()
    tar(member("lib/.wh.gone"), path=tmp_path / "layer.tar")
    apply(str(tmp_path / "layer.tar"), str(tmp_path / "root"), owners=False)
    assert os.listdir(tmp_path / "root/usr/lib") == ["old"]
    tar(member("lib/.wh..wh..opq"), path=tmp_path / "layer.tar")
    apply(str(tmp_path / "layer.tar"), str(tmp_path / "root"), owners=False)
    assert os.listdir(tmp_path / "root/usr/lib") == [] and (tmp_path / "root/lib").is_symlink()


@ways
def test_hard_links_to_files_that_the_layer_itself_replaces(apply: Apply, tmp_path: Path) -> None:
    (tmp_path / "root/d").mkdir(parents=True)
    (tmp_path / "root/d/x").write_text("old")
    (tmp_path / "root/f").write_text("old")
    tar(hardlink("a", "d/x"), member("d", data=b"new"), hardlink("b", "f"), member("f", data=b"new"), path=tmp_path / "layer.tar")
    apply(str(tmp_path / "layer.tar"), str(tmp_path / "root"), owners=False)
    assert {name: (tmp_path / "root" / name).read_text() for name in "abdf"} == {"a": "old", "b": "old", "d": "new", "f": "new"}


def test_a_path_that_is_too_long_with_that_of_the_root(tmp_path: Path) -> None:
    root, blob = tmp_path / "root", tmp_path / "layer.tar"
    (tmp_path / "layer").mkdir()
    root.mkdir()
    deep = "d" * 40 + ("/" + "d" * 200) * 20
    assert len(f"{root}/{deep}") > 4096 > len(f"{deep}/file")
    try:
        tar(member(f"{deep}/file"), path=blob)
        apply_layer(str(blob), str(root), owners=False)
        unpacked = unpack(str(blob), str(tmp_path / "layer"), style="plain", owners=False)
        assert not apply_unpacked(str(tmp_path / "layer"), unpacked.index, str(root), owners=False)
        tar(member(f"{os.path.dirname(deep)}/.wh.{os.path.basename(deep)}"), path=blob)
        apply_layer(str(blob), str(root), owners=False)
        assert len(os.listdir(root)) == 1
    finally:
        for name in ("root", "layer"):
            remove_tree(str(tmp_path / name))


@root_only
@ways
def test_names_of_one_device_stay_names_of_one(apply: Apply, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/null").write_text("no device")
    tar(member("null", kind=tarfile.CHRTYPE, major=1, minor=3), hardlink("zero", "null"), path=tmp_path / "layer.tar")
    apply(str(tmp_path / "layer.tar"), str(tmp_path / "root"))
    assert stat.S_ISCHR((tmp_path / "root/zero").stat().st_mode) and (tmp_path / "root/null").samefile(tmp_path / "root/zero")


@root_only
@ways
def test_a_layer_applied_to_nothing_is_the_layer_unpacked(apply: Apply, tmp_path: Path) -> None:
    for name in ("tree", "one", "two"):
        (tmp_path / name).mkdir()
    every_kind(tmp_path / "tree", root_user=True)
    packed = pack(changes_of(tmp_path / "tree"), str(tmp_path / "blob"))
    assert apply(str(tmp_path / "blob"), str(tmp_path / "one"), diff_id=f"sha256:{packed.diff_id}") == packed.diff_id
    assert listing(tmp_path / "one") == listing(tmp_path / "tree")


@root_only
def test_changes_make_a_directory_and_unmake_it(tmp_path: Path) -> None:
    for name in ("tree", "copy"):
        (tmp_path / name).mkdir()
    every_kind(tmp_path / "tree", root_user=True)
    apply_changes(changes_of(tmp_path / "tree"), str(tmp_path / "copy"))
    assert listing(tmp_path / "copy") == listing(tmp_path / "tree")
    apply_changes(changes_of(tmp_path / "tree"), str(tmp_path / "copy"))
    assert listing(tmp_path / "copy") == listing(tmp_path / "tree")
    apply_changes([Change(Entry(b"f", "whiteout")), Change(Entry(b"d", "opaque")), Change(Entry(b"no/such", "whiteout"))],
                  str(tmp_path / "copy"))  # fmt: skip
    left = listing(tmp_path / "copy")
    assert b"f" not in left and b"d" in left and not [p for p in left if p.startswith(b"d/")]
    assert left[b"d"] == listing(tmp_path / "tree")[b"d"], "its time stays"


def change(path: bytes, kind: str = "file", tmp: Path | None = None, data: bytes = b"", **fields: object) -> Change:
    source = None
    if kind == "file":
        assert tmp
        (tmp / "source").mkdir(exist_ok=True)
        source = bytes(tmp / "source" / path.decode().replace("/", "-"))
        Path(os.fsdecode(source)).write_bytes(data)
    return Change(Entry(path, kind, **{"mode": 0o755, "size": len(data), "uid": os.geteuid(), "gid": os.getegid(), **fields}),  # type: ignore[arg-type]
                  source)


def test_kinds_replace_each_other(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "dir/in").mkdir(parents=True)
    (root / "file").write_text("old")
    (root / "link").symlink_to("file")
    apply_changes([change(b"dir", tmp=tmp_path, data=b"now a file"), change(b"file", "dir"), change(b"file/in", tmp=tmp_path, data=b"x"),
                   change(b"link", tmp=tmp_path, data=b"y"), change(b"hard", "hardlink", link=b"file/in")], str(root))  # fmt: skip
    assert (root / "dir").read_text() == "now a file"
    assert (root / "file/in").read_text() == "x" and (root / "hard").samefile(root / "file/in")
    assert not (root / "link").is_symlink() and (root / "link").read_text() == "y"


def test_removals_come_before_what_is_added(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/old").write_text("")
    (root / "x").write_text("old")
    apply_changes([change(b"d", "dir"), change(b"d/new", tmp=tmp_path), change(b"d", "opaque"), change(b"x", tmp=tmp_path, data=b"new"),
                   change(b"x", "whiteout")], str(root))  # fmt: skip
    assert os.listdir(root / "d") == ["new"] and (root / "x").read_text() == "new"


@ways
def test_links_in_the_root_do_not_lead_out(apply: Apply, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "victim").write_text("mine")
    (root / "abs").symlink_to(outside)
    (root / "up").symlink_to("../outside")
    (root / "file").symlink_to(outside / "victim")
    before = listing(outside)
    apply_changes([change(b"abs/new", tmp=tmp_path), change(b"up/new", tmp=tmp_path), change(b"file", tmp=tmp_path, data=b"evil"),
                   change(b"abs/victim", "whiteout"), change(b"up", "opaque"), change(b"abs/d", "dir")], str(root))  # fmt: skip
    assert (root / str(outside).strip("/") / "new").exists() and (root / "outside").is_dir()
    tar(member("abs/a", data=b"evil"), member("up/.wh.victim"), member("abs/.wh..wh..opq"), hardlink("h", "abs/victim2"),
        path=tmp_path / "layer.tar")  # fmt: skip
    with pytest.raises(ContentError, match="not there"):
        apply(str(tmp_path / "layer.tar"), str(root), owners=False)
    assert listing(outside) == before


@ways
def test_untouched_parents_keep_their_times(apply: Apply, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/gone").write_text("")
    for path in ("a/b", "a", "."):
        os.utime(root / path, (5, 5))
    tar(member("a/b/new"), member("a/b/.wh.gone"), member("a/made/x"), path=tmp_path / "layer.tar")
    apply(str(tmp_path / "layer.tar"), str(root), owners=False)
    assert [int((root / path).stat().st_mtime) for path in (".", "a", "a/b")] == [5, 5, 5]
    assert sorted(os.listdir(root / "a/b")) == ["new"]


@root_only
@ways
def test_existing_directories_take_what_the_entry_says(apply: Apply, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    os.chown(root / "d", 5, 6)
    os.chmod(root / "d", 0o2777)
    tar(folder("d", 0o755), member("d/f"), folder("d/e"), path=tmp_path / "layer.tar")
    apply(str(tmp_path / "layer.tar"), str(root))
    assert [(s.st_uid, s.st_gid, stat.S_IMODE(s.st_mode)) for s in map(os.stat, [root / "d", root / "d/f", root / "d/e"])] == [
        (0, 0, 0o755), (0, 0, 0o644), (0, 0, 0o755)]  # fmt: skip


def test_a_source_that_is_short_or_gone_is_a_context_error(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "f").write_bytes(b"ab")
    (tmp_path / "l").symlink_to("f")
    for source in (b"f", b"gone", b"l"):
        with pytest.raises(ContextError):
            apply_changes([Change(Entry(b"f", "file", 0o644, size=3), bytes(tmp_path) + b"/" + source)], str(tmp_path / "root"), owners=False)


@ways
def test_another_diff_id_is_a_content_error(apply: Apply, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    tar(member("f"), path=tmp_path / "layer.tar")
    with pytest.raises(ContentError):
        apply(str(tmp_path / "layer.tar"), str(tmp_path / "root"), owners=False, diff_id="sha256:" + "0" * 64)


@root_only
def test_overlayfs_shows_what_the_tree_says(tmp_path: Path) -> None:
    layers = [
        [folder("etc"), member("etc/motd", data=b"hi"), member("etc/keep"), folder("data", 0o711), member("data/a"), folder("data/sub"),
         member("data/sub/x"), member("was-file"), folder("was-dir"), member("was-dir/x"), symlink("was-link", "etc"), folder("wiped"),
         member("wiped/old")],
        [folder("etc"), member("etc/.wh.motd"), folder("data"), member("data/.wh..wh..opq"), member("data/new", data=b"n"), folder("data/sub"),
         folder("was-file"), member("was-file/in"), member("was-dir", data=b"f"), folder("was-link"), folder("wiped"), member(".wh.wiped"),
         member("wiped/new"), hardlink("etc/hard", "data/new")],
        [member(".wh.was-dir"), folder("etc"), member("etc/motd", data=b"again"), member(".wh.wiped")],
    ]  # fmt: skip
    tree, lower = Tree.empty(), []
    for number, members in enumerate(layers):
        directory = tmp_path / f"layer{number}"
        directory.mkdir()
        os.chmod(directory, 0o755)
        tar(folder("./"), *members, path=tmp_path / "layer.tar")
        tree = tree.extended(LAYER, unpack(str(tmp_path / "layer.tar"), str(directory)).index)
        lower.insert(0, str(directory))
    (tmp_path / "merged").mkdir()
    mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={':'.join(lower)}", tmp_path / "merged"], check=False)
    if mounted.returncode:
        pytest.skip("overlayfs cannot be mounted here")
    try:
        seen = {path: row[:5] for path, row in listing(tmp_path / "merged").items()}
    finally:
        subprocess.run(["umount", tmp_path / "merged"], check=True)
    told = {e.path: (e.kind, e.mode, e.uid, e.gid) for e in walk(tree)}
    assert {path: (("file" if row[0] == "hardlink" else row[0]), *row[1:4]) for path, row in seen.items()} == told
    assert seen[b"etc/motd"][4] == b"again" and seen[b"etc/hard"][0] == "hardlink"
    assert Index(()).entries == ()
