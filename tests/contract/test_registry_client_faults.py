"""The registry client against a registry that fails in every way it can, and cancelled in every phase."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from engine.errors import ContentError, NotFoundError, RegistryError
from engine.image.descriptor import OCI_INDEX
from engine.image.manifest import make_index
from engine.image.reference import Reference
from engine.registry.client import RegistryClient
from engine.registry.exchange import Timeouts
from engine.registry.retry import Patience
from engine.registry.server.faults import Fault
from engine.registry.server.server import RegistryServer
from engine.registry.server.transfer import Exchange
from tests.contract.registry_fixtures.clients import Clock, connected, make_blob, pull

UPLOADS = ".*/blobs/uploads/.*"
BLOBS = ".*/blobs/sha256:.*"
MIB = 1 << 20


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RegistryServer]:
    async with RegistryServer(tmp_path / "registry") as server:
        yield server


@pytest.fixture
def reference(server: RegistryServer) -> Reference:
    return Reference.parse(f"{server.address}/app:1")


async def push_index(client: RegistryClient, reference: Reference) -> None:
    await client.push_manifest(reference, make_index([]).raw, OCI_INDEX)


def asked(server: RegistryServer, method: str, part: str = "") -> list[int]:
    """The statuses of the requests of a method so far."""
    return [e.status for e in server.requests if e.method == method and part in e.path]


@pytest.mark.parametrize("fault", [
    Fault(kind="status", status=503, times=3), Fault(kind="status", status=500, times=3), Fault(kind="status", status=429, times=3),
    Fault(kind="reset", times=3),
], ids=["503", "500", "429", "reset"])  # fmt: skip
async def test_every_request_is_tried_again(server: RegistryServer, reference: Reference, tmp_path: Path, fault: Fault) -> None:
    path, data, descriptor = make_blob(tmp_path, 300_000)
    clock = Clock()
    kind = {"kind": fault.kind, "status": fault.status, "times": 2}
    async with connected(clock=clock) as client:
        await client.has_blob(reference, descriptor.digest)
        for method, where in (("HEAD", BLOBS), ("POST", UPLOADS), ("PUT", UPLOADS), ("PUT", ".*/manifests/.*"),
                              ("GET", ".*/manifests/.*"), ("HEAD", ".*/manifests/.*"), ("GET", BLOBS), ("GET", ".*/tags/list"),
                              ("DELETE", ".*")):  # fmt: skip
            server.add_fault(Fault(method, where, **kind))  # type: ignore[arg-type]
        assert await client.push_blob(reference, descriptor, path)
        assert await pull(client, reference, descriptor) == data
        await push_index(client, reference)
        await client.resolve(reference)
        await client.manifest(reference)
        assert await client.tags(reference) == ("1",)
        await client.delete(reference)
    assert not server.faults.pending
    # some requests are sent a second time at once when a connection that was kept is reset
    assert len(clock.slept) >= (8 if fault.kind == "reset" else 14)


async def test_retry_after_is_obeyed(server: RegistryServer, reference: Reference) -> None:
    clock = Clock()
    async with connected(clock=clock) as client:
        await push_index(client, reference)
        server.add_fault(Fault("HEAD", kind="throttle", retry_after="17"))
        await client.resolve(reference)
        assert clock.slept == [17.0]
        server.add_fault(Fault("HEAD", kind="throttle", retry_after="3600", times=None))
        with pytest.raises(RegistryError, match="429 too many requests") as raised:
            await client.resolve(reference)
    assert clock.slept == [17.0]
    assert "3600 s" in (raised.value.hint or "")
    assert raised.value.status == 429


async def test_a_registry_that_stays_broken_is_given_up(server: RegistryServer, reference: Reference) -> None:
    clock = Clock()
    server.add_fault(Fault("HEAD", status=502, times=None))
    async with connected(clock=clock, patience=Patience(attempts=5)) as client:
        with pytest.raises(RegistryError, match=r"answered 502 bad gateway \(HEAD app:1\).*gave up after 5 attempts"):
            await client.resolve(reference)
    assert len(asked(server, "HEAD")) == 5


@pytest.mark.parametrize("kind", ["reset", "truncate"])
async def test_a_download_goes_on_where_it_broke(server: RegistryServer, reference: Reference, tmp_path: Path, kind: str) -> None:
    path, data, descriptor = make_blob(tmp_path, 5 * MIB)
    async with connected() as client:
        await client.push_blob(reference, descriptor, path)
        server.add_fault(Fault("GET", BLOBS, kind=kind, after=MIB, times=3))  # type: ignore[arg-type]
        assert await pull(client, reference, descriptor) == data
    statuses = asked(server, "GET", "/blobs/")
    assert statuses[0] == 200
    assert set(statuses[1:]) == {206}
    assert sum(e.sent for e in server.requests if e.method == "GET" and e.fault) == 3 * MIB


async def test_headway_renews_the_patience_with_a_download(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 6 * MIB)
    async with connected(patience=Patience(attempts=2)) as client:
        await client.push_blob(reference, descriptor, path)
        server.add_fault(Fault("GET", BLOBS, kind="truncate", after=MIB, times=4))
        assert await pull(client, reference, descriptor) == data


async def test_a_registry_that_starts_anew_is_waited_for(tmp_path: Path) -> None:
    """One that was never there is given up within a second; one that has answered before is not."""
    clock = Clock()
    async with connected(clock=clock) as client:
        async with RegistryServer(tmp_path / "r") as server:
            reference = Reference.parse(f"{server.address}/app:1")
            await push_index(client, reference)
        with pytest.raises(RegistryError, match="connection refused"):
            await client.resolve(reference)
    assert sum(clock.slept) > 10


async def test_a_registry_without_ranges_is_read_again_from_the_start(server: RegistryServer, reference: Reference,
                                                                      tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 3 * MIB)
    async with connected() as client:
        await client.push_blob(reference, descriptor, path)
        server.add_fault(Fault("GET", BLOBS, kind="truncate", after=MIB + 12345))
        server.add_fault(Fault("GET", BLOBS, kind="no-range"))
        assert await pull(client, reference, descriptor) == data
    assert asked(server, "GET", "/blobs/") == [200, 200]


async def test_a_download_without_headway_is_given_up(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, _, descriptor = make_blob(tmp_path, 3 * MIB)
    async with connected(patience=Patience(attempts=4)) as client:
        await client.push_blob(reference, descriptor, path)
        server.add_fault(Fault("GET", BLOBS, kind="truncate", after=1000, times=None))
        with pytest.raises(RegistryError, match="gave up after 4 attempts"):
            await pull(client, reference, descriptor)


async def test_a_byte_that_changed_on_the_way_is_found_out(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, _, descriptor = make_blob(tmp_path, MIB)
    async with connected() as client:
        await client.push_blob(reference, descriptor, path)
        server.add_fault(Fault("GET", BLOBS, kind="corrupt"))
        with pytest.raises(ContentError, match="content does not match its digest"):
            await pull(client, reference, descriptor)


async def test_a_manifest_that_is_another_is_found_out(server: RegistryServer, reference: Reference) -> None:
    async with connected() as client:
        await push_index(client, reference)
        digest = (await client.resolve(reference)).digest
        for wrong in (reference, reference.with_digest(digest)):
            server.add_fault(Fault("GET", ".*/manifests/.*", kind="corrupt"))
            with pytest.raises(ContentError, match="content does not match its digest"):
                await client.manifest(wrong)
        server.add_fault(Fault("GET", ".*/manifests/.*", kind="wrong-digest"))
        with pytest.raises(ContentError, match="content does not match its digest"):
            await client.manifest(reference)
        server.add_fault(Fault("HEAD", ".*/manifests/.*", kind="wrong-digest"))
        with pytest.raises(ContentError, match="the registry answers with"):
            await client.resolve(reference.with_digest(digest))


async def test_a_wrong_digest_after_a_push_is_an_error(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, _, descriptor = make_blob(tmp_path, 1000)
    async with connected() as client:
        server.add_fault(Fault("PUT", UPLOADS, kind="wrong-digest"))
        with pytest.raises(ContentError, match="the registry stored it as"):
            await client.push_blob(reference, descriptor, path)
        server.add_fault(Fault("PUT", ".*/manifests/.*", kind="wrong-digest"))
        with pytest.raises(ContentError, match="the registry stored the manifest as"):
            await push_index(client, reference)


async def test_an_upload_goes_on_where_it_broke(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 8 * MIB)
    moved: list[int] = []
    async with connected() as client:
        server.add_fault(Fault("PUT", UPLOADS, kind="reset", after=3 * MIB))
        server.add_fault(Fault("PATCH", UPLOADS, kind="reset", after=2 * MIB))
        assert await client.push_blob(reference, descriptor, path, progress=moved.append)
        assert await pull(client, reference, descriptor) == data
    assert len(asked(server, "POST")) == 1
    received = [e.received for e in server.requests if e.method in ("PUT", "PATCH")]
    assert sum(received) < 9 * MIB
    assert moved[-1] == 8 * MIB
    assert 5 * MIB in moved


async def test_an_upload_that_was_lost_begins_anew(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 2 * MIB)
    async with connected() as client:
        server.add_fault(Fault("PUT", UPLOADS, kind="lost-upload"))
        assert await client.push_blob(reference, descriptor, path)
        server.add_fault(Fault("PUT", UPLOADS, kind="reset", after=MIB))
        server.add_fault(Fault("PATCH", UPLOADS, kind="lost-upload"))
        other = Reference.parse(f"{server.address}/other:1")
        assert await client.push_blob(other, descriptor, path)
        assert await pull(client, other, descriptor) == data
    assert asked(server, "POST") == [202] * 4


async def test_a_refused_mount_becomes_an_upload(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, MIB)
    other = Reference.parse(f"{server.address}/other:1")
    async with connected() as client:
        await client.push_blob(reference, descriptor, path)
        server.add_fault(Fault("POST", UPLOADS, kind="no-mount"))
        assert await client.push_blob(other, descriptor, path, mount_from=[reference])
        assert await pull(client, other, descriptor) == data
        assert asked(server, "POST") == [202, 202], "the session of the refused mount is used"
        server.add_fault(Fault("POST", UPLOADS, kind="status", status=400))
        third = Reference.parse(f"{server.address}/third:1")
        assert await client.push_blob(third, descriptor, path, mount_from=[reference])


async def test_a_way_that_cuts_large_requests_off_gets_pieces(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 9 * MIB)
    async with connected() as client:
        server.add_fault(Fault("PUT", UPLOADS, kind="reset", after=0, times=2))
        assert await client.push_blob(reference, descriptor, path)
        assert await pull(client, reference, descriptor) == data
    assert [e.received for e in server.requests if e.method == "PATCH"] == [4 * MIB, 4 * MIB, MIB]


async def test_an_immutable_tag_is_no_error_when_it_is_already_ours(server: RegistryServer, reference: Reference) -> None:
    async with connected() as client:
        await push_index(client, reference)
        for status in (0, 400, 403, 405, 409, 412):
            server.add_fault(Fault("PUT", ".*/manifests/.*", kind="immutable", status=status))
            await push_index(client, reference)
        server.faults.clear()
        for status in (400, 403, 409, 412):
            server.add_fault(Fault("PUT", ".*/manifests/.*", kind="status", status=status, code="DENIED"))
            await push_index(client, reference)
        server.add_fault(Fault("PUT", ".*/manifests/.*", kind="immutable", status=409))
        other = make_index([], annotations={"other": "one"})
        with pytest.raises(RegistryError, match=rf"{reference}: the tag exists as sha256:.* does not let it be moved") as raised:
            await client.push_manifest(reference, other.raw, OCI_INDEX)
        assert raised.value.status == 409
        server.add_fault(Fault("PUT", ".*/manifests/.*", kind="status", status=400, code="MANIFEST_INVALID"))
        with pytest.raises(RegistryError, match="MANIFEST_INVALID") as raised:
            await client.push_manifest(reference, other.raw, OCI_INDEX)
        assert "moved" not in raised.value.message


async def test_a_read_only_registry_says_so(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, _, descriptor = make_blob(tmp_path, 1000)
    server.add_fault(Fault(kind="read-only", method="POST|PUT|PATCH|DELETE", times=None))
    async with connected() as client:
        with pytest.raises(RegistryError, match=r"answered 405 method not allowed.*UNSUPPORTED"):
            await client.push_blob(reference, descriptor, path)
        with pytest.raises(RegistryError, match="405"):
            await push_index(client, reference)


async def test_a_silent_registry_is_given_up(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, _, descriptor = make_blob(tmp_path, 3 * MIB)
    async with connected(timeouts=Timeouts(idle=0.2, answer=0.2), patience=Patience(attempts=2)) as client:
        await client.push_blob(reference, descriptor, path)
        server.add_fault(Fault("HEAD", kind="stall", delay=30, times=None))
        with pytest.raises(RegistryError, match="no data in time"):
            await client.resolve(reference)
        server.add_fault(Fault("GET", BLOBS, kind="slow", after=100, delay=30, times=None))
        with pytest.raises(RegistryError, match="no data in time"):
            await pull(client, reference, descriptor)


async def test_equal_pushes_at_one_time_are_one(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, _, descriptor = make_blob(tmp_path, 200_000)
    results: list[bool] = []

    async def push() -> None:
        results.append(await client.push_blob(reference, descriptor, path))

    async with connected() as client, anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(push)
    assert sorted(results) == [False] * 7 + [True]
    assert (len(asked(server, "HEAD")), asked(server, "POST"), asked(server, "PUT")) == (1, [202], [201])


async def test_transfers_keep_to_their_limit_until_they_are_closed(server: RegistryServer, reference: Reference,
                                                                   tmp_path: Path) -> None:
    path, _, descriptor = make_blob(tmp_path, 4 * MIB)
    async with connected(transfers=1) as client:
        await client.push_blob(reference, descriptor, path)
        first = client.blob(reference, descriptor)
        assert await anext(first)
        with anyio.move_on_after(0.1) as scope:
            await pull(client, reference, descriptor)
        assert scope.cancelled_caught
        await first.aclose()
        assert len(await pull(client, reference, descriptor)) == descriptor.size


async def cancelled(work: Callable[[], Awaitable[object]], when: anyio.Event) -> None:
    """Starts something, cancels it at a moment, and waits until it has ended."""

    async def run(*, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
        with anyio.CancelScope() as scope:
            task_status.started(scope)
            await work()
            pytest.fail("it was to be cancelled")

    async with anyio.create_task_group() as tasks:
        scope = await tasks.start(run)
        with anyio.fail_after(5):
            await when.wait()
            await anyio.wait_all_tasks_blocked()
        scope.cancel()


@pytest.mark.parametrize(("method", "fault"), [
    ("HEAD", Fault("HEAD", BLOBS, kind="stall", delay=30)),
    ("POST", Fault("POST", UPLOADS, kind="stall", delay=30)),
    ("PUT", Fault("PUT", UPLOADS, kind="slow", after=1000, delay=30)),
    ("PUT", Fault("PUT", UPLOADS, kind="stall", delay=30)),
    ("GET", Fault("GET", BLOBS, kind="stall", delay=30)),
    ("GET", Fault("GET", BLOBS, kind="slow", after=1000, delay=30)),
], ids=["look-up", "begin", "body", "answer", "download", "download-body"])  # fmt: skip
async def test_cancelled_in_any_phase_nothing_stays_behind(tmp_path: Path, method: str, fault: Fault) -> None:
    path, data, descriptor = make_blob(tmp_path, 8 * MIB)
    arrived = anyio.Event()

    def note(exchange: Exchange) -> None:
        if fault in server.faults.pending and fault.matches(exchange.method, exchange.path):
            arrived.set()

    with anyio.fail_after(20):
        async with RegistryServer(tmp_path / "other", on_request=note) as server, \
                connected(transfers=1) as client:
            reference = Reference.parse(f"{server.address}/app:1")
            if method == "GET":
                await client.push_blob(reference, descriptor, path)
            server.add_fault(fault)

            async def work() -> object:
                if method == "GET":
                    return await pull(client, reference, descriptor)
                return await client.push_blob(reference, descriptor, path)

            await cancelled(work, arrived)
            gc.collect()
            await client.push_blob(reference, descriptor, path)
            assert await pull(client, reference, descriptor) == data


async def test_a_consumer_that_stops_early_leaves_no_connection(server: RegistryServer, reference: Reference,
                                                                tmp_path: Path) -> None:
    path, _, descriptor = make_blob(tmp_path, 8 * MIB)
    async with connected(transfers=1) as client:
        await client.push_blob(reference, descriptor, path)
        for _ in range(3):
            async with aclosing(client.blob(reference, descriptor)) as stream:
                async for _part in stream:
                    break
        with pytest.raises(ZeroDivisionError):
            async with aclosing(client.blob(reference, descriptor)) as stream:
                async for _part in stream:
                    raise ZeroDivisionError
        assert len(await pull(client, reference, descriptor)) == descriptor.size


async def test_a_missing_blob_is_not_asked_for_again(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    _, _, descriptor = make_blob(tmp_path, 10)
    async with connected() as client:
        with pytest.raises(NotFoundError):
            await pull(client, reference, descriptor)
    assert asked(server, "GET", "/blobs/") == [404]
