"""The registry as a command: other people's tools push to it and pull from it, it is killed, it is misused."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Command:
    """A running `aniko registry`."""

    def __init__(self, *options: str) -> None:
        words = [sys.executable, "-m", "engine.cli", "registry", "--listen", "127.0.0.1:0", *options]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.ready = self.process.stdout.readline()
        self.url = self.ready.rpartition(" at ")[2].strip()
        self.address = self.url.removeprefix("http://")

    def request(self, method: str, path: str, data: bytes | None = None, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, named, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return SimpleNamespace(status=answer.status, headers=answer.headers, body=answer.read())

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def command() -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*options: str) -> Command:
        started.append(Command(*options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        one.process.stdout.close()  # type: ignore[union-attr]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An image as an OCI layout."""
    root = tmp_path / "layout"
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def store(data: bytes, media_type: str) -> dict[str, Any]:
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    layers, diff_ids = [], []
    for number in range(3):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            member = tarfile.TarInfo(f"file{number}")
            member.size = 200_000
            tar.addfile(member, io.BytesIO(os.urandom(200_000)))
        diff_ids.append(sha256(buffer.getvalue()))
        layers.append(store(gzip.compress(buffer.getvalue(), 1), "application/vnd.oci.image.layer.v1.tar+gzip"))
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
                "config": store(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")}
    entry = store(json.dumps(manifest).encode(), MANIFEST) | {"annotations": {"org.opencontainers.image.ref.name": "v1"}}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return root


def blobs_of(layout: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (layout / "blobs" / "sha256").iterdir()}


def skopeo(*words: str) -> str:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_skopeo_pushes_copies_and_pulls(command: Callable[..., Command], layout: Path, tmp_path: Path) -> None:
    registry = command("--dir", str(tmp_path / "registry"))
    there = f"docker://{registry.address}/library/app:v1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:v1", there)
    skopeo("copy", "--src-tls-verify=false", "--dest-tls-verify=false", there, f"docker://{registry.address}/other/app:v2")
    skopeo("copy", "--src-tls-verify=false", f"docker://{registry.address}/other/app:v2", f"oci:{tmp_path}/back:v1")
    assert blobs_of(tmp_path / "back") == blobs_of(layout)
    assert json.loads(skopeo("inspect", "--tls-verify=false", there))["RepoTags"] == ["v1"]
    skopeo("delete", "--tls-verify=false", there)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        registry.request("GET", "/v2/library/app/manifests/v1")


def test_skopeo_with_a_password(command: Callable[..., Command], layout: Path, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("se:cret\n")
    registry = command("--dir", str(tmp_path / "registry"), "--user", "alice", "--password-file", str(password))
    there = f"docker://{registry.address}/app:v1"
    skopeo("copy", "--dest-tls-verify=false", "--dest-creds", "alice:se:cret", f"oci:{layout}:v1", there)
    words = ["skopeo", "inspect", "--tls-verify=false", "--creds", "alice:x", there]
    refused = subprocess.run(words, capture_output=True, text=True)
    assert refused.returncode != 0 and "unauthorized" in refused.stderr.lower()


async def test_skopeo_gets_and_renews_tokens(serve: Any, layout: Path, tmp_path: Path) -> None:
    from anyio import run_process

    from engine.registry.server.access import TokenAuth

    client = await serve(auth=TokenAuth({"alice": "secret"}))
    there = f"docker://{client.server.address}/app:v1"
    words = ["skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", "alice:secret", f"oci:{layout}:v1", there]
    await run_process(words)
    words = ["skopeo", "copy", "--src-tls-verify=false", "--src-creds", "alice:secret", there, f"oci:{tmp_path}/back:v1"]
    await run_process(words)
    assert blobs_of(tmp_path / "back") == blobs_of(layout)
    assert client.server.auth.issued >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_when_it_is_ready_and_ends_in_order(command: Callable[..., Command], tmp_path: Path, number: int) -> None:
    registry = command("--dir", str(tmp_path / "new" / "registry"))
    pattern = rf"aniko registry: serving {tmp_path}/new/registry at http://127\.0\.0\.1:\d+\n"
    assert re.fullmatch(pattern, registry.ready)
    assert registry.request("GET", "/v2/").status == 200
    assert registry.end(number) == 0


def test_a_kill_during_an_upload_costs_only_what_had_not_arrived(command: Callable[..., Command], tmp_path: Path) -> None:
    root, data = tmp_path / "registry", os.urandom(3_000_000)
    registry = command("--dir", str(root))
    where = registry.request("POST", "/v2/a/blobs/uploads/", b"").headers["Location"]
    registry.request("PATCH", where, data[:1_000_000])
    with socket.create_connection(tuple(registry.address.rsplit(":", 1)), timeout=30) as connection:
        head = f"PATCH {where} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data) - 1_000_000}\r\n\r\n"
        connection.sendall(head.encode() + data[1_000_000:2_000_000])
        upload = root / "repositories" / "a" / "_uploads" / where.rpartition("/")[2]
        while upload.stat().st_size <= 1_000_000:
            os.sched_yield()
        registry.end(signal.SIGKILL)
    registry = command("--dir", str(root))
    arrived = int(registry.request("GET", where).headers["Range"].partition("-")[2]) + 1
    assert 1_000_000 < arrived <= 2_000_000
    registry.request("PATCH", where, data[arrived:], Content_Range=f"{arrived}-{len(data) - 1}")
    assert registry.request("PUT", f"{where}?digest={sha256(data)}", b"").status == 201
    assert registry.request("GET", f"/v2/a/blobs/{sha256(data)}").body == data


def test_kills_at_any_moment_leave_only_what_is_whole(command: Callable[..., Command], tmp_path: Path) -> None:
    root = tmp_path / "registry"
    config = b'{"os":"linux"}'
    for number in range(4):
        registry = command("--dir", str(root))
        pushed = 0
        try:
            while True:
                layer = os.urandom(2_000)
                for blob in (config, layer):
                    registry.request("POST", f"/v2/a/blobs/uploads/?digest={sha256(blob)}", blob)
                manifest = {"schemaVersion": 2, "mediaType": MANIFEST,
                            "config": {"mediaType": "application/json", "digest": sha256(config), "size": len(config)},
                            "layers": [{"mediaType": "application/json", "digest": sha256(layer), "size": len(layer)}]}
                registry.request("PUT", f"/v2/a/manifests/v{pushed % 3}", json.dumps(manifest).encode(), Content_Type=MANIFEST)
                pushed += 1
                if pushed == 5 + number:
                    # The kill comes while the next pushes go on, at no moment in particular
                    killer = threading.Thread(target=registry.process.kill)
                    killer.start()
        except (OSError, http.client.HTTPException):
            killer.join()
            registry.process.wait(30)
    registry = command("--dir", str(root))
    tags = json.loads(registry.request("GET", "/v2/a/tags/list").body)["tags"]
    assert tags == ["v0", "v1", "v2"]
    for tag in tags:
        answer = registry.request("GET", f"/v2/a/manifests/{tag}")
        raw = answer.body
        assert sha256(raw) == answer.headers["Docker-Content-Digest"]
        for child in (json.loads(raw)["config"], *json.loads(raw)["layers"]):
            assert sha256(registry.request("GET", f"/v2/a/blobs/{child['digest']}").body) == child["digest"]
    for blob in (root / "blobs" / "sha256").iterdir():
        assert sha256(blob.read_bytes()) == f"sha256:{blob.name}"


def failing(*options: str) -> tuple[int, str]:
    words = [sys.executable, "-m", "engine.cli", "registry", *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, told = failing("--dir", str(tmp_path / "r"), "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert status == 2
    assert "in use" in told and "--listen" in told


@pytest.mark.parametrize("listen", ["5000", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "256.1.1.1:0"])
def test_an_address_that_is_none(tmp_path: Path, listen: str) -> None:
    status, told = failing("--dir", str(tmp_path / "r"), "--listen", listen)
    assert status == 2
    assert "--listen" in told


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, told = failing("--dir", str(tmp_path / "file" / "r"), "--listen", "127.0.0.1:0")
    assert status == 11
    assert "cannot use" in told and "--dir" in told


@pytest.mark.parametrize("options", [["--user", "a"], ["--password-file", "x"], ["--user", "a", "--password-file", "/nowhere"],
                                     ["--user", "a", "--password-file", "/dev/null"]])  # fmt: skip
def test_half_a_login(tmp_path: Path, options: list[str]) -> None:
    status, told = failing("--dir", str(tmp_path / "r"), "--listen", "127.0.0.1:0", *options)
    assert status == 2
    assert "password" in told
