"""A registry of one's own for each test, and the simplest client that can talk to it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.registry.server.server import RegistryServer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["errors"][0]["code"])


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Client:
    server: RegistryServer
    session: aiohttp.ClientSession

    async def __call__(self, method: str, path: str, data: Any = None, **headers: str) -> Answer:
        url = path if "://" in path else f"http://{self.server.address}{path}"
        if isinstance(data, bytes) and len(data) > 1 << 20:
            data = io.BytesIO(data)  # aiohttp warns of large bytes
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, url, data=data, headers=named, allow_redirects=False) as response:
            return Answer(response.status, response.headers, await response.read())

    async def blob(self, repository: str, data: bytes, **headers: str) -> dict[str, Any]:
        answer = await self("POST", f"/v2/{repository}/blobs/uploads/?digest={sha256(data)}", data, **headers)
        assert answer.status == 201, answer
        return {"digest": sha256(data), "size": len(data)}

    async def image(self, repository: str, tag: str, layer: bytes = b"layer", **more: Any) -> bytes:
        config = {"mediaType": CONFIG, **await self.blob(repository, b'{"os":"linux"}')}
        layers = [{"mediaType": LAYER, **await self.blob(repository, layer)}]
        raw = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, **more}).encode()
        answer = await self("PUT", f"/v2/{repository}/manifests/{tag or sha256(raw)}", raw, Content_Type=MANIFEST)
        assert answer.status == 201, answer
        return raw

    async def upload(self, repository: str = "a") -> str:
        answer = await self("POST", f"/v2/{repository}/blobs/uploads/")
        assert answer.status == 202
        return str(answer.headers["Location"])


Serve = Callable[..., Any]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts registries; all of one test share a directory unless told otherwise."""
    async with AsyncExitStack() as stack:

        async def start(root: Path | None = None, **options: Any) -> Client:
            server = await stack.enter_async_context(RegistryServer(root or tmp_path / "registry", **options))
            session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
            return Client(server, session)

        yield start


@pytest.fixture
async def client(serve: Serve) -> Client:
    """A registry without faults, for everyone."""
    started: Client = await serve()
    return started
