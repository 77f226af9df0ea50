"""Repositories from the command line, in the event loop that commands have: as contexts, in ADD, and with a login."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.conformance.rules.servers import Web, make_repository, serve

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture
def web(memory: Path) -> Iterator[Web]:
    """A web server with a repository."""
    web = Web(folders={"/r.git": make_repository(memory / "git")})
    server = serve(web)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    server.shutdown()
    thread.join()
    server.server_close()


def aniko(memory: Path, *words: str, text: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine.cli", "build", "--state-dir", str(memory / "state"), "--progress=plain", *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, env={**os.environ, **variables}, check=False)


def test_a_repository_is_the_context_and_another_is_added(web: Web, memory: Path) -> None:
    text = f"FROM scratch\nCOPY f /f\nADD {web.url}/r.git?tag=v1&subdir=sub /sub\nCOPY --from=named g /g\n"
    done = aniko(memory, "-f", "-", "--build-context", f"named={web.url}/r.git#main:sub", "-o", str(memory / "out"),
                 f"{web.url}/r.git?tag=v1", text=text)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {str(p.relative_to(memory / "out")) for p in (memory / "out").rglob("*")} == {"f", "g", "sub", "sub/g", "sub/run.sh"}
    assert (memory / "out/f").read_text() == "one"


def test_a_login_for_a_private_repository_is_nowhere_to_be_seen(web: Web, memory: Path) -> None:
    web.private["/r.git"] = (f"Basic {b64encode(b'x-access-token:sekret-1').decode()}",)
    words = ("-f", "-", "-o", f"type=oci,tar=false,dest={memory}/out,compression=uncompressed", f"{web.url}/r.git")
    refused = aniko(memory, *words, text="FROM scratch\nCOPY . /\n")
    assert refused.returncode == 4
    assert "--secret id=GIT_AUTH_TOKEN" in refused.stderr
    done = aniko(memory, "--secret", "id=GIT_AUTH_TOKEN", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", *words,
                 text="FROM scratch\nCOPY . /\n", GIT_AUTH_TOKEN="sekret-1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sekret" not in done.stderr + done.stdout
    assert subprocess.run(["grep", "-rqa", "sekret", memory / "state", memory / "out"], check=False).returncode == 1
