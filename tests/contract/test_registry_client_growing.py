"""Blobs that are sent while they are being written: what arrives when, and what becomes of it when that does not go well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from engine.errors import RegistryError
from engine.image.reference import Reference
from engine.registry import stream
from engine.registry.client import RegistryClient
from engine.registry.retry import Patience
from engine.registry.server.faults import Fault
from engine.registry.server.server import RegistryServer
from engine.registry.server.transfer import Exchange
from engine.registry.server.uploads import Upload, Uploads
from tests.contract.registries import RunningRegistry
from tests.contract.registry_fixtures.clients import connected, pull
from tests.contract.registry_fixtures.growing import PIECE, Writing
from tests.contract.registry_fixtures.scripted import Say, Scripted
from tests.contract.test_registry_client_tls import certificate, make_certificate

__all__ = ["certificate", "make_certificate"]

UPLOAD = ".*/blobs/uploads/.+"


class Watched(RegistryServer):
    """The embedded registry, which says when the first bytes of an upload have come, and can keep them waiting."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, on_request=self._note)
        self.arrived, self.asked, self.go_on = anyio.Event(), anyio.Event(), anyio.Event()
        self.go_on.set()
        self.root = root

    def _note(self, exchange: Exchange) -> None:
        if exchange.method == "HEAD":
            self.asked.set()

    async def bytes(self) -> None:
        """Waits until bytes of an upload have come."""
        with anyio.fail_after(20):
            await self.arrived.wait()

    async def question(self) -> None:
        """Waits until it is asked whether it has a blob."""
        with anyio.fail_after(20):
            await self.asked.wait()

    def said(self, *methods: str) -> list[tuple[str, int]]:
        """The requests of these methods about uploads, and their answers."""
        return [(e.method, e.status) for e in self.requests if e.method in methods and "/uploads/" in e.path]

    def left(self) -> list[str]:
        """What lies around of uploads."""
        return [str(path) for path in self.root.rglob("_uploads/*")]


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    append = Uploads.append
    async with Watched(tmp_path / "registry") as server:

        async def watched(self: Uploads, upload: Upload, data: bytes) -> None:
            server.arrived.set()
            await server.go_on.wait()
            await append(self, upload, data)

        monkeypatch.setattr(Uploads, "append", watched)
        yield server


@pytest.fixture
def reference(server: Watched) -> Reference:
    return Reference.parse(f"{server.address}/app")


async def grow(client: RegistryClient, reference: Reference, writing: Writing) -> None:
    """Sends a blob that is written as fast as it goes."""
    with writing:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.push_growing, reference, writing.departure)
            for _ in range(3):
                writing.write()
                await anyio.lowlevel.checkpoint()
            writing.end()


async def test_it_arrives_while_it_is_written(server: Watched, reference: Reference, tmp_path: Path) -> None:
    async with connected() as client:
        with Writing(tmp_path) as writing:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.push_growing, reference, writing.departure)
                writing.write()
                await server.bytes()
                writing.end()
        assert await pull(client, reference, writing.blob) == writing.data
    assert server.said("POST", "PATCH", "PUT") == [("POST", 202), ("PATCH", 202), ("PUT", 201)]
    patch, put = (e for e in server.requests if e.method in ("PATCH", "PUT"))
    assert (patch.received, put.received) == (len(writing.data), 0)
    assert server.left() == []


async def test_over_an_encrypted_connection(certificate: object, tmp_path: Path) -> None:
    async with Scripted(certificate.context) as server, connected() as client:  # type: ignore[attr-defined]
        server.on("HEAD", ".*/blobs/.*", Say(404))
        server.on("POST", ".*", Say(202, headers={"Location": "/session?state=1"}))
        server.on("PATCH", "/session", Say(202, headers={"Location": "/session?state=2"}))
        server.on("PUT", "/session", Say(201))
        writing = Writing(tmp_path)
        await grow(client, Reference.parse(f"{server.address}/app"), writing)
        sent = [(s.method, s.query, s.body) for s in server.seen if s.path == "/session"]
        assert sent == [("PATCH", "state=1", writing.data),
                        ("PUT", f"state=2&digest=sha256:{writing.blob.digest.hex}", b"")]  # fmt: skip


async def test_a_blob_that_is_there_is_asked_for_while_it_is_sent_and_the_upload_cancelled(
        server: Watched, reference: Reference, tmp_path: Path) -> None:  # fmt: skip
    async with connected() as client:
        await grow(client, reference, Writing(tmp_path))
        server.log.clear()
        server.go_on, server.arrived, server.asked = anyio.Event(), anyio.Event(), anyio.Event()
        with Writing(tmp_path) as writing:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.push_growing, reference, writing.departure)
                writing.write()
                await server.bytes()
                writing.end()
                await server.question()
                server.go_on.set()
    assert server.said("POST", "PATCH", "PUT", "DELETE") == [("POST", 202), ("PATCH", 202), ("DELETE", 204)]
    assert server.left() == []


@pytest.mark.parametrize("fault", [
    *(Fault("PATCH", UPLOAD, status=status) for status in (400, 404, 405, 411, 413, 500, 501)),
    Fault("POST", ".*", status=503),
    Fault("PUT", UPLOAD, status=400, code="DIGEST_INVALID"),
    Fault("PUT", UPLOAD, kind="wrong-digest"),
    Fault("PATCH", UPLOAD, kind="lost-upload"),
    Fault("PATCH", UPLOAD, kind="reset"),
    Fault("PATCH", UPLOAD, kind="reset", after=PIECE + 1),
    Fault("HEAD", ".*", status=500),
], ids=lambda fault: f"{fault.method}-{fault.kind}-{fault.status or fault.after or ''}")  # fmt: skip
async def test_a_registry_that_does_not_take_it_gets_it_whole_and_is_not_asked_again(
        server: Watched, reference: Reference, tmp_path: Path, fault: Fault) -> None:  # fmt: skip
    server.add_fault(fault)
    async with connected() as client:
        first, second = Writing(tmp_path, seed=1), Writing(tmp_path, seed=2)
        await grow(client, reference, first)
        assert not server.faults.pending
        assert await pull(client, reference, first.blob) == first.data
        server.log.clear()
        await grow(client, reference, second)
        assert await pull(client, reference, second.blob) == second.data
    assert server.said("POST", "PATCH", "PUT", "DELETE") == [("POST", 202), ("PUT", 201)]
    assert server.left() == []


async def test_writing_that_comes_to_nothing_leaves_nothing(server: Watched, reference: Reference, tmp_path: Path) -> None:
    async with connected() as client:
        async with anyio.create_task_group() as tasks:
            with Writing(tmp_path) as writing:
                tasks.start_soon(client.push_growing, reference, writing.departure)
                writing.write()
                await server.bytes()
        assert server.said("POST", "PATCH", "PUT", "DELETE") == [("POST", 202), ("PATCH", 202), ("DELETE", 204)]
        assert server.left() == []
        server.log.clear()
        await grow(client, reference, Writing(tmp_path, seed=1))
    assert server.said("PATCH"), "that is no fault of the registry's"


@pytest.mark.parametrize("fault", [None, Fault("DELETE", UPLOAD, status=405), Fault("PATCH", UPLOAD, kind="reset", after=9)],
                         ids=["", "refused", "broken"])  # fmt: skip
async def test_cancelled_in_the_middle(server: Watched, reference: Reference, tmp_path: Path, fault: Fault | None) -> None:
    if fault:
        server.add_fault(fault)
    with Writing(tmp_path) as writing:
        async with connected() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.push_growing, reference, writing.departure)
            writing.write()
            await server.bytes()
            tasks.cancel_scope.cancel()
    assert server.said("PATCH") == [("PATCH", 0 if fault and fault.kind == "reset" else 202)], "it ends in order, if it can"
    assert server.said("DELETE") == [("DELETE", 405 if fault and fault.method == "DELETE" else 204)]
    assert bool(server.left()) == (fault is not None and fault.method == "DELETE")


async def test_cancelled_before_there_was_anything_to_send(server: Watched, reference: Reference, tmp_path: Path) -> None:
    with Writing(tmp_path) as writing:
        async with connected() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.push_growing, reference, writing.departure)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert not server.requests


async def test_a_registry_that_takes_nothing_does_not_hold_up_a_cancelled_build(tmp_path: Path,
                                                                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(stream, "CANCEL_SECONDS", 0.1)
    begun, over = anyio.Event(), anyio.Event()

    async def stare(request: web.Request) -> web.Response:
        begun.set()
        await over.wait()
        return web.Response(status=202)

    async with Scripted() as server:
        server.on("POST", ".*", Say(202, headers={"Location": "/session"}))
        server.on("PATCH|GET|DELETE", "/session", stare)
        with Writing(tmp_path, pieces=20) as writing, anyio.fail_after(10):
            async with connected() as client, anyio.create_task_group() as tasks:
                tasks.start_soon(client.push_growing, Reference.parse(f"{server.address}/app"), writing.departure)
                writing.write(20 * PIECE)
                await begun.wait()
                tasks.cancel_scope.cancel()
        over.set()


async def test_who_wants_the_blob_meanwhile_waits_for_it(server: Watched, reference: Reference, tmp_path: Path) -> None:
    async with connected() as client:
        server.go_on = anyio.Event()
        with Writing(tmp_path) as writing:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.push_growing, reference, writing.departure)
                writing.write()
                await server.bytes()
                writing.end()
                await server.question()
                tasks.start_soon(client.push_blob, reference, writing.blob, writing.departure.path)
                await anyio.wait_all_tasks_blocked()
                server.go_on.set()
    assert server.said("POST", "PATCH", "PUT") == [("POST", 202), ("PATCH", 202), ("PUT", 201)]


async def test_where_there_is_no_place_among_the_uploads_it_is_sent_later(server: Watched, reference: Reference,
                                                                          tmp_path: Path) -> None:  # fmt: skip
    server.go_on = anyio.Event()
    async with connected(transfers=1) as client:
        with Writing(tmp_path, seed=1) as first, Writing(tmp_path, seed=2) as second:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.push_growing, reference, first.departure)
                first.write()
                await server.bytes()
                tasks.start_soon(client.push_growing, reference, second.departure)
                second.write()
                await anyio.wait_all_tasks_blocked()
                second.end()
                first.end()
                server.go_on.set()
        for each in (first, second):
            assert await pull(client, reference, each.blob) == each.data
        assert [e.received for e in server.requests if e.method == "PATCH"] == [len(first.data)]
        await grow(client, reference, Writing(tmp_path, seed=3))
    assert len(server.said("PATCH")) == 2, "that is no fault of the registry's"


async def test_a_registry_that_wants_pieces_is_not_sent_a_whole(server: Watched, reference: Reference, tmp_path: Path) -> None:
    first, second = Writing(tmp_path, seed=1), Writing(tmp_path, seed=2)
    async with connected() as client:
        server.add_fault(Fault("PATCH|PUT", UPLOAD, status=413, times=2))
        await grow(client, reference, first)
        await grow(client, reference, second)
        for each in (first, second):
            assert await pull(client, reference, each.blob) == each.data
    assert max(e.received for e in server.requests if e.method == "PATCH") <= 4 << 20


async def test_a_registry_that_is_gone_is_told_of_as_ever(tmp_path: Path) -> None:
    async with connected(patience=Patience(attempts=1, unreached_attempts=1)) as client:
        with Writing(tmp_path) as writing:
            writing.end()
        with pytest.raises(RegistryError, match="cannot reach"):
            await client.push_growing(Reference.parse("127.0.0.1:1/app"), writing.departure)


async def test_the_real_registry(docker_registry: RunningRegistry, tmp_path: Path, repository: str) -> None:
    reference = Reference.parse(f"{docker_registry.address}/{repository}")
    uploads = docker_registry.root / f"docker/registry/v2/repositories/{repository}/_uploads"

    def held() -> list[int]:
        """The bytes of uploads that are not over. (Of one that was cancelled a state of its digest stays, which is empty.)"""
        return [path.stat().st_size for path in uploads.glob("*/data")]

    async with connected() as client:
        writing = Writing(tmp_path)
        await grow(client, reference, writing)
        assert await pull(client, reference, writing.blob) == writing.data
        assert held() == []
        await grow(client, reference, Writing(tmp_path))
        assert held() == [], "it was there already"
        with Writing(tmp_path, seed=2) as given_up:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.push_growing, reference, given_up.departure)
                given_up.write()
                with anyio.fail_after(20):
                    while not any(held()):
                        await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        assert held() == [], "it was cancelled"
