"""What ADD fetches from: a web server on the loopback that answers as it is told and keeps what it was asked, and git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODIFIED = 1_000_000_000
"""The Last-Modified of what says one, in seconds."""


@dataclass
class Web:
    """Files by path. `asked` has the method, path and If-None-Match of each request. `private` has paths with the Authorization
    headers that are let in below them."""

    files: dict[str, bytes] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    dated: set[str] = field(default_factory=set)
    private: dict[str, tuple[str, ...]] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def find(self, path: str) -> bytes | None:
        """What lies at a path, in memory or in a folder that is served."""
        for prefix, folder in self.folders.items():
            if path.startswith(prefix) and (found := folder / path[len(prefix):].lstrip("/")).is_file():
                return found.read_bytes()
        return self.files.get(path)


def serve(web: Web) -> ThreadingHTTPServer:
    """A server, not started yet."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, _ = self.path.partition("?")
            web.asked.append((self.command, path, self.headers.get("If-None-Match")))
            data, etag = web.find(path), web.etags.get(path)
            if any(path.startswith(p) and self.headers.get("Authorization") not in let_in for p, let_in in web.private.items()):
                self._answer(401, b"who are you?", {"WWW-Authenticate": 'Basic realm="here"'})
            elif data is not None and etag and etag == self.headers.get("If-None-Match"):
                self._answer(304, b"", {"ETag": etag})
            elif data is None:
                self._answer(404, b"no such file", {})
            else:
                dated = {"Last-Modified": formatdate(MODIFIED, usegmt=True)} if path in web.dated else {}
                self._answer(200, data, dated | ({"ETag": etag} if etag else {}))

        do_HEAD = do_GET

        def _answer(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_port}"
    return server


_IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
             "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/nonexistent", "PATH": os.environ["PATH"]}


def make_repository(folder: Path) -> Path:
    """A bare repository: `f` is one at the tag v1 and two at main; `sub` has a file and a program, made with closed modes."""
    work, bare = folder / "work", folder / "bare"
    (work / "sub").mkdir(parents=True)

    def git(*arguments: str, where: Path = work) -> None:
        subprocess.run(["git", "-c", "init.defaultBranch=main", *arguments], cwd=where, env=_IDENTITY, check=True,
                       capture_output=True)  # fmt: skip

    git("init", "-q")
    for name, text, mode in (("f", "one", 0o600), ("sub/g", "g", 0o640), ("sub/run.sh", "#!/bin/sh\n", 0o700)):
        (work / name).write_text(text)
        (work / name).chmod(mode)
    git("add", "-A")
    git("commit", "-q", "-m", "x")
    git("tag", "v1")
    (work / "f").write_text("two")
    git("commit", "-q", "-a", "-m", "y")
    git("clone", "-q", "--bare", "work", "bare", where=folder)
    git("update-server-info", where=bare)
    return bare
