"""Bodies on their way in and out, with what faults do to them."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import aiofiles
import anyio
from aiohttp import web
from msgspec import Struct

from engine.registry.server.faults import Fault
from engine.registry.server.refusals import Refusal

_PIECE = 16 << 10
_READ = 256 << 10


class Exchange(Struct):
    """One request and what became of it: the bytes of both bodies, without headers. It is in the log from the moment the
    request has arrived, and what the answer says is in it before the client can see the answer."""

    method: str
    path: str
    query: str = ""
    status: int = 0
    received: int = 0
    sent: int = 0
    fault: Fault | None = None


EXCHANGE = web.RequestKey("exchange", Exchange)


class Reset(Exception):
    """The connection has been reset on purpose; there is nobody left to answer."""


def reset(request: web.Request) -> Reset:
    """Resets the connection (RST, not FIN); returns what the handler is to raise."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return Reset()


async def receive(request: web.Request) -> AsyncIterator[bytes]:
    """The request's body as it arrives, in pieces of what has gathered meanwhile (2 MiB at most: reading stops then)."""
    exchange = request[EXCHANGE]
    fault = exchange.fault
    if fault is None or fault.kind not in ("reset", "slow"):
        while data := await request.content.readany():
            exchange.received += len(data)
            yield data
        return
    while data := await request.content.read(_PIECE if fault.after is None else max(1, fault.after)):
        if fault.kind == "slow":
            await anyio.sleep(fault.delay)
        elif exchange.received + len(data) > (fault.after or 0):
            yield data[: (fault.after or 0) - exchange.received]
            raise reset(request)
        exchange.received += len(data)
        yield data


async def receive_small(request: web.Request, limit: int) -> bytes:
    """The request's body whole; raises `Refusal` with status 413 when it is larger than `limit` bytes."""
    parts, size = [], 0
    too_large = Refusal("SIZE_INVALID", {"limit": limit}, status=413, message="content is too large")
    if (request.content_length or 0) > limit:
        raise too_large
    async for data in receive(request):
        size += len(data)
        if size > limit:
            raise too_large
        parts.append(data)
    return b"".join(parts)


async def send(request: web.Request, content: Path | bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Answers a GET or HEAD with a file or bytes; Range requests are answered as such (from files)."""
    fault = request[EXCHANGE].fault
    if fault is None or fault.kind not in ("reset", "truncate", "corrupt", "slow", "no-range"):
        if isinstance(content, Path):
            return web.FileResponse(content, chunk_size=_READ, headers=headers)
        return web.Response(body=content, headers=headers)
    return await _send_badly(request, content, headers, fault)


async def _send_badly(request: web.Request, content: Path | bytes, headers: dict[str, str], fault: Fault) -> web.StreamResponse:
    data_size = content.stat().st_size if isinstance(content, Path) else len(content)
    start = 0 if fault.kind == "no-range" else _range_start(request, data_size)
    size = data_size - start
    response = web.StreamResponse(status=206 if start else 200, headers=headers)
    response.content_length = size
    if start:
        response.headers["Content-Range"] = f"bytes {start}-{data_size - 1}/{data_size}"
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    limit = size
    if fault.kind in ("truncate", "reset"):
        limit = min(size, size // 2 if fault.after is None else fault.after)
    request[EXCHANGE].sent = limit
    piece = (fault.after or _PIECE) if fault.kind == "slow" else _READ
    done = 0
    async for data in _pieces(content, start, limit, piece):
        if fault.kind == "slow":
            await anyio.sleep(fault.delay)
        elif fault.kind == "corrupt" and done <= size // 2 < done + len(data):
            at = size // 2 - done
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        await response.write(data)
        done += len(data)
    if fault.kind == "reset":
        raise reset(request)
    if limit < size:
        response.force_close()
        if request.transport is not None:
            request.transport.close()
        raise Reset
    await response.write_eof()
    return response


async def _pieces(content: Path | bytes, start: int, size: int, piece: int) -> AsyncIterator[bytes]:
    if isinstance(content, bytes):
        for at in range(start, start + size, piece):
            yield content[at : min(at + piece, start + size)]
        return
    async with aiofiles.open(content, "rb") as file:
        await file.seek(start)
        while size > 0 and (data := await file.read(min(piece, size))):
            size -= len(data)
            yield data


def _range_start(request: web.Request, size: int) -> int:
    start = request.http_range.start
    return start if start and 0 < start < size else 0
