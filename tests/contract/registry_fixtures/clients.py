"""Clients whose patience takes no time, and blobs to move."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from engine.image.descriptor import OCTETS, Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.registry.client import RegistryClient
from engine.registry.credentials import Credentials


class Clock:
    """Sleeping takes no time but moves the hands."""

    def __init__(self) -> None:
        self.time, self.slept = 1000.0, list[float]()

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return 1_700_000_000.0 + self.time

    def random(self) -> float:
        return 1.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await checkpoint()


def login(address: str, user: str, password: str) -> dict[str, object]:
    """A config.json with one entry."""
    return {"auths": {address: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}}}


@asynccontextmanager
async def connected(config: Mapping[str, object] | None = None, *, clock: Clock | None = None, transfers: int = 4,
                    environment: Mapping[str, str] | None = None, insecure: frozenset[str] = frozenset(),
                    **more: Any) -> AsyncIterator[RegistryClient]:
    """A client that is closed at the end."""
    client = RegistryClient(credentials=Credentials(config or {}, environment or {}), insecure=insecure,
                            environment=environment or {}, downloads=anyio.CapacityLimiter(transfers),
                            uploads=anyio.CapacityLimiter(transfers), clock=clock or Clock(), **more)
    try:
        yield client
    finally:
        await client.aclose()


def make_blob(folder: Path, size: int, seed: int = 0) -> tuple[Path, bytes, Descriptor]:
    """A file of bytes that compress badly, its content and its descriptor."""
    data = random.Random(seed * 1_000_003 + size).randbytes(size)
    path = folder / f"blob-{size}-{seed}"
    path.write_bytes(data)
    return path, data, Descriptor(OCTETS, Digest("sha256", hashlib.sha256(data).hexdigest()), size)


async def pull(client: RegistryClient, reference: Reference, descriptor: Descriptor) -> bytes:
    """A blob whole."""
    async with aclosing(client.blob(reference, descriptor)) as stream:
        return b"".join([part async for part in stream])
