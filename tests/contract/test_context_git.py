"""Checkouts of real repositories, from git's own daemon and from a plain web server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import anyio
import pytest

from engine.context.git import Checkout, checkout
from engine.context.hashing import Hasher
from engine.context.open import ContextOptions, open_context
from engine.context.remote import parse_git_url
from engine.errors import CopyError

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
            "GIT_AUTHOR_DATE": "1000000000 +0000", "GIT_COMMITTER_DATE": "1000000000 +0000", "GIT_CONFIG_GLOBAL": "/dev/null",
            "HOME": "/nonexistent", "PATH": os.environ["PATH"]}


def git(where: Path, *arguments: str) -> str:
    command = ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(command, cwd=where, env=IDENTITY, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class Repository:
    """A repository that is served: two commits, a branch, tags, a submodule, a hook that must not run."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "work"
        self.work.mkdir(parents=True)
        git(self.work, "init", "-q")
        self.first = self.commit({"f": "one\n", "sub/deep/g": "g\n", "run.sh": "#!/bin/sh\n", "Dockerfile": "FROM scratch\n"})
        git(self.work, "tag", "-a", "v1", "-m", "v1")
        git(self.work, "branch", "old")
        (self.work / "link").symlink_to("/etc")
        self.second = self.commit({"f": "two\n"})
        git(self.work, "tag", "both", self.first)
        git(self.work, "branch", "both", self.second)
        self.bare = self.publish("r.git")

    def commit(self, files: dict[str, str]) -> str:
        for name, text in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if name.endswith(".sh") else 0o640)
        git(self.work, "add", "-A")
        git(self.work, "commit", "-q", "-m", "x")
        return git(self.work, "rev-parse", "HEAD")

    def publish(self, name: str) -> Path:
        git(self.root, "clone", "-q", "--bare", "work", name)
        git(self.root / name, "update-server-info")
        return self.root / name


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    return Repository(tmp_path_factory.mktemp("git"))


@pytest.fixture(scope="module")
def daemon(repository) -> Iterator[str]:
    """The URL of git's own daemon."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = subprocess.Popen(
        ["git", "daemon", "--verbose", f"--base-path={repository.root}", "--export-all", "--listen=127.0.0.1",
        f"--port={port}", "--reuseaddr"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, env=IDENTITY)
    assert b"Ready" in process.stderr.readline()
    yield f"git://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()


@pytest.fixture(scope="module")
def web(repository) -> Iterator[str]:
    """The URL of a web server that knows nothing of git."""
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(repository.root))) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def get(url: str, into: Path, **options) -> Checkout:
    return await checkout(parse_git_url(url), into, environment={"PATH": os.environ["PATH"]}, **options)


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_symlink() or not p.is_dir())


@pytest.mark.parametrize(("suffix", "commit", "f"), [
    ("", "second", "two"), ("#main", "second", "two"), ("#old", "first", "one"), ("#v1", "first", "one"), ("#refs/heads/old",
    "first", "one"),
    ("?tag=v1", "first", "one"), ("?branch=old", "first", "one"), ("#both", "second", "two"), ("#heads/old", "first", "one"),
])
async def test_refs(repository, daemon, tmp_path, suffix, commit, f):
    got = await get(f"{daemon}/r.git{suffix}", tmp_path)
    assert got.commit == getattr(repository, commit)
    assert (got.root / "f").read_text() == f + "\n"
    assert files(got.root) == sorted(["Dockerfile", "f", "run.sh", "sub/deep/g", *(["link"] if f == "two" else [])])


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("server", ["daemon", "web"])
async def test_commits_by_their_id_also_where_the_server_does_not_give_them_out(repository, request, tmp_path, server, short):
    sha = repository.first[:8] if short else repository.first
    got = await get(f"{request.getfixturevalue(server)}/r.git#{sha}", tmp_path)
    assert (got.commit, (got.root / "f").read_text()) == (repository.first, "one\n")


async def test_a_plain_web_server_will_do(repository, web, tmp_path):
    assert (await get(f"{web}/r.git#main", tmp_path)).commit == repository.second


async def test_modes_are_0644_and_0755_whatever_they_were_and_links_stay_links(daemon, tmp_path):
    root = (await get(f"{daemon}/r.git", tmp_path)).root
    modes = {p: stat.S_IMODE((root / p).stat().st_mode) for p in ("f", "run.sh", "sub", "sub/deep")}
    assert modes == {"f": 0o644, "run.sh": 0o755, "sub": 0o755, "sub/deep": 0o755}
    assert os.readlink(root / "link") == "/etc"


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": use}) for use in (False, True)], ids=["asyncio", "uvloop"])
async def test_modes_do_not_depend_on_the_umask_nor_the_work_on_the_loop(anyio_backend, daemon, tmp_path):
    before = os.umask(0o077)
    try:
        root = (await get(f"{daemon}/r.git", tmp_path, keep_git_dir=True)).root
    finally:
        os.umask(before)
    assert {stat.S_IMODE((root / p).stat().st_mode) for p in ("f", "sub/deep/g", ".git/HEAD")} == {0o644}
    assert {stat.S_IMODE((root / p).stat().st_mode) for p in ("run.sh", "sub", "sub/deep", ".git/refs")} == {0o755}


async def test_a_directory_of_the_repository(daemon, tmp_path):
    assert files((await get(f"{daemon}/r.git#main:sub/deep", tmp_path)).root) == ["g"]


@pytest.mark.parametrize("subdir", ["nope", "f", "link", "sub/nope"])
async def test_a_directory_that_is_none(daemon, tmp_path, subdir):
    with pytest.raises(CopyError, match=f"subdir {subdir} is not a directory"):
        await get(f"{daemon}/r.git#main:{subdir}", tmp_path)


async def test_git_s_own_directory_stays_when_it_is_asked_for(repository, daemon, tmp_path):
    got = await get(f"{daemon}/r.git", tmp_path, keep_git_dir=True)
    assert git(got.root, "rev-parse", "HEAD") == repository.second
    assert git(got.root, "config", "remote.origin.url") == f"{daemon}/r.git"
    (tmp_path / "other").mkdir()
    got = await get(f"{daemon}/r.git?keep-git-dir=false", tmp_path / "other", keep_git_dir=True)
    assert not (got.root / ".git").exists()


async def test_times_of_the_commit(daemon, tmp_path):
    root = (await get(f"{daemon}/r.git?mtime=commit", tmp_path)).root
    assert {(root / p).lstat().st_mtime for p in ("f", "link", "sub/deep/g", "sub")} == {1_000_000_000}


async def test_a_checksum_is_a_commit_or_how_it_begins(repository, daemon, tmp_path):
    for number, checksum in enumerate((repository.second, repository.second[:7])):
        (tmp_path / str(number)).mkdir()
        assert (await get(f"{daemon}/r.git", tmp_path / str(number), checksum=checksum)).commit == repository.second
    (tmp_path / "bad").mkdir()
    with pytest.raises(CopyError, match=f"expected checksum to match {repository.first}, got {repository.second}"):
        await get(f"{daemon}/r.git", tmp_path / "bad", checksum=repository.first)
    with pytest.raises(CopyError, match="checksum mismatch"):
        await get(f"{daemon}/r.git?checksum={repository.first}", tmp_path / "bad", checksum=repository.second)


@pytest.mark.parametrize("url", ["r.git#nope", "r.git#abcdef0123", "r.git#" + "0" * 40, "nope.git", "r.git?tag=old"])
async def test_what_is_not_there(daemon, tmp_path, url):
    with pytest.raises(CopyError):
        await get(f"{daemon}/{url}", tmp_path)


async def test_nobody_there(tmp_path):
    with pytest.raises(CopyError, match=r"git (ls-remote|fetch) failed"):
        await get("git://127.0.0.1:1/r", tmp_path)


async def test_without_git(tmp_path):
    with pytest.raises(CopyError, match="git is not installed"):
        await checkout(parse_git_url("git://127.0.0.1:1/r"), tmp_path, environment={"PATH": str(tmp_path)})


async def test_submodules_come_along_unless_they_are_refused(repository, daemon, tmp_path):
    outer = Repository(tmp_path / "outer")
    git(outer.work, "submodule", "add", "-q", "--", f"{daemon}/r.git", "mod")
    outer.commit({"o": "o"})
    shutil.copytree(outer.publish("bare.git"), repository.root / "outer.git")
    root = (await get(f"{daemon}/outer.git", _new(tmp_path / "a"))).root
    assert (root / "mod" / "f").read_text() == "two\n"
    assert not (root / "mod" / ".git").exists()
    root = (await get(f"{daemon}/outer.git?submodules=false", _new(tmp_path / "b"))).root
    assert list((root / "mod").iterdir()) == []


async def test_a_submodule_on_this_machines_disk_is_refused(repository, daemon, tmp_path):
    outer = Repository(tmp_path / "outer")
    git(outer.work, "submodule", "add", "-q", "--", str(repository.bare), "mod")
    outer.commit({"o": "o"})
    shutil.copytree(outer.publish("bare.git"), repository.root / "local.git")
    with pytest.raises(CopyError, match="transport 'file' not allowed"):
        await get(f"{daemon}/local.git", _new(tmp_path / "a"))


def _new(path: Path) -> Path:
    path.mkdir()
    return path


async def test_neither_the_users_configuration_nor_hooks_take_part(daemon, tmp_path, monkeypatch):
    home = _new(tmp_path / "home")
    (home / "hooks").mkdir()
    (home / "hooks" / "post-checkout").write_text(f"#!/bin/sh\ntouch {home}/ran\n")
    (home / "hooks" / "post-checkout").chmod(0o755)
    (home / ".gitconfig").write_text(f"[core]\nhooksPath = {home}/hooks\n[url \"git://127.0.0.1:1/\"]\ninsteadOf = {daemon}/\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "nonsense")
    await checkout(parse_git_url(f"{daemon}/r.git"), _new(tmp_path / "a"), environment=dict(os.environ))
    assert not (home / "ran").exists()


async def test_a_checkout_that_is_cancelled_leaves_no_process(tmp_path):
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    connected = anyio.Event()

    async def silent(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            connected.set()
            await anyio.sleep_forever()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, silent)
        async with anyio.create_task_group() as inner:
            inner.start_soon(get, f"git://127.0.0.1:{port}/r", tmp_path)
            await connected.wait()
            inner.cancel_scope.cancel()
        tasks.cancel_scope.cancel()
    running = await anyio.run_process(["pgrep", "-f", f"git://127.0.0.1:{port}/"], check=False)
    assert running.stdout == b""


async def test_a_context_from_a_repository(daemon, tmp_path):
    options = ContextOptions(tmp_path, Hasher(None), environment={"PATH": os.environ["PATH"]})
    context = await open_context(f"{daemon}/r.git#main", options)
    assert context.dockerfile(None) == ("Dockerfile", b"FROM scratch\n")
    assert list(context.tree.children(b"")) == [b"Dockerfile", b"f", b"link", b"run.sh", b"sub"]
    assert context.tree.get(b"link/passwd") is None
    await context.aclose()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CopyError):
        await open_context(f"{daemon}/r.git#nope", options)
    assert list(tmp_path.iterdir()) == []
