"""The registry that everything is pulled from and pushed to: a process of its own, with what it holds in memory or on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from perf import measure

_GO = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {directory}, maxthreads: 100}}, delete: {{enabled: true}}}}
http: {{addr: "{address}"}}
"""


@contextmanager
def serving(directory: Path, kind: str = "auto") -> Iterator[tuple[str, str]]:
    """A registry's address and what it is: `docker-registry` where that is installed, else the engine's own."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    address = f"127.0.0.1:{_free_port()}"
    program = shutil.which("docker-registry")
    if kind != "embedded" and program:
        name = "docker-registry"
        config = directory.with_suffix(".yml")
        config.write_text(_GO.format(directory=directory, address=address))
        argv = [program, "serve", str(config)]
    else:
        name = "aniko registry"
        argv = [sys.executable, "-m", "engine.cli", "registry", "--dir", str(directory), "--listen", address]
    with open(directory.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        measure.own(process.pid)
        _await(address)
        yield address, name
    finally:
        process.terminate()
        process.wait()
        measure.disown(process.pid)
        shutil.rmtree(directory, ignore_errors=True)


def push_base(address: str, repository: str, layers: Sequence[tuple[Path, str]]) -> str:
    """Puts an image of these layers into the registry; returns its reference."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = json.dumps({"architecture": machine, "os": "linux", "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
                         "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
                         "history": [{"created_by": f"layer {n}"} for n in range(len(layers))]}).encode()  # fmt: skip
    descriptors = [_push(address, repository, path.read_bytes(), "application/vnd.oci.image.layer.v1.tar+gzip")
                   for path, _ in layers]  # fmt: skip
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": _push(address, repository, config, "application/vnd.oci.image.config.v1+json"),
                "layers": descriptors}  # fmt: skip
    _ask("PUT", f"http://{address}/v2/{repository}/manifests/1", json.dumps(manifest).encode(), str(manifest["mediaType"]))
    return f"{address}/{repository}:1"


def manifest(address: str, repository: str, tag: str) -> dict[str, object]:
    """An image's manifest."""
    url = f"http://{address}/v2/{repository}/manifests/{tag}"
    kinds = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": kinds})) as answer:
        found: dict[str, object] = json.load(answer)
    return found


def _push(address: str, repository: str, data: bytes, kind: str) -> dict[str, object]:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    place = _ask("POST", f"http://{address}/v2/{repository}/blobs/uploads/")
    place = place if place.startswith("http") else f"http://{address}{place}"
    _ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data, "application/octet-stream")
    return {"mediaType": kind, "digest": digest, "size": len(data)}


def _ask(method: str, url: str, data: bytes = b"", kind: str = "") -> str:
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": kind} if kind else {})
    with urllib.request.urlopen(request) as answer:
        return str(answer.headers.get("Location", ""))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(address: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://{address}/v2/").close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise SystemExit(f"the registry at {address} does not answer")
