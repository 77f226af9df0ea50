"""Short exchanges over connections of our own: how connections are used, and ended, by a server that is told what to do with each."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint

from engine.errors import RegistryError
from engine.registry.direct import LONGEST_REQUEST, DirectSession
from engine.registry.exchange import FilePart, Request, Timeouts
from engine.registry.retry import TransientError
from engine.registry.tls import Contexts

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request with the next of `answers` (each of them bytes, or something to do with the stream), and counts."""

    def __init__(self, *answers: bytes | Callable[[SocketStream], object]) -> None:
        self.answers, self.requests, self.connections, self.open, self.url = list(answers), list[bytes](), 0, 0, ""

    async def serve(self, stream: SocketStream) -> None:
        self.connections += 1
        self.open += 1
        try:
            async with stream:
                while (request := await self._request(stream)) and self.answers:
                    self.requests.append(request)
                    answer = self.answers.pop(0)
                    if not isinstance(answer, bytes):
                        answer(stream)
                        return
                    await stream.send(answer)
                    if b"close" in answer:
                        return
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            pass
        finally:
            self.open -= 1

    async def _request(self, stream: SocketStream) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
        while len(body) < length:
            body += await stream.receive()
        return head + b"\r\n\r\n" + body


@asynccontextmanager
async def running(server: Server, idle: float = 5.0) -> AsyncIterator[DirectSession]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
    session = DirectSession("agent", Contexts(None), Timeouts(connect=5, idle=idle), {})
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, server.serve)
        try:
            yield session
        finally:
            await session.aclose()
            group.cancel_scope.cancel()
    await listener.aclose()


def ask(server: Server, method: str = "GET", body: bytes | FilePart | None = None, most: int | None = 1000) -> Request:
    return Request(method, f"{server.url}/v2/", server.url.removeprefix("http://"), f"{method} it", body=body, most=most)


def reset(stream: SocketStream) -> None:
    """Has the end of the connection be a reset."""
    stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def test_one_connection_serves_requests_that_follow_each_other() -> None:
    server = Server(OK, OK, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with running(server) as session:
        for method in ("GET", "POST", "HEAD"):
            assert (await session.send(ask(server, method))).status == 200
    assert server.connections == 1
    assert server.requests[0].split(b"\r\n")[2:5] == [b"User-Agent: agent", b"Accept: */*", b"Accept-Encoding: identity"]


async def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", OK)
    async with running(server) as session:
        for _ in range(2):
            await session.send(ask(server))
    assert server.connections == 2


@pytest.mark.parametrize("end", [lambda stream: None, reset], ids=["closed", "reset"])
async def test_a_kept_connection_that_the_server_has_ended_costs_no_attempt(end: Callable[[SocketStream], object]) -> None:
    server = Server(OK, end, OK)
    async with running(server) as session:
        await session.send(ask(server))
        assert await (await session.send(ask(server))).read(2) == b"ok"
    assert (server.connections, len(server.requests)) == (2, 3)


async def test_what_may_have_been_done_is_not_sent_again_by_itself(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x")
    for method, body in (("POST", b"x"), ("PUT", FilePart(tmp_path / "blob", 0, 1))):
        server = Server(OK, lambda stream: None, OK)
        async with running(server) as session:
            await session.send(ask(server))
            with pytest.raises(TransientError, match="broke: closed by the other side"):
                await session.send(ask(server, method, body))
        assert len(server.requests) == 2


async def test_a_new_connection_that_ends_is_a_failure() -> None:
    server = Server(lambda stream: None, OK)
    async with running(server) as session:
        with pytest.raises(TransientError, match="closed by the other side") as raised:
            await session.send(ask(server))
    assert raised.value.reached
    assert len(server.requests) == 1


async def test_a_body_that_breaks_off_fails_who_wants_it_whole_and_no_one_else() -> None:
    server = Server(b"HTTP/1.1 500 No\r\nContent-Length: 50\r\nX: close\r\n\r\nsorry")
    async with running(server) as session:
        answer = await session.send(ask(server))
        assert (answer.status, await answer.head(1000)) == (500, b"sorry")
        with pytest.raises(TransientError, match="the answer ended too early"):
            await answer.read(1000)
        got = []
        with pytest.raises(TransientError, match="the answer ended too early"):
            async for part in answer.parts():
                got.append(part)
        assert got == [b"sorry"]


async def test_what_does_not_speak_http_is_told() -> None:
    server = Server(b"+OK POP3 close\r\n")
    async with running(server) as session:
        with pytest.raises(RegistryError, match="does not speak HTTP: it begins with '\\+OK POP3 close'") as raised:
            await session.send(ask(server))
    assert not isinstance(raised.value, TransientError)


async def test_a_server_that_says_nothing_is_waited_for_no_longer_than_that() -> None:
    over = anyio.Event()

    class Silent(Server):
        async def serve(self, stream: SocketStream) -> None:
            async with stream:
                await over.wait()

    server = Silent()
    with anyio.fail_after(5):
        async with running(server, idle=0.05) as session:
            with pytest.raises(TransientError, match="broke: no data in time"):
                await session.send(ask(server))


async def test_a_request_that_is_cancelled_leaves_no_connection() -> None:
    server, asked = Server(), anyio.Event()

    async def wait(stream: SocketStream) -> bytes:
        request = await Server._request(server, stream)
        asked.set()
        await stream.receive()  # until the other side ends it
        return request

    server._request = wait  # type: ignore[method-assign]
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
            await session.send(ask(server))
            assert server.open == 1
            await session.aclose()
            while server.open:
                await checkpoint()
            await session.send(ask(server))  # which opens a new one


async def test_a_short_file_is_sent_and_told_of(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"0123456789")
    moved: list[int] = []
    server = Server(OK)
    async with running(server) as session:
        await session.send(ask(server, "PUT", FilePart(tmp_path / "blob", 2, 5, moved.append)))
        assert server.requests[0].endswith(b"Content-Length: 5\r\n\r\n23456")
        assert moved == [5]
        with pytest.raises(TransientError, match="became shorter"):
            await session.send(ask(server, "PUT", FilePart(tmp_path / "blob", 8, 5)))


def test_what_is_long_or_goes_another_way_is_left_to_others(tmp_path: Path) -> None:
    proxies = {"http_proxy": "http://proxy:3128", "no_proxy": "direct.example"}
    session = DirectSession("agent", Contexts(None), Timeouts(), proxies)

    def takes(url: str = "http://direct.example/v2/", body: bytes | FilePart | None = None, most: int | None = 1) -> bool:
        return session.takes(Request("GET", url, "registry", "what", body=body, most=most))

    assert takes()
    assert takes("http://127.0.0.1:5000/v2/a?b=c")
    assert takes("https://other.example")
    assert takes(body=b"x" * LONGEST_REQUEST)
    assert not takes(body=b"x" * (LONGEST_REQUEST + 1))
    assert not takes(body=FilePart(tmp_path, 0, LONGEST_REQUEST + 1))
    assert not takes(most=None)
    assert not takes(most=1 << 30)
    assert not takes("http://proxied.example/v2/")
    assert not takes("http://user:password@direct.example/v2/")
    assert not takes("http://direct.example/a b")


def test_short_requests_do_without_aiohttp() -> None:
    code = """
import anyio, sys
from pathlib import Path
from engine.errors import RegistryError
from engine.image.reference import Reference
from engine.registry.client import RegistryClient
from engine.registry.credentials import Credentials
async def main():
    limit = anyio.CapacityLimiter(1)
    client = RegistryClient(credentials=Credentials({}, {}), insecure=frozenset(), downloads=limit, uploads=limit)
    for ask in (client.resolve, client.manifest, client.tags):
        try:
            await ask(Reference.parse("127.0.0.1:1/app:1"))
        except RegistryError as error:
            assert "connection refused" in error.message
    await client.aclose()
anyio.run(main)
assert "aiohttp" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
