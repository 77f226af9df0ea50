"""Debian's `docker-registry` (CNCF distribution), started for tests on a free port of the loopback.

    async/sync: with running_registry(tmp_path) as registry: Reference.parse(f"{registry.address}/app:1")
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: {quiet}}}}}
storage:
  filesystem: {{rootdirectory: {root}, maxthreads: 100}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}"""


@dataclass(frozen=True)
class RunningRegistry:
    """A registry that answers at `address` (HOST:PORT); `users` are the names and passwords it wants, if any. `root` is its
    directory, for tests that spoil what is in it."""

    address: str
    root: Path
    users: Mapping[str, str] = field(default_factory=dict)

    def blob_file(self, digest: object) -> Path:
        """Where a blob's bytes lie."""
        algorithm, _, hexadecimal = str(digest).partition(":")
        return self.root / "docker/registry/v2/blobs" / algorithm / hexadecimal[:2] / hexadecimal / "data"


def missing_tools(*, users: bool = False) -> str:
    """What has to be installed for `running_registry`, empty when nothing has."""
    wanted = ["docker-registry", *(["htpasswd"] if users else [])]
    return ", ".join(name for name in wanted if shutil.which(name) is None)


@contextmanager
def running_registry(folder: Path, users: Mapping[str, str] | None = None, access_log: Path | None = None) -> Iterator[RunningRegistry]:
    """A registry that keeps its files in `folder` until the context ends; with `users` (name: password) it wants HTTP Basic. It
    writes a line of the common log format for each request to `access_log`."""
    folder.mkdir(parents=True, exist_ok=True)
    auth = ""
    if users:
        lines = [subprocess.run(["htpasswd", "-Bbn", *pair], check=True, capture_output=True, text=True).stdout.strip()
                 for pair in users.items()]
        (folder / "htpasswd").write_text("\n".join(lines) + "\n")
        auth = f"auth: {{htpasswd: {{realm: tests, path: {folder / 'htpasswd'}}}}}\n"
    for _ in range(5):
        port = _free_port()
        (folder / "config.yml").write_text(_CONFIG.format(root=folder / "store", port=port, auth=auth, quiet=str(access_log is None).lower()))
        with open(access_log or os.devnull, "ab") as log:
            process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=subprocess.DEVNULL)
        try:
            if _wait_until_it_answers(process, port):
                yield RunningRegistry(f"127.0.0.1:{port}", folder / "store", dict(users or {}))
                return
        finally:
            process.terminate()
            process.wait()
    raise RuntimeError("docker-registry does not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """False when the process ended, for instance since somebody else took the port first."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            opener.open(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
            return process.poll() is None
        except urllib.error.HTTPError as error:
            error.close()
            return process.poll() is None
        except OSError:
            time.sleep(0.02)
    return False
