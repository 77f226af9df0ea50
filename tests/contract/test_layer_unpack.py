"""One layer into its own directory, on a real filesystem."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from engine.errors import ContentError, StorageError
from engine.image.digest import Digest
from engine.isolate.base import IdMap
from engine.layer.apply import Style, Unpacked, unpack
from engine.layer.index import IndexStore
from tests.contract.layer_files import every_kind, folder, hardlink, listing, member, symlink, tar

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def into(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Unpacks members into `tmp_path/out`."""

    def into(*members: tarfile.TarInfo, style: Style = "overlay-trusted", **options: object) -> Unpacked:
        (tmp_path / "out").mkdir()
        tar(*members, path=tmp_path / "layer.tar")
        return unpack(str(tmp_path / "layer.tar"), str(tmp_path / "out"), style=style, **options)  # type: ignore[arg-type]

    return into


def kind_of(path: Path) -> str:
    found = path.lstat()
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
        return "whiteout"
    return {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}[stat.S_IFMT(found.st_mode)]


@root_only
@pytest.mark.parametrize("compress", [["cat"], ["gzip", "-1"], ["zstd", "-q"]])
def test_a_layer_on_disk_is_what_gnu_tar_makes_of_it(tmp_path: Path, compress: list[str]) -> None:
    for name in ("tree", "theirs", "ours"):
        (tmp_path / name).mkdir()
    every_kind(tmp_path / "tree", root_user=True)
    command = ["tar", "-C", tmp_path / "tree", "--xattrs", "--xattrs-include=*", "--format=pax", "-c", "."]
    plain = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "layer").write_bytes(subprocess.run(compress, input=plain, stdout=subprocess.PIPE, check=True).stdout)
    unpacked = unpack(str(tmp_path / "layer"), str(tmp_path / "ours"))
    assert listing(tmp_path / "ours") == listing(tmp_path / "tree")
    assert unpacked.implicit == () and unpacked.foreign_links == ()
    assert {e.path for e in unpacked.entries} == set(listing(tmp_path / "tree"))


@root_only
def test_whiteouts_are_as_overlayfs_has_them(into, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = into(member("d/.wh.gone"), folder("opaque"), member("opaque/.wh..wh..opq"), member("opaque/new", data=b"x"))
    out = tmp_path / "out"
    assert kind_of(out / "d/gone") == "whiteout"
    assert os.getxattr(out / "opaque", "trusted.overlay.opaque") == b"y"
    assert sorted(os.listdir(out / "opaque")) == ["new"]
    assert found.implicit == (b"d",)


@root_only
@pytest.mark.parametrize("first", [True, False])
def test_a_whiteout_beside_its_entry_hides_only_what_is_below(into, tmp_path: Path, first: bool) -> None:  # type: ignore[no-untyped-def]
    hides = [member(".wh.dir"), member(".wh.file"), member(".wh.deep")]
    makes = [folder("dir"), member("dir/x"), member("file"), member("deep/er/x")]
    into(*(hides + makes if first else makes + hides))
    out = tmp_path / "out"
    assert [kind_of(out / name) for name in ("dir", "file", "deep")] == ["dir", "file", "dir"]
    assert os.getxattr(out / "dir", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(out / "deep", "trusted.overlay.opaque") == b"y"
    assert (out / "dir/x").exists() and (out / "deep/er/x").exists()


def test_a_plain_directory_has_no_marks(into, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = into(member("a/.wh.gone"), member("a/.wh..wh..opq"), style="plain", owners=False)
    assert os.listdir(tmp_path / "out/a") == [] and os.listxattr(tmp_path / "out/a") == []
    assert [e.kind for e in found.entries] == ["whiteout", "opaque"]


@root_only
def test_a_user_s_overlay_has_a_user_s_mark(into, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    into(member("a/.wh..wh..opq"), style="overlay-user")
    try:
        assert os.getxattr(tmp_path / "out/a", "user.overlay.opaque") == b"y"
    finally:
        assert os.listxattr(tmp_path / "out/a") == ["user.overlay.opaque"]


@root_only
def test_a_layer_cannot_speak_to_overlayfs(into, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bad = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.trusted.fine": "x"}
    found = into(member("f", pax_headers=bad), folder("d", pax_headers=bad), member("zero", tarfile.CHRTYPE))
    out = tmp_path / "out"
    assert os.listxattr(out / "f") == os.listxattr(out / "d") == ["trusted.fine"]
    assert not (out / "zero").exists()
    assert [e.kind for e in found.entries] == ["file", "dir", "char"]


HOSTILE = {
    "an absolute link, then a file behind it": [symlink("l", "/etc"), member("l/passwd", data=b"evil")],
    "a climbing link, then a file behind it": [symlink("l", "../../../../etc"), member("l/passwd", data=b"evil")],
    "a link to the parent, then a folder behind it": [symlink("l", ".."), folder("l/evil")],
    "a chain of links": [symlink("a", "b"), symlink("b", "/"), member("a/etc/passwd", data=b"evil")],
    "a folder that becomes a link": [folder("d"), symlink("d", "/etc"), member("d/passwd", data=b"evil")],
    "a folder that becomes a link, with a mode": [folder("d", 0o777), symlink("d", "{out}")],
    "a deep folder that becomes a link": [folder("d/e", 0o777), symlink("d", "{parent}"), ],
    "a file over a link": [symlink("passwd", "{out}/victim"), member("passwd", data=b"evil", mode=0o777)],
    "a whiteout through a link": [symlink("l", "/"), member("l/etc/.wh.passwd")],
    "an opaque mark through a link": [symlink("l", "{parent}"), member("l/.wh..wh..opq")],
    "a fifo through a link": [symlink("l", "{out}"), member("l/evil", tarfile.FIFOTYPE)],
    "a hard link to a link": [symlink("l", "{out}/victim"), hardlink("h", "l"), member("h", data=b"evil")],
    "a hard link through a link": [symlink("l", "{out}"), hardlink("h", "l/victim"), member("x")],
    "an absolute name": [member("/evil", data=b"evil")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_lands_outside(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "victim").write_text("mine")
    (outside / "e").mkdir(mode=0o700)
    for each in members:
        each.linkname = each.linkname.format(out=outside, parent=outside)
    before, host = listing(outside), os.stat("/etc")
    (tmp_path / "out").mkdir()
    try:
        tar(*members, path=tmp_path / "layer.tar")
        unpack(str(tmp_path / "layer.tar"), str(tmp_path / "out"), owners=False)
    except ContentError:
        pass
    assert listing(outside) == before
    assert sorted(os.listdir(tmp_path)) == ["layer.tar", "out", "outside"]
    assert (os.stat("/etc").st_mtime_ns, os.stat("/etc").st_mode) == (host.st_mtime_ns, host.st_mode)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", ".."])
def test_a_name_that_climbs_out_is_refused(into, tmp_path: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ContentError, match="climbs out"):
        into(member(name))
    assert not (tmp_path / "evil").exists()


def test_the_last_of_several_wins_on_disk(into, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = into(member("a", data=b"1"), folder("d"), member("d/x/y"), symlink("s", "a"), hardlink("h", "a"), member("a", data=b"two"),
                 member("d", data=b"file"), folder("s"), member("s/in"), folder("late/d", 0o700), folder("late", 0o711),
                 owners=False)  # fmt: skip
    out = tmp_path / "out"
    assert [(out / n).read_bytes() for n in ("a", "h", "d", "s/in")] == [b"two", b"1", b"file", b""]
    assert {e.path.decode(): e.kind for e in found.entries} == {
        "a": "file", "h": "file", "d": "file", "s": "dir", "s/in": "file", "late/d": "dir", "late": "dir"}  # fmt: skip
    assert stat.S_IMODE((out / "late").stat().st_mode) == 0o711


def test_folders_get_their_times_and_modes_at_the_end(into, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    into(folder("ro", 0o555, mtime=5), member("ro/f", mtime=6), folder("sgid", 0o2755, mtime=7), folder("sgid/d", 0o755, mtime=8),
         folder("./", 0o711, mtime=9), owners=False)  # fmt: skip
    out = tmp_path / "out"
    assert [int((out / n).stat().st_mtime) for n in ("ro", "ro/f", "sgid", "sgid/d", ".")] == [5, 6, 7, 8, 9]
    assert [stat.S_IMODE((out / n).stat().st_mode) for n in ("ro", "sgid", "sgid/d", ".")] == [0o555, 0o2755, 0o755, 0o711]


@root_only
def test_a_setgid_directory_outside_gives_nothing_to_the_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, 0, 1234)
    os.chmod(out, 0o2755)
    tar(member("f"), folder("d"), member("d/f"), path=tmp_path / "layer.tar")
    unpack(str(tmp_path / "layer.tar"), str(out))
    assert [(out / n).stat().st_gid for n in ("f", "d", "d/f")] == [0, 0, 0]
    assert stat.S_IMODE((out / "d").stat().st_mode) == 0o755


def test_foreign_links_are_told_and_left_out(into, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = into(hardlink("b", "lower/a"), member("c"), owners=False)
    assert [(e.path, e.link) for e in found.foreign_links] == [(b"b", b"lower/a")]
    assert os.listdir(tmp_path / "out") == ["c"]


def test_holes_stay_holes(into, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = b"x" * 4096
    headers = {"GNU.sparse.size": str(64 << 20), "GNU.sparse.map": f"{32 << 20},4096"}
    into(member("s", data=data, pax_headers=headers), owners=False)
    found = (tmp_path / "out/s").stat()
    assert (found.st_size, found.st_blocks * 512 < 1 << 20) == (64 << 20, True)
    assert (tmp_path / "out/s").read_bytes()[32 << 20 : (32 << 20) + 4096] == data


@root_only
def test_owners_that_cannot_be_are_left_out_on_disk_only(into, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = into(member("a", uid=0, gid=0), member("b", uid=5, gid=6), member("c", uid=70000), ids=IdMap("subids", 65536))
    assert [(tmp_path / "out" / n).stat().st_uid for n in "abc"] == [0, 5, 0]
    assert [e.uid for e in found.entries] == [0, 5, 70000]


def test_the_index_is_stored_when_the_diff_id_is_right(into, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = tar(member("etc/passwd", data=b"root:x:0:0::/root:/bin/sh\n"))
    digest, store = Digest.of(data), IndexStore(tmp_path / "indexes")
    found = into(member("etc/passwd", data=b"root:x:0:0::/root:/bin/sh\n"), owners=False, diff_id=str(digest),
                 index_dir=str(store.directory))  # fmt: skip
    assert found.diff_id == digest.hex and found.entries == ()
    index = store.get(digest)
    assert index and index.files == {b"etc/passwd": b"root:x:0:0::/root:/bin/sh\n"}


def test_another_diff_id_is_a_content_error(into, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ContentError):
        into(member("f"), owners=False, diff_id=str(Digest.of(b"other")), index_dir=str(tmp_path / "indexes"))
    assert not (tmp_path / "indexes").exists()


def test_a_broken_blob_is_a_content_error_and_a_missing_one_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"\x1f\x8b\x08\x00garbage")
    (tmp_path / "out").mkdir()
    with pytest.raises(ContentError):
        unpack(str(tmp_path / "blob"), str(tmp_path / "out"))
    with pytest.raises(StorageError):
        unpack(str(tmp_path / "none"), str(tmp_path / "out"))


def test_a_name_too_long_for_a_disk_is_a_storage_error(into) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StorageError, match="cannot write"):
        into(member("n" * 300), owners=False)


@root_only
def test_an_ordinary_user_unpacks_what_is_possible(tmp_path: Path) -> None:
    members = [member("f", uid=5, mode=0o4755), folder("ro", 0o555), member("ro/x"), member("dev", tarfile.CHRTYPE, devmajor=1),
               member("cap", pax_headers={"SCHILY.xattr.security.capability": "x"})]  # fmt: skip
    tar(*members, path=tmp_path / "layer.tar")
    for path in (tmp_path, *tmp_path.parents):  # pytest keeps its folders to itself
        if not path.stat().st_mode & 0o001:
            path.chmod(0o755)
    os.chmod(tmp_path / "layer.tar", 0o644)
    (tmp_path / "out").mkdir()
    os.chown(tmp_path / "out", 4242, 4242)
    subprocess.run([sys.executable, "-c", _AS_USER, str(tmp_path)], check=True)
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["cap", "f", "ro"]
    assert ((out / "f").stat().st_uid, stat.S_IMODE((out / "f").stat().st_mode)) == (4242, 0o4755)
    assert stat.S_IMODE((out / "ro").stat().st_mode) == 0o555 and (out / "ro/x").exists()


_AS_USER = """
import os, sys
from engine.isolate.base import IdMap
from engine.layer.apply import unpack

directory = sys.argv[1]
os.setgroups([])
os.setgid(4242)
os.setuid(4242)
os.umask(0o077)
found = unpack(f"{directory}/layer.tar", f"{directory}/out", style="plain", owners=False, ids=IdMap("none"))
assert len(found.entries) == 5
"""
