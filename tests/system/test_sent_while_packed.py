"""Layers that are on their way to the registry before they are packed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from engine import BuildRequest, Engine, EngineError, Settings
from engine.errors import StorageError
from engine.image.reference import Reference
from engine.registry.server.faults import Fault
from engine.registry.server.server import RegistryServer
from engine.registry.server.uploads import Upload, Uploads
from engine.request import CacheLocation, OutputRequest
from engine.solve.steps import pack
from engine.workers.pool import WorkerPool
from tests.contract.registries import RunningRegistry, missing_tools, running_registry

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

SIZE = 40 << 20


class Hold:
    """Keeps what a worker process has packed from the engine until the registry has seen some of it. `then` is done at that time."""

    def __init__(self) -> None:
        self.arrived = anyio.Event()
        self.then: Callable[[], None] = lambda: None
        self.packed = 0


@pytest.fixture
async def hold(monkeypatch: pytest.MonkeyPatch) -> Hold:
    hold, append, call = Hold(), Uploads.append, WorkerPool.call

    async def watched_append(self: Uploads, upload: Upload, data: bytes) -> None:
        await append(self, upload, data)
        if upload.offset > 1 << 20:
            hold.arrived.set()

    async def watched_call(self: WorkerPool, function: Any, *arguments: object) -> Any:
        result = await call(self, function, *arguments)
        if function is pack.pack_changes and arguments[-1]:
            hold.packed += 1
            with anyio.fail_after(20):
                await hold.arrived.wait()
            hold.then()
        return result

    monkeypatch.setattr(Uploads, "append", watched_append)
    monkeypatch.setattr(WorkerPool, "call", watched_call)
    return hold


@pytest.fixture
def context(memory: Path, base: str) -> Path:
    """A COPY of a file that does not compress, large enough to be sent while it is packed."""
    return large(memory, base)


def large(memory: Path, base: str) -> Path:
    context = write_context(memory / "app", f"FROM {base}\nCOPY big /big\nRUN echo later > /later\n")
    (context / "big").write_bytes(random.Random(1).randbytes(SIZE))
    return context


def uploads(registry: RegistryServer) -> list[tuple[str, int]]:
    return [(r.method, r.status) for r in registry.requests if r.method in ("PATCH", "DELETE")]


def left(memory: Path) -> list[Path]:
    return list((memory / "registry").rglob("_uploads/*"))


async def pulled(memory: Path, name: str) -> bytes:
    """The large file, as a machine finds it that knows nothing but the registry."""
    folder = write_context(memory / "pull", f"FROM {name}\n")
    async with Engine(Settings(memory / "other-state")) as other:
        await other.build(BuildRequest(context=str(folder), outputs=(OutputRequest("local", memory / "out"),)))
    return (memory / "out" / "big").read_bytes()


async def test_a_copied_file_is_at_the_registry_before_it_is_packed(engine: Engine, registry: RegistryServer, memory: Path,
                                                                    context: Path, hold: Hold) -> None:  # fmt: skip
    await engine.build(request(context, f"{registry.address}/app:1"))
    assert hold.packed == 1
    assert uploads(registry) == [("PATCH", 202)]
    assert sum(r.received for r in registry.requests if r.method == "PUT" and "/uploads/" in r.path) < SIZE / 2, "it was sent once"
    assert left(memory) == []
    assert await pulled(memory, f"{registry.address}/app:1") == (context / "big").read_bytes()


async def test_what_a_command_wrote_is_too(engine: Engine, registry: RegistryServer, memory: Path, base: str, hold: Hold) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN head -c {SIZE} /dev/urandom > /big\n")
    await engine.build(request(context, f"{registry.address}/app:1"))
    assert hold.packed == 1
    assert uploads(registry) == [("PATCH", 202)]


async def test_only_layers_of_the_image_are(engine: Engine, registry: RegistryServer, memory: Path, base: str, hold: Hold) -> None:
    context = write_context(memory / "app", f"FROM {base} AS one\nRUN head -c {SIZE} /dev/zero > /big\n"
                                            f"FROM {base}\nCOPY --from=one /bin/busybox /b\n")  # fmt: skip
    await engine.build(request(context, f"{registry.address}/app:1"))
    assert (hold.packed, uploads(registry)) == (0, [])


async def test_not_where_a_cache_is_given_what_is_made(engine: Engine, registry: RegistryServer, context: Path, hold: Hold) -> None:
    cache = CacheLocation(Reference.parse(f"{registry.address}/cache"), "max")
    await engine.build(request(context, f"{registry.address}/app:1", cache_to=cache))
    assert (hold.packed, uploads(registry)) == (0, [])


async def test_a_registry_that_refuses_gets_the_image_all_the_same(engine: Engine, registry: RegistryServer, memory: Path,
                                                                   context: Path, hold: Hold) -> None:  # fmt: skip
    hold.arrived.set()
    registry.add_fault(Fault("PATCH", ".*", status=411))
    await engine.build(request(context, f"{registry.address}/app:1"))
    assert await pulled(memory, f"{registry.address}/app:1") == (context / "big").read_bytes()
    (context / "big").write_bytes(random.Random(2).randbytes(SIZE))
    await engine.build(request(context, f"{registry.address}/app:2"))
    assert hold.packed == 2
    assert [method for method, _ in uploads(registry) if method == "PATCH"] == ["PATCH"]
    assert left(memory) == []


async def test_a_step_that_fails_leaves_nothing_at_the_registry(engine: Engine, registry: RegistryServer, memory: Path, context: Path,
                                                                hold: Hold) -> None:  # fmt: skip
    def fail() -> None:
        raise StorageError("the disk is gone")

    hold.then = fail
    with pytest.raises(EngineError, match="the disk is gone"):
        await engine.build(request(context, f"{registry.address}/app:1"))
    assert uploads(registry) == [("PATCH", 202), ("DELETE", 204)]
    assert left(memory) == []


async def test_a_cancelled_build_leaves_nothing_at_the_registry(engine: Engine, registry: RegistryServer, memory: Path, context: Path,
                                                                hold: Hold) -> None:  # fmt: skip
    async with anyio.create_task_group() as tasks:
        hold.then = tasks.cancel_scope.cancel
        tasks.start_soon(engine.build, request(context, f"{registry.address}/app:1"))
    assert uploads(registry) == [("PATCH", 202), ("DELETE", 204)]
    assert left(memory) == []


@pytest.fixture
async def debian(memory: Path) -> AsyncIterator[RunningRegistry]:
    if missing := missing_tools():
        pytest.skip(f"needs {missing}")
    with running_registry(memory / "debian", access_log=memory / "access.log") as running:
        yield running


async def test_debians_registry(engine: Engine, memory: Path, debian: RunningRegistry) -> None:
    context = large(memory, "scratch")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY big /big\n")
    await engine.build(request(context, f"{debian.address}/app:1"))
    said = (memory / "access.log").read_text()
    assert said.count('"PATCH ') == 1
    assert said.count('"PUT /v2/app/blobs/uploads/') == 2, "the layer and the config"
    assert not any(path.stat().st_size for path in (memory / "debian").rglob("_uploads/*/data"))
    assert await pulled(memory, f"{debian.address}/app:1") == (context / "big").read_bytes()
