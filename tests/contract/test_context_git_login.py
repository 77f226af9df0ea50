"""Checkouts from a server that wants a login: git's own http-backend, behind a small web server that checks the header."""

from __future__ import annotations

import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from engine.context.git import Checkout, checkout
from engine.context.hashing import Hasher
from engine.context.open import ContextOptions, open_context
from engine.context.remote import parse_git_url
from engine.errors import CopyError

BACKEND = Path("/usr/lib/git-core/git-http-backend")
pytestmark = pytest.mark.skipif(shutil.which("git") is None or not BACKEND.exists(), reason="needs git and its http-backend")

TOKEN = "very-secret-token"
IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
            "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/nonexistent", "PATH": os.environ["PATH"]}  # fmt: skip


def basic(pair: str) -> str:
    return f"Basic {b64encode(pair.encode()).decode()}"


class Server:
    """Serves the repositories of a folder. `wanted` are the headers that are let in below a path; `asked` are path and header of each
    request; `moved` are paths that lead elsewhere."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wanted: dict[str, tuple[str, ...]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.moved: dict[str, str] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.http.server_port}"
        self.url = f"http://{self.host}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, _, query = request.path.partition("?")
        header = request.headers.get("Authorization")
        self.asked.append((path, header))
        for prefix, place in self.moved.items():
            if path.startswith(prefix):
                return self.reply(request, 301, [("Location", place + request.path[len(prefix):])], b"")
        if any(path.startswith(prefix) and header not in let_in for prefix, let_in in self.wanted.items()):
            return self.reply(request, 401, [("WWW-Authenticate", 'Basic realm="git"')], b"who are you?")
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        environment = {"GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
                       "REQUEST_METHOD": request.command, "CONTENT_TYPE": request.headers.get("Content-Type", ""),
                       "CONTENT_LENGTH": str(len(body)), "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
                       "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""), "PATH": os.environ["PATH"]}  # fmt: skip
        done = subprocess.run([str(BACKEND)], input=body, env=environment, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in head.decode().splitlines())]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        self.reply(request, status, fields, content)

    @staticmethod
    def reply(request: BaseHTTPRequestHandler, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        request.send_response(status)
        for name, value in fields:
            if name != "Status":
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@pytest.fixture
def server(tmp_path_factory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("git")
    server = Server(root)
    thread = Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    repository(root, "r.git")
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def repository(root: Path, name: str, submodule: str = "") -> None:
    work = root / f"work-{name}"
    work.mkdir()

    def git(*arguments: str, where: Path = work) -> None:
        subprocess.run(["git", "-c", "init.defaultBranch=main", *arguments], cwd=where, env=IDENTITY, check=True,
                       capture_output=True)  # fmt: skip

    git("init", "-q")
    (work / "f").write_text(name)
    (work / "Dockerfile").write_text("FROM scratch\n")
    if submodule:
        (work / ".gitmodules").write_text(f'[submodule "m"]\npath = m\nurl = {submodule}\n')
        commit = subprocess.run(["git", "rev-parse", "main"], cwd=root / "r.git", capture_output=True, check=True, text=True).stdout.strip()
        git("update-index", "--add", "--cacheinfo", f"160000,{commit},m")
    git("add", "Dockerfile", "f", *([".gitmodules"] if submodule else []))
    git("commit", "-q", "-m", "x")
    git("clone", "-q", "--bare", str(work), name, where=root)


async def get(url: str, into: Path, *, keep_git_dir: bool = False, **secrets: str) -> Checkout:
    into.mkdir()
    values = {name: value.encode() for name, value in secrets.items()}
    return await checkout(parse_git_url(url), into, environment={"PATH": os.environ["PATH"]}, secrets=values.get,
                          keep_git_dir=keep_git_dir)  # fmt: skip


def texts(root: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


@pytest.mark.parametrize(("secrets", "header"), [
    ({"GIT_AUTH_TOKEN": TOKEN}, basic(f"x-access-token:{TOKEN}")), ({"GIT_AUTH_HEADER": f"Bearer {TOKEN}"}, f"Bearer {TOKEN}"),
    ({"GIT_AUTH_HEADER": "basic", "GIT_AUTH_TOKEN": f"me:{TOKEN}"}, basic(f"me:{TOKEN}")),
])  # fmt: skip
async def test_a_secret_opens_the_repository_and_stays_out_of_it(server: Server, tmp_path: Path, secrets, header: str) -> None:
    server.wanted["/r.git"] = (header,)
    got = await get(f"{server.url}/r.git?branch=main", tmp_path / "a", keep_git_dir=True, **secrets)
    assert (got.root / "f").read_text() == "r.git"
    assert {seen for _, seen in server.asked} == {header}
    held = texts(tmp_path / "a")
    assert b"r.git" in held
    assert not [value for value in (TOKEN, header.partition(" ")[2]) if value.encode() in held]


async def test_no_command_line_shows_it(server: Server, tmp_path: Path) -> None:
    """A git of our own writes down how it is called, and calls the real one."""
    server.wanted["/r.git"] = (basic(f"me:{TOKEN}"),)
    bin = tmp_path / "bin"
    bin.mkdir()
    real = shutil.which("git")
    (bin / "git").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\nexec {real} "$@"\n')
    (bin / "git").chmod(0o755)
    (tmp_path / "a").mkdir()
    for url, secrets in ((f"http://me:{TOKEN}@{server.host}/r.git", {}), (f"{server.url}/r.git", {"GIT_AUTH_HEADER": basic(f"me:{TOKEN}").encode()})):
        into = tmp_path / "a" / str(len(secrets))
        into.mkdir()
        await checkout(parse_git_url(url), into, environment={"PATH": f"{bin}:{os.environ['PATH']}"}, secrets=secrets.get)
    called = (tmp_path / "called").read_text()
    assert "ls-remote" in called or "fetch" in called
    assert TOKEN not in called
    assert basic(f"me:{TOKEN}")[6:] not in called


async def test_the_login_of_a_url_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.wanted["/r.git"] = (basic(f"me:{TOKEN}"),)
    got = await get(f"http://me:{TOKEN}@{server.host}/r.git", tmp_path / "a", keep_git_dir=True)
    assert (got.root / "f").read_text() == "r.git"
    assert TOKEN.encode() not in texts(tmp_path / "a")


async def test_without_a_login_the_error_says_how_to_give_one(server: Server, tmp_path: Path) -> None:
    server.wanted["/r.git"] = ("other",)
    with pytest.raises(CopyError) as caught:
        await get(f"{server.url}/r.git", tmp_path / "a")
    assert "--secret id=GIT_AUTH_TOKEN" in (caught.value.hint or "")


async def test_a_login_that_is_refused_is_not_shown(server: Server, tmp_path: Path) -> None:
    server.wanted["/r.git"] = ("other",)
    for n, (url, secrets) in enumerate([(f"{server.url}/r.git", {f"GIT_AUTH_TOKEN.{server.host}": TOKEN}),
                                        (f"http://me:{TOKEN}@{server.host}/r.git", {})]):  # fmt: skip
        with pytest.raises(CopyError) as caught:
            await get(url, tmp_path / str(n), **secrets)
        assert TOKEN not in f"{caught.value} {caught.value.hint}"
        assert "does not take" in (caught.value.hint or "")


async def test_a_login_does_not_follow_where_the_server_leads(server: Server, tmp_path: Path) -> None:
    server.moved["/old.git"] = f"http://localhost:{server.http.server_port}/r.git"
    assert (await get(f"{server.url}/old.git", tmp_path / "a")).commit
    server.asked.clear()
    with pytest.raises(CopyError) as caught:
        await get(f"{server.url}/old.git", tmp_path / "b", GIT_AUTH_TOKEN=TOKEN)
    assert {path.partition("/info")[0] for path, _ in server.asked} == {"/old.git"}
    assert "no redirect is followed" in (caught.value.hint or "")


async def test_submodules_get_the_login_of_their_host_and_no_other(server: Server, tmp_path: Path) -> None:
    header = basic(f"x-access-token:{TOKEN}")
    repository(server.root, "outer.git", f"{server.url}/r.git")
    server.wanted |= {"/r.git": (header,), "/outer.git": (header,)}
    got = await get(f"{server.url}/outer.git", tmp_path / "a", **{f"GIT_AUTH_TOKEN.{server.host}": TOKEN})
    assert (got.root / "m" / "f").read_text() == "r.git"
    server.asked.clear()
    with pytest.raises(CopyError):
        await get(f"{server.url}/outer.git", tmp_path / "b", GIT_AUTH_TOKEN=TOKEN)
    assert {seen for path, seen in server.asked if path.startswith("/r.git")} == {None}


async def test_a_context_from_a_private_repository(server: Server, tmp_path: Path) -> None:
    server.wanted["/r.git"] = (basic(f"x-access-token:{TOKEN}"),)
    options = ContextOptions(tmp_path, Hasher(None), environment={"PATH": os.environ["PATH"]},
                             secrets={"GIT_AUTH_TOKEN": TOKEN.encode()}.get)  # fmt: skip
    context = await open_context(f"{server.url}/r.git#main", options)
    assert context.dockerfile(None) == ("Dockerfile", b"FROM scratch\n")
    await context.aclose()
