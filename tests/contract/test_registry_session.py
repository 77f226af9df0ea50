"""Exchanges over connections of our own: how connections are used, and ended, by a server that is told what to do with each."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from engine.errors import RegistryError
from engine.registry.exchange import FilePart, Request
from engine.registry.retry import TransientError
from tests.contract.registries import RunningRegistry
from tests.contract.registry_fixtures.wire import Deed, Server, anyio_backend, ask, end, linger, reset, running, whole

__all__ = ["anyio_backend"]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_one_connection_serves_requests_that_follow_each_other() -> None:
    server = Server(OK, OK, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with running(server) as session:
        for method in ("GET", "POST", "HEAD"):
            assert (await whole(session, ask(server, method)))[0] == 200
    assert server.connections == 1
    assert server.requests[0].split(b"\r\n")[2:5] == [b"User-Agent: agent", b"Accept: */*", b"Accept-Encoding: identity"]


async def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", OK)
    async with running(server) as session:
        for _ in range(2):
            await whole(session, ask(server))
    assert server.connections == 2


@pytest.mark.parametrize("end", [end, reset], ids=["closed", "reset"])
async def test_a_kept_connection_that_the_server_has_ended_costs_no_attempt(end: Deed) -> None:
    server = Server(OK, end, OK)
    async with running(server) as session:
        await whole(session, ask(server))
        assert await whole(session, ask(server)) == (200, b"ok")
    assert (server.connections, len(server.requests)) == (2, 3)


async def test_what_may_have_been_done_is_not_sent_again_by_itself(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x")
    for method, body in (("POST", b"x"), ("PUT", FilePart(tmp_path / "blob", 0, 1))):
        server = Server(OK, end, OK)
        async with running(server) as session:
            await whole(session, ask(server))
            with pytest.raises(TransientError, match="broke: closed by the other side"):
                await whole(session, ask(server, method, body))
        assert len(server.requests) == 2


async def test_a_new_connection_that_ends_is_a_failure() -> None:
    server = Server(end, OK)
    async with running(server) as session:
        with pytest.raises(TransientError, match="closed by the other side") as raised:
            await whole(session, ask(server))
    assert raised.value.reached
    assert len(server.requests) == 1


async def test_a_connection_that_ended_while_it_was_kept_is_not_used(tmp_path: Path) -> None:
    """So what must not be sent twice is sent once."""
    (tmp_path / "blob").write_bytes(b"x")

    async def last(stream: ByteStream) -> None:
        await stream.send(OK)

    server = Server(last, b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    async with running(server) as session:
        assert await whole(session, ask(server)) == (200, b"ok")
        with anyio.fail_after(5):
            while server.open:
                await checkpoint()
        assert await whole(session, ask(server, "PUT", FilePart(tmp_path / "blob", 0, 1))) == (201, b"")
    assert (server.connections, len(server.requests)) == (2, 2)


async def test_a_request_that_was_answered_in_part_is_not_sent_again_by_itself() -> None:
    async def begin(stream: ByteStream) -> None:
        await stream.send(b"HTTP/1.1 2")

    server = Server(OK, begin, OK)
    async with running(server) as session:
        await whole(session, ask(server))
        with pytest.raises(TransientError, match="broke: closed by the other side"):
            await whole(session, ask(server))
    assert len(server.requests) == 2


@pytest.mark.parametrize("said", [b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"x"])
async def test_a_connection_over_which_something_came_unasked_is_not_used(said: bytes) -> None:
    server = Server(OK + said, OK)
    async with running(server) as session:
        assert await whole(session, ask(server)) == (200, b"ok")
        assert await whole(session, ask(server)) == (200, b"ok")
    assert server.connections == 2


async def test_a_body_that_breaks_off_fails_who_wants_it_whole_and_no_one_else() -> None:
    server = Server(*[b"HTTP/1.1 500 No\r\nContent-Length: 50\r\nX: close\r\n\r\nsorry"] * 3)
    async with running(server) as session:
        answer = await session.send(ask(server))
        assert (answer.status, await answer.head(1000)) == (500, b"sorry")
        with pytest.raises(TransientError, match="the answer ended too early"):
            await answer.read(1000)
        answer.close()
        with pytest.raises(TransientError, match="the answer ended too early"):
            await whole(session, ask(server))
        answer, got = await session.send(ask(server)), []
        with pytest.raises(TransientError, match="the answer ended too early"):
            async for part in answer.parts():
                got.append(part)
        assert got == [b"sorry"]
        answer.close()


async def test_a_body_that_is_longer_than_wanted_is_not_read_on() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + b"x" * 50, OK)
    async with running(server) as session:
        answer = await session.send(ask(server))
        with pytest.raises(RegistryError, match="sent more than 49 bytes"):
            await answer.read(49)
        answer.close()


async def test_what_does_not_speak_http_is_told() -> None:
    server = Server(b"+OK POP3 close\r\n")
    async with running(server) as session:
        with pytest.raises(RegistryError, match="does not speak HTTP: it begins with '\\+OK POP3 close'") as raised:
            await whole(session, ask(server))
    assert not isinstance(raised.value, TransientError)


async def test_a_server_that_says_nothing_is_waited_for_no_longer_than_that() -> None:
    server = Server(linger, linger)
    with anyio.fail_after(5):
        async with running(server, idle=0.05, answer=0.1) as session:
            for method in ("GET", "PUT"):
                with pytest.raises(TransientError, match="broke: no data in time"):
                    await whole(session, ask(server, method))


async def test_a_request_that_is_cancelled_leaves_no_connection() -> None:
    asked = anyio.Event()

    async def wait(stream: ByteStream) -> None:
        asked.set()
        await stream.receive()  # until the other side ends it

    server = Server(wait)
    with anyio.fail_after(5):
        async with running(server) as session:
            async with anyio.create_task_group() as group:
                group.start_soon(session.send, ask(server))
                await asked.wait()
                group.cancel_scope.cancel()
            while server.open:
                await checkpoint()


async def test_closing_closes_the_connections_that_are_kept() -> None:
    server = Server(OK, OK)
    with anyio.fail_after(5):
        async with running(server) as session:
            await whole(session, ask(server))
            assert server.open == 1
            session.close()
            while server.open:
                await checkpoint()
            await whole(session, ask(server))  # which opens a new one


async def test_a_short_file_is_sent_and_told_of(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"0123456789")
    moved: list[int] = []
    server = Server(OK)
    async with running(server) as session:
        await whole(session, ask(server, "PUT", FilePart(tmp_path / "blob", 2, 5, moved.append)))
        assert server.requests[0].endswith(b"Content-Length: 5\r\n\r\n23456")
        assert moved == [5]
        with pytest.raises(TransientError, match="became shorter"):
            await whole(session, ask(server, "PUT", FilePart(tmp_path / "blob", 8, 5)))


@pytest.mark.parametrize("own", [False, True])
async def test_a_login_in_a_url_is_a_header_unless_there_is_one(own: bool) -> None:
    """Storage behind registries may be redirected to so."""
    server = Server(OK)
    async with running(server) as session:
        asked = ask(server)
        url = asked.url.replace("://", "://anna:p%40ss@")
        await whole(session, replace(asked, url=url, headers={"Authorization": "Bearer x"} if own else {}))
    lines = server.requests[0].split(b"\r\n")
    assert f"Host: {server.url.rpartition('/')[2]}".encode() in lines
    assert [line for line in lines if b"Authorization" in line] == [
        b"Authorization: " + (b"Bearer x" if own else b"Basic " + b64encode(b"anna:p@ss"))]  # fmt: skip


def test_blobs_go_both_ways_without_aiohttp(docker_registry: RunningRegistry, repository: str) -> None:
    """Importing it takes as long as a small build."""
    code = f"""
import anyio, sys, hashlib, pathlib, tempfile
from engine.image.descriptor import OCTETS, Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.registry.client import RegistryClient
from engine.registry.credentials import Credentials
async def main():
    limit, data = anyio.CapacityLimiter(1), bytes(3 << 20)
    client = RegistryClient(credentials=Credentials({{}}, {{}}), insecure=frozenset(), downloads=limit, uploads=limit)
    reference, blob = Reference.parse("{docker_registry.address}/{repository}:1"), Descriptor(OCTETS, Digest.of(data), len(data))
    with tempfile.NamedTemporaryFile() as file:
        pathlib.Path(file.name).write_bytes(data)
        assert await client.push_blob(reference, blob, pathlib.Path(file.name))
    assert b"".join([part async for part in client.blob(reference, blob)]) == data
    await client.aclose()
anyio.run(main)
assert "aiohttp" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("proxy", ["http://[::1", "http://user:word@[x", "http://\udcff@proxy:1"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_none_is_said_so(proxy: str, scheme: str) -> None:
    server = Server()
    environment = {"http_proxy": proxy, "https_proxy": proxy}
    async with running(server, environment=environment) as session:
        with pytest.raises(RegistryError):
            await session.send(replace(ask(server), url=f"{scheme}://registry.example/v2/"))


async def test_a_handshake_that_is_broken_off_may_go_well_the_next_time() -> None:
    """A registry, or what is before it, ends connections when it has too much to do, or starts anew."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, running(Server()) as session:
        port = listener.extra(SocketAttribute.local_port)

        async def hang_up(stream: ByteStream) -> None:
            await stream.receive()
            await stream.aclose()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, hang_up)
            try:
                await session.send(Request("GET", f"https://127.0.0.1:{port}/v2/", "registry", "GET it"))
            except RegistryError as error:
                raised = error
            tasks.cancel_scope.cancel()
    assert isinstance(raised, TransientError)
    assert "no TLS connection" in raised.message
    assert raised.hint
    assert not raised.reached
