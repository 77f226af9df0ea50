"""Tars as contexts, and every way of opening a context that needs no network."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from blake3 import blake3

from engine.context.archive import ArchiveTree, open_archive
from engine.context.hashing import Hasher
from engine.context.open import ContextOptions, open_context
from engine.errors import ContextError, EngineError
from engine.layer.entries import Change, Entry

TYPES = {"dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}


def tar(*members: tuple[str, str, str], mode: str = "w") -> bytes:
    """A tar of (name, kind, content or link)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.uid = TYPES.get(kind, tarfile.REGTYPE), 1000, 5
            info.mode = 0o755 if kind == "dir" else 0o640
            if kind == "file":
                info.size = len(text)
            else:
                info.linkname = text
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


SMALL = (("./", "dir", ""), ("Dockerfile", "file", "FROM scratch\n"), ("./d/f", "file", "f\n"), ("d/l", "symlink", "/d/f"),
         ("d/h", "hardlink", "./d/f"), (".dockerignore", "file", "d\n"), ("empty", "file", ""))


@pytest.fixture
def scratch(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return scratch


@pytest.fixture
def options(scratch):
    def make(**more) -> ContextOptions:
        return ContextOptions(scratch, Hasher(None), **more)

    return make


@pytest.fixture
def tree(tmp_path, scratch):
    def make(*members: tuple[str, str, str]) -> ArchiveTree:
        path = tmp_path / "x.tar"
        path.write_bytes(tar(*members))
        found = open_archive(path, scratch)
        assert found is not None
        return found

    return make


def content(tree: ArchiveTree, path: bytes) -> bytes:
    place, offset = tree.source(path)
    with open(place, "rb") as file:
        return os.pread(file.fileno(), tree.get(path).size, offset)


def test_members_are_files_where_they_lie_in_the_tar(tree):
    found = tree(*SMALL)
    assert found.children(b"") == [b".dockerignore", b"Dockerfile", b"d", b"empty"]
    assert found.children(b"d") == [b"f", b"h", b"l"]
    f = found.get(b"d/f")
    assert (f.kind, f.mode, f.uid, f.size, f.mtime) == ("file", 0o640, 0, 2, 1000 * 10**9)
    assert content(found, b"d/f") == content(found, b"d/h") == found.read(b"d/h") == b"f\n"
    assert found.identity(b"d/f") == found.identity(b"d/h") is not None
    assert found.identity(b"Dockerfile") is None
    assert found.get(b"d/l").link == b"/d/f"
    assert found.get(b"d").mode == 0o755


def test_later_members_replace_earlier_ones(tree):
    found = tree(("a", "file", "1"), ("h", "hardlink", "a"), ("a", "file", "2"), ("d/x", "file", "x"), ("d", "file", "now"),
                 ("e2/in", "file", "in"), ("e2", "dir", ""))
    assert (found.read(b"a"), found.read(b"h"), found.read(b"d")) == (b"2", b"1", b"now")
    assert found.get(b"d/x") is None
    assert found.children(b"e2") == [b"in"], "a directory over a directory keeps what is in it"


def test_members_behind_links_go_where_these_point_inside_the_root(tree):
    found = tree(("real", "dir", ""), ("l", "symlink", "../../real"), ("l/f", "file", "f"), ("abs", "symlink", "/real"),
                 ("abs", "dir", ""), ("abs/g", "file", "g"))
    assert found.children(b"real") == [b"f", b"g"]
    assert found.get(b"l/f") is None


def test_names_of_whiteouts_mean_nothing(tree):
    found = tree(("a", "file", "a"), (".wh.a", "file", ""), ("d/.wh..wh..opq", "file", ""))
    assert found.children(b"") == [b"a"]


@pytest.mark.parametrize("members", [
    [("../x", "file", "x")], [("d/../../x", "file", "x")], [("f", "file", "f"), ("f/x", "file", "x")], [("h", "hardlink",
    "nope")],
    [("h", "hardlink", "../x")], [("d", "dir", ""), ("h", "hardlink", "d")], [("l", "symlink", "l"), ("l/x", "file", "x")],
])
def test_archives_that_make_no_sense_are_refused(tree, members):
    with pytest.raises(EngineError):
        tree(*members)


def test_a_member_without_a_place_is_empty():
    tree = ArchiveTree([Change(Entry(b"f", "file", 0o644))])
    assert tree.source(b"f") == (b"/dev/null", 0)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
async def test_a_tar_file_is_a_context_without_ignore_file(tmp_path, scratch, options, mode):
    path = tmp_path / "context.bin"
    path.write_bytes(tar(*SMALL, mode=mode))
    context = await open_context(str(path), options())
    assert context.dockerfile(None) == ("Dockerfile", b"FROM scratch\n")
    assert context.dockerfile("d/l") == ("d/l", b"f\n"), "a link is followed inside of the tar"
    assert context.dockerfile("nope") is None
    assert context.tree.get(b"d/f") is not None
    assert await context.digests([b"d/f", b"empty"]) == {b"d/f": blake3(b"f\n").hexdigest(),
                                                         b"empty": blake3(b"").hexdigest()}
    with pytest.raises(ContextError, match="not in the build context"):
        await context.digests([b"d/nope"])
    await context.aclose()
    assert list(scratch.iterdir()) == []


async def test_a_bind_mount_unpacks_what_it_shows(tmp_path, scratch, options):
    path = tmp_path / "context.tar"
    path.write_bytes(tar(*SMALL, ("pipe", "fifo", "")))
    context = await open_context(str(path), options())
    view = Path(await context.directory(b"d"))
    assert sorted(os.listdir(view)) == ["d"]
    assert (view / "d" / "f").read_text() == (view / "d" / "h").read_text() == "f\n"
    assert os.readlink(view / "d" / "l") == "/d/f"
    whole = Path(await context.directory(b""))
    assert sorted(os.listdir(whole)) == [".dockerignore", "Dockerfile", "d", "empty"]
    await context.aclose()
    assert list(scratch.iterdir()) == []


async def test_standard_input_is_a_tar_or_a_dockerfile(scratch, options):
    context = await open_context("-", options(stdin=io.BytesIO(tar(*SMALL, mode="w:gz"))))
    assert context.tree.get(b"d/f") is not None
    await context.aclose()
    context = await open_context("-", options(stdin=io.BytesIO(b"FROM scratch\n")))
    assert context.dockerfile(None) == ("Dockerfile", b"FROM scratch\n")
    assert list(context.tree.children(b"")) == []
    assert await context.directory(b"") is None
    assert await context.digests([]) == {}
    await context.aclose()
    assert list(scratch.iterdir()) == []
    with pytest.raises(ContextError, match="standard input"):
        await open_context("-", options())


@pytest.mark.parametrize("text", ["absent", "/dev/null", "plain"])
async def test_what_is_no_context(tmp_path, monkeypatch, scratch, options, text):
    monkeypatch.chdir(tmp_path)
    Path("plain").write_text("no tar")
    with pytest.raises(ContextError, match="unable to prepare context"):
        await open_context(text, options())
    assert list(scratch.iterdir()) == []


async def test_a_broken_tar_leaves_nothing_behind(tmp_path, scratch, options):
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(tar(("f", "file", "x" * 100000), ("g", "file", os.urandom(50000).hex()), mode="w:gz")[:-20000])
    with pytest.raises(EngineError):
        await open_context(str(path), options())
    assert list(scratch.iterdir()) == []


async def test_a_directory_has_an_ignore_file_and_may_be_called_like_a_repository(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "github.com" / "x").mkdir(parents=True)
    (tmp_path / "github.com" / "x" / ".dockerignore").write_text("secret\n")
    (tmp_path / "github.com" / "x" / "secret").touch()
    (tmp_path / "github.com" / "x" / "open").touch()
    context = await open_context("github.com/x", options())
    assert list(context.tree.children(b"")) == [b".dockerignore", b"open"]
