"""A server that is told, byte by byte, what to do with each request: for what no HTTP server can be made to do."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

from engine.registry.exchange import FilePart, GrowingPart, Request, Timeouts
from engine.registry.session import Response, Session
from engine.registry.tls import Contexts


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops: a program that embeds the engine has its own, the command uvloop."""
    return "asyncio", {"use_uvloop": request.param}


Deed = Callable[[ByteStream], Awaitable[object]]


class Server:
    """Answers each request with the next of `answers`: bytes, or something that is done with the connection, which then ends.
    Counts, and keeps what it was sent. `patient` is whether it reads a request's body before it answers."""

    def __init__(self, *answers: bytes | Deed, patient: bool = True) -> None:
        self.answers, self.patient = list(answers), patient
        self.requests, self.connections, self.open, self.url = list[bytes](), 0, 0, ""

    async def serve(self, stream: ByteStream) -> None:
        self.connections += 1
        self.open += 1
        if (transport := getattr(stream, "_transport", None)) is not None:
            transport.pause_reading()  # anyio begins to read by itself, and stops when somebody has waited for it
        try:
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
                while self.answers:
                    self.requests.append(await self.request(stream))
                    answer = self.answers.pop(0)
                    if not isinstance(answer, bytes):
                        await answer(stream)
                        return
                    await stream.send(answer)
                    if b"close" in answer:
                        return
        finally:
            await anyio.aclose_forcefully(stream)
            self.open -= 1

    async def request(self, stream: ByteStream) -> bytes:
        """The next request."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
        while self.patient and len(body) < length:
            body += await stream.receive()
        return head + b"\r\n\r\n" + body


@asynccontextmanager
async def running(server: Server, idle: float = 5.0, *, answer: float = 5.0, tls: ssl.SSLContext | None = None,
                  environment: Mapping[str, str] | None = None, ca_file: Path | None = None) -> AsyncIterator[Session]:
    """Runs the server, and gives a session to talk to it."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
    for each in listener.listeners:  # what is not read shall not be taken by the kernel instead
        each.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    timeouts = Timeouts(connect=5, idle=idle, answer=answer)
    session = Session("agent", Contexts(ca_file), timeouts, environment or {})
    async with listener, anyio.create_task_group() as group:
        serving = TLSListener(listener, tls, standard_compatible=False) if tls else listener
        group.start_soon(serving.serve, server.serve)
        failure: Exception | None = None
        try:
            yield session
        except Exception as error:  # it would come out of the task group in an exception group
            failure = error
        finally:
            session.close()
            group.cancel_scope.cancel()
    if failure:
        raise failure


def ask(server: Server, method: str = "GET", body: bytes | FilePart | GrowingPart | None = None) -> Request:
    """A request to the server."""
    return Request(method, f"{server.url}/v2/", server.url.rpartition("/")[2], f"{method} it", body=body, verify=False)


async def whole(session: Session, request: Request) -> tuple[int, bytes]:
    """Status and body of the answer to a request."""
    response = await session.send(request)
    try:
        return response.status, await response.read(1 << 30)
    finally:
        response.close()


async def read(response: Response) -> bytes:
    """The body of an answer, part by part."""
    return b"".join([part async for part in response.parts()])


async def end(stream: ByteStream) -> None:
    """Nothing more is said."""


async def reset(stream: ByteStream) -> None:
    """Has the end of the connection be a reset."""
    stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def linger(stream: ByteStream) -> None:
    """Says nothing and reads nothing until the test is over."""
    await anyio.sleep_forever()
