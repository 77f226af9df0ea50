"""Directories as contexts: Dockerfile, ignore file, digests, and the view that bind mounts get."""

from __future__ import annotations

import os
import time
from array import array
from pathlib import Path

import pytest
from blake3 import blake3
from msgspec.structs import replace

from engine.context.digests import DigestStore
from engine.context.filekeys import DirectoryFiles
from engine.context.hashing import Hasher, hash_files
from engine.context.listing import Listing
from engine.context.local import DirectoryContext
from engine.dockerfile.ignore import IgnoreMatcher, parse_patterns
from engine.errors import ContextError


def rules(data: bytes) -> IgnoreMatcher:
    return IgnoreMatcher(parse_patterns(data))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "context"
    (root / "sub" / "deep").mkdir(parents=True)
    for path in ("a", "b", "sub/c", "sub/deep/d"):
        (root / path).write_text(path)
    return root


@pytest.fixture
def scratch(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return scratch


@pytest.fixture
def opened(root, scratch):
    def make(**options) -> DirectoryContext:
        return DirectoryContext(str(root), options.pop("hasher", Hasher(None)), scratch, read_rules=rules, **options)

    return make


def visible(context: DirectoryContext) -> list[bytes]:
    return list(context.tree.children(b""))


def test_the_default_dockerfile(opened, root):
    assert opened().dockerfile(None) is None
    (root / "dockerfile").write_text("lower")
    assert opened().dockerfile(None) == ("dockerfile", b"lower")
    (root / "Dockerfile").write_text("upper")
    assert opened().dockerfile(None) == ("Dockerfile", b"upper")


def test_an_ignored_dockerfile_is_read_all_the_same(opened, root):
    (root / "Dockerfile").write_text("text")
    (root / ".dockerignore").write_text("Dockerfile\n.dockerignore\n")
    context = opened()
    assert context.dockerfile(None) == ("Dockerfile", b"text")
    assert visible(context) == [b"a", b"b", b"sub"]


def test_a_dockerfile_that_is_a_link_is_read_through(opened, root, tmp_path):
    (tmp_path / "elsewhere").write_text("text")
    (root / "Dockerfile").symlink_to("../elsewhere")
    assert opened().dockerfile(None) == ("Dockerfile", b"text")
    assert opened(foreign=True).dockerfile(None) is None, "a link in what was fetched leads nowhere outside of it"
    (root / "in").write_text("inner")
    (root / "dockerfile").symlink_to("/in")
    assert opened(foreign=True).dockerfile(None) == ("dockerfile", b"inner")


def test_a_named_dockerfile_is_looked_for_here_then_in_the_context(opened, root, tmp_path, monkeypatch):
    (root / "D").write_text("inside")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert opened().dockerfile("D") == ("D", b"inside")
    (tmp_path / "cwd" / "D").write_text("here")
    assert opened().dockerfile("D") == ("D", b"here")
    assert opened().dockerfile("../context/D") == ("../context/D", b"inside")
    assert opened().dockerfile(str(root / "D")) == (str(root / "D"), b"inside")
    assert opened(foreign=True).dockerfile("D") == ("D", b"inside")
    assert opened().dockerfile("nope") is None


def test_the_ignore_file_of_one_dockerfile_replaces_the_common_one(opened, root, tmp_path):
    (root / ".dockerignore").write_text("a\n")
    outside = tmp_path / "build" / "App.Dockerfile"
    outside.parent.mkdir()
    outside.write_text("")
    assert visible(opened(dockerfile=str(outside))) == [b".dockerignore", b"b", b"sub"]
    Path(f"{outside}.dockerignore").write_text("b\nsub\n")
    assert visible(opened(dockerfile=str(outside))) == [b".dockerignore", b"a"]
    assert visible(opened()) == [b".dockerignore", b"b", b"sub"]
    (root / "Dockerfile.dockerignore").write_text("*\n!a")
    assert visible(opened()) == [b"a"]
    assert visible(opened(named=True)) == [b".dockerignore", b"Dockerfile.dockerignore", b"b", b"sub"]


def test_a_wrong_ignore_file_is_an_error(opened, root):
    (root / ".dockerignore").write_text("x\n!\n")
    with pytest.raises(ContextError, match="illegal exclusion pattern"):
        opened()


def test_foreign_directories_have_no_ignore_file(root, scratch):
    (root / ".dockerignore").write_text("*\n")
    assert b"a" in visible(DirectoryContext(str(root), Hasher(None), scratch, foreign=True))


def test_a_missing_source_that_is_ignored_says_so(opened, root):
    (root / ".dockerignore").write_text("a\nsub\n")
    tree = opened().tree
    for path, reason in ((b"a", True), (b"sub/c", True), (b"b", False), (b"nope", False)):
        assert (tree.why_absent(path) is not None) is reason


def sha(text: str) -> str:
    return blake3(text.encode()).hexdigest()


async def test_digests_are_those_of_the_contents(opened, root):
    (root / "empty").touch()
    (root / "large").write_bytes(b"x" * (3 << 20))
    digests = await opened().digests([b"a", b"sub/deep/d", b"empty", b"large"])
    assert digests == {b"a": sha("a"), b"sub/deep/d": sha("sub/deep/d"), b"empty": sha(""), b"large": sha("x" * (3 << 20))}


async def test_digests_of_what_is_not_there_or_ignored(opened, root):
    (root / ".dockerignore").write_text("a\n")
    for path in (b"nope", b"a"):
        with pytest.raises(ContextError, match="not in the build context"):
            await opened().digests([path])


def told(context: DirectoryContext, *paths: bytes) -> list[DirectoryFiles]:
    """Some files, with digests that reading them would not give."""
    groups = [group.files for group in context.tree.pick(paths).groups]
    return [replace(files, digests=bytes.fromhex(sha("told")) * (len(files.keys) // 40)) for files in groups]


async def test_what_was_hashed_once_is_not_read_again(opened, root, tmp_path):
    # The store believes what it is told: a digest that reading the file would not give shows that it was not read.
    store = DigestStore(tmp_path / "digests", time.time_ns)
    context = opened(hasher=Hasher(store))
    assert context.tree.get(b"a") is not None
    store.store(told(context, b"a", b"sub/c"), time.time_ns() + 3600 * 10**9)
    assert await context.digests([b"a", b"b", b"sub/c"]) == {b"a": sha("told"), b"b": sha("b"), b"sub/c": sha("told")}


async def test_what_was_hashed_is_remembered_when_it_is_old_enough(opened, root, tmp_path, monkeypatch):
    store = DigestStore(tmp_path / "digests", time.time_ns)
    await opened(hasher=Hasher(store)).digests([b"a"])
    context = opened()
    (asked,) = told(context, b"a")
    assert store.lookup([asked]) == [], "it was written just now"
    monkeypatch.setattr("engine.context.local.time.time_ns", lambda: context.tree.key(b"a").ctime + 3600 * 10**9)
    await opened(hasher=Hasher(store)).digests([b"a"])
    assert store.lookup([asked]) == [bytes.fromhex(sha("a"))]


async def test_a_directory_of_which_only_some_files_are_known_is_read_as_far_as_needed(opened, root, tmp_path, monkeypatch):
    store = DigestStore(tmp_path / "digests", time.time_ns)
    for n in range(5):
        (root / "sub" / f"f{n}").write_text(str(n))
    monkeypatch.setattr("engine.context.local.time.time_ns", lambda: os.stat(root / "sub" / "f0").st_ctime_ns + 3600 * 10**9)
    store.store(told(opened(), b"sub/f1", b"sub/f3"), time.time_ns() + 3600 * 10**9)
    first = opened(hasher=Hasher(store))
    subtree = first.tree.subtree(b"sub")
    await (await first.digest_below(subtree))()
    expected = {b"sub/f%d" % n: sha("told" if n in (1, 3) else str(n)) for n in range(5)}
    assert {path: first.tree.digest(path).hex() for path in expected} == expected
    (root / "sub" / "f4").write_text("four")
    read: list[bytes] = []
    monkeypatch.setattr("engine.context.hashing.hash_files", lambda rows: read.extend(row[0] for row in rows) or hash_files(rows))
    second = opened(hasher=Hasher(store))
    await (await second.digest_below(second.tree.subtree(b"sub")))()
    assert read == [os.fsencode(root / "sub" / "f4")], "what was told, and what was read, is known in the directory as it is now"
    assert second.tree.digest(b"sub/f4").hex() == sha("four")
    assert second.tree.digest(b"sub/f3").hex() == sha("told")


async def test_what_is_learned_meanwhile_is_not_forgotten(opened, root, tmp_path, monkeypatch):
    store = DigestStore(tmp_path / "digests", time.time_ns)
    (root / "sub/deep/e").write_text("e")
    context = opened(hasher=Hasher(store))
    store.store(told(context, b"sub/deep/d"), time.time_ns() + 3600 * 10**9)
    subtree = context.tree.subtree(b"sub/deep")
    real = store.lookup

    def lookup(directories):
        found = real(directories)
        context.tree.learn(b"sub/deep/e", b"m" * 32)
        return found

    monkeypatch.setattr(store, "lookup", lookup)
    await context.digest_below(subtree)
    assert context.tree.digest(b"sub/deep/e") == b"m" * 32
    assert context.tree.digest(b"sub/deep/d").hex() == sha("told")


def test_files_of_another_device_are_told_by_it(root):
    rows = [(name, os.lstat(root / os.fsdecode(name)), b"") for name in (b"a", b"b")]
    moved = os.stat_result((*rows[1][1][:2], 99, *rows[1][1][3:10]), {key: getattr(rows[1][1], key) for key in (
        "st_mtime_ns", "st_ctime_ns", "st_atime_ns", "st_mtime", "st_ctime", "st_atime", "st_rdev", "st_blocks", "st_blksize")})
    listing = Listing([rows[0], (b"b", moved, b"")], (5, 6))
    for places in (range(2), array("L", [0, 1])):
        devices = memoryview(listing.files(places).keys).cast("q")[:2].tolist()
        assert devices == [rows[0][1].st_dev, 99] == [listing.key(0).device, listing.key(1).device]


async def test_a_file_that_changes_during_the_build_is_an_error(opened, root):
    context = opened()
    assert context.tree.get(b"a") is not None
    (root / "a").write_text("longer than before")
    with pytest.raises(ContextError, match="/a changed while the build read it"):
        await context.digests([b"a"])


async def test_a_file_that_vanishes_is_named(opened, root):
    context = opened()
    assert context.tree.get(b"sub/c") is not None
    (root / "sub" / "c").unlink()
    with pytest.raises(ContextError, match="cannot read /sub/c of the build context: No such file"):
        await context.digests([b"a", b"sub/c"])


async def test_many_files_are_hashed_by_workers(opened, root, monkeypatch):
    jobs: list[int] = []

    async def call(function, files):
        assert function is hash_files
        jobs.append(len(files))
        return function(files)

    monkeypatch.setattr("engine.context.hashing.MANY_FILES", 3)
    monkeypatch.setattr("engine.context.hashing._JOB_FILES", 2)
    context = opened(hasher=Hasher(None, call))
    digests = await context.digests([b"a", b"b", b"sub/c"])
    assert digests == {b"a": sha("a"), b"b": sha("b"), b"sub/c": sha("sub/c")}
    assert sorted(jobs) == [1, 2]


async def test_a_mount_sees_the_context_itself_when_nothing_is_ignored_there(opened, root):
    (root / ".dockerignore").write_text("sub/deep\n")
    context = opened()
    assert await context.directory(b"a") == str(root)
    view = Path(await context.directory(b"sub"))
    assert view != root
    assert sorted(os.listdir(view / "sub")) == ["c"]
    assert await context.directory(b"sub") == str(view), "it is made once"
    await context.aclose()
    assert not view.exists()
    assert root.exists()


async def test_a_mounts_view_keeps_modes_times_and_links(opened, root):
    (root / ".dockerignore").write_text("a\n")
    os.chmod(root / "b", 0o4751)
    os.utime(root / "b", (5, 5))
    os.chmod(root / "sub", 0o555)
    (root / "l").symlink_to("nowhere")
    context = opened()
    view = Path(await context.directory(b""))
    assert sorted(os.listdir(view)) == [".dockerignore", "b", "l", "sub"]
    status = (view / "b").stat()
    assert (status.st_mode & 0o7777, status.st_mtime, os.readlink(view / "l")) == (0o4751, 5, "nowhere")
    assert (view / "sub").stat().st_mode & 0o777 == 0o555
    await context.aclose()
    assert not view.exists()


async def test_owned_directories_go_at_the_end(root, scratch):
    (root / "sub").chmod(0)
    context = DirectoryContext(str(root), Hasher(None), scratch, owned=root)
    await context.aclose()
    await context.aclose()
    assert not root.exists()
