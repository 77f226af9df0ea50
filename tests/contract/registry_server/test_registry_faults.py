"""What the registry does wrong when it is asked to: each kind of fault, as a client meets it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from engine.registry.server.faults import Fault

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DATA = os.urandom(400_000)
BLOB = r"/v2/a/blobs/sha256:.*"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


PATH = f"/v2/a/blobs/{sha256(DATA)}"
BROKEN = (aiohttp.ClientError, ConnectionError)


@pytest.fixture
async def holder(client: Any) -> Any:
    """A registry whose repository `a` has a blob."""
    await client.blob("a", DATA)
    return client


async def test_a_fault_is_used_up_by_what_it_matches(holder: Any) -> None:
    holder.server.add_fault(Fault("GET", BLOB, 2, kind="status", status=503, code="UNAVAILABLE"))
    assert (await holder("GET", "/v2/")).status == 200
    assert (await holder("HEAD", PATH)).status == 200
    for status in (503, 503, 200):
        answer = await holder("GET", PATH)
        assert answer.status == status
        assert answer.status == 200 or answer.code == "UNAVAILABLE"


async def test_a_fault_may_come_later_and_stay(holder: Any) -> None:
    holder.server.add_fault(Fault("GET", BLOB, None, kind="status", skip=1))
    assert [(await holder("GET", PATH)).status for _ in range(4)] == [200, 500, 500, 500]
    holder.server.faults.clear()
    assert (await holder("GET", PATH)).status == 200


async def test_throttling_says_when_to_come_again(holder: Any) -> None:
    holder.server.add_fault(Fault("GET", BLOB, kind="throttle", retry_after="7"))
    answer = await holder("GET", PATH)
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (429, "TOOMANYREQUESTS", "7")


async def test_a_reset_before_the_answer(holder: Any) -> None:
    holder.server.add_fault(Fault("GET", BLOB, 2, kind="reset"))  # aiohttp tries a GET once more by itself
    with pytest.raises(BROKEN):
        await holder("GET", PATH)
    assert holder.server.requests[-1].status == 0
    assert (await holder("GET", PATH)).body == DATA


@pytest.mark.parametrize("kind", ["reset", "truncate"])
async def test_a_body_that_ends_in_its_midst(holder: Any, kind: Any) -> None:
    holder.server.add_fault(Fault("GET", BLOB, kind=kind, after=100_000))
    got = b""
    with pytest.raises(BROKEN):
        async with holder.session.get(f"http://{holder.server.address}{PATH}") as response:
            assert response.headers["Content-Length"] == str(len(DATA))
            async for piece in response.content.iter_any():
                got += piece
    assert DATA.startswith(got) and len(got) <= 100_000
    rest = await holder("GET", PATH, Range=f"bytes={len(got)}-")
    assert got + rest.body == DATA


async def test_a_resumed_body_can_break_again(holder: Any) -> None:
    holder.server.add_fault(Fault("GET", BLOB, kind="truncate", after=1000))
    with pytest.raises(BROKEN):
        await holder("GET", PATH, Range="bytes=1000-")
    assert (holder.server.requests[-1].status, holder.server.requests[-1].sent) == (206, 1000)


async def test_a_corrupt_body_differs_in_one_byte(holder: Any) -> None:
    holder.server.add_fault(Fault("GET", BLOB, kind="corrupt"))
    answer = await holder("GET", PATH)
    assert len(answer.body) == len(DATA)
    assert sum(a != b for a, b in zip(answer.body, DATA, strict=True)) == 1


async def test_a_corrupt_manifest(client: Any) -> None:
    raw = await client.image("a", "v1")
    client.server.add_fault(Fault("GET", r".*/manifests/v1", kind="corrupt"))
    assert (await client("GET", "/v2/a/manifests/v1")).body != raw
    assert (await client("GET", "/v2/a/manifests/v1")).body == raw


async def test_a_slow_body_arrives_whole(holder: Any) -> None:
    holder.server.add_fault(Fault("GET", BLOB, kind="slow", after=200_000, delay=0.02))
    begin = anyio.current_time()
    assert (await holder("GET", PATH)).body == DATA
    assert anyio.current_time() - begin >= 0.04


async def test_a_slow_upload_arrives_whole(client: Any) -> None:
    client.server.add_fault(Fault("PATCH", kind="slow", after=200_000, delay=0.02))
    where = await client.upload()
    begin = anyio.current_time()
    assert (await client("PATCH", where, DATA)).status == 202
    assert anyio.current_time() - begin >= 0.04
    assert (await client("PUT", f"{where}?digest={sha256(DATA)}")).status == 201


async def test_a_stalled_answer_comes_too_late_for_the_impatient(holder: Any) -> None:
    holder.server.add_fault(Fault("GET", BLOB, kind="stall", delay=60))
    with anyio.move_on_after(0.05) as scope:
        await holder("GET", PATH)
    assert scope.cancelled_caught


async def test_an_upload_whose_connection_breaks_goes_on_where_it_was(client: Any) -> None:
    client.server.add_fault(Fault("PATCH", kind="reset", after=150_000))
    where = await client.upload()
    with pytest.raises(BROKEN):
        await client("PATCH", where, DATA)
    status = await client("GET", where)
    assert status.headers["Range"] == "0-149999"
    assert (await client("PATCH", where, DATA[150_000:], Content_Range=f"150000-{len(DATA) - 1}")).status == 202
    assert (await client("PUT", f"{where}?digest={sha256(DATA)}")).status == 201


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_lost_upload_has_to_begin_anew(client: Any, method: str) -> None:
    where = await client.upload()
    client.server.add_fault(Fault(method, kind="lost-upload"))
    answer = await client(method, f"{where}?digest={sha256(DATA)}", DATA)
    assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert (await client("GET", where)).status == 404


async def test_a_digest_header_that_lies(client: Any) -> None:
    raw = await client.image("a", "v1")
    client.server.add_fault(Fault("HEAD", kind="wrong-digest"))
    assert (await client("HEAD", "/v2/a/manifests/v1")).headers["Docker-Content-Digest"] != sha256(raw)
    assert (await client("HEAD", "/v2/a/manifests/v1")).headers["Docker-Content-Digest"] == sha256(raw)


async def test_a_refused_mount_becomes_an_upload(holder: Any) -> None:
    holder.server.add_fault(Fault("POST", kind="no-mount"))
    path = f"/v2/b/blobs/uploads/?mount={sha256(DATA)}&from=a"
    assert [(await holder("POST", path)).status for _ in range(2)] == [202, 201]


async def test_a_registry_without_ranges(holder: Any) -> None:
    holder.server.add_fault(Fault("GET", kind="no-range"))
    answer = await holder("GET", PATH, Range="bytes=5-")
    assert (answer.status, answer.body) == (200, DATA)


async def test_an_immutable_tag_can_be_put_again_only_with_the_same(client: Any) -> None:
    client.server.add_fault(Fault("PUT", r".*/manifests/.*", None, kind="immutable"))
    raw = await client.image("a", "v1")
    assert (await client("PUT", "/v2/a/manifests/v1", raw, Content_Type=MANIFEST)).status == 201
    client.server.faults.clear()
    other = await client.image("a", "v2", b"other")
    client.server.add_fault(Fault("PUT", r".*/manifests/.*", None, kind="immutable"))
    answer = await client("PUT", "/v2/a/manifests/v1", other, Content_Type=MANIFEST)
    assert (answer.status, answer.code) == (403, "DENIED")
    assert (await client("GET", "/v2/a/manifests/v1")).body == raw


async def test_writes_can_be_refused(holder: Any) -> None:
    holder.server.add_fault(Fault(times=None, kind="read-only", status=403))
    assert (await holder("POST", "/v2/a/blobs/uploads/")).status == 403
    assert (await holder("GET", PATH)).status == 200


def test_a_fault_with_a_pattern_that_is_none_is_a_mistake() -> None:
    import re

    with pytest.raises(re.error):
        Fault("GET", "(")


async def test_leaving_ends_what_is_under_way(tmp_path: Path) -> None:
    from engine.registry.server.server import RegistryServer

    fault = Fault(path="/v2/", kind="stall", delay=60)
    async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
        begin = anyio.current_time()
        async with RegistryServer(tmp_path, faults=[fault], grace=0.01) as server:

            async def ask() -> None:
                with pytest.raises(BROKEN):
                    await session.get(f"http://{server.address}/v2/")

            group.start_soon(ask)
            with anyio.fail_after(5):
                while not server.requests:
                    await anyio.lowlevel.checkpoint()
    assert anyio.current_time() - begin < 10
