"""One HTTP exchange: no retries, no redirects, no login, but every failure as an error that says what happened.

It is done with connections of our own, which do what registries need and no more: a package that can do everything takes 0.1 s to
import, and has every byte pass through the event loop. HTTP/1.1 it is on purpose: a blob over one HTTP/2 stream is slower.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping

import anyio
from msgspec import Struct

from engine.errors import RegistryError
from engine.registry import failures
from engine.registry.connection import Connection
from engine.registry.exchange import FilePart, GrowingPart, Request, Timeouts
from engine.registry.http1 import EarlyEndError, NoHttpError, Reader, head
from engine.registry.retry import TransientError
from engine.registry.route import Route, dial
from engine.registry.rules import Headers
from engine.registry.sending import send_body
from engine.registry.tls import Contexts

PART = 512 << 10
"""Bytes of a body that are received at once, at most."""
SHORT = 64 << 10
"""Bytes of a body that is sent before the answer is looked at: no more than the buffers of both sides take."""

_KEPT_SECONDS = 30.0
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_FAILURES = (NoHttpError, EarlyEndError, OSError)
_CUT_OFF = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN, errno.ENOTCONN})
"""What sending fails with when the other side has ended the connection; it may have said why."""


class _UnansweredError(Exception):
    """A connection ended before the first byte of an answer."""

    def __init__(self, why: TransientError) -> None:
        super().__init__(str(why))
        self.why = why


class _Kept(Struct):
    """A connection without a request, and since when that is so."""

    connection: Connection
    since: float


class _Incoming:
    """What comes over a connection. A part of it is waited for `patience` seconds."""

    def __init__(self, connection: Connection, patience: float) -> None:
        self._connection = connection
        self.patience = patience

    async def receive(self, limit: int) -> bytes:
        with anyio.fail_after(self.patience):
            return await self._connection.receive(limit)


class Response:
    """An answer whose body may still be on its way. To be closed, in any case and without waiting, with `close`."""

    def __init__(self, request: Request, status: int, headers: Headers, reader: Reader, release: Callable[[], None]) -> None:
        self.status, self.headers, self.url = status, headers, request.url
        self._request, self._reader, self._release = request, reader, release

    async def read(self, limit: int) -> bytes:
        """The whole body; raises `RegistryError` when it is larger than `limit` bytes, `TransientError` when it broke off."""
        parts, size = [], 0
        async for part in self.parts():
            size += len(part)
            if size > limit:
                raise failures.too_long(self._request, limit, self.status)
            parts.append(part)
        return b"".join(parts)

    async def head(self, limit: int) -> bytes:
        """The first bytes of the body, up to `limit`, as far as they arrive: for errors."""
        parts, size = [], 0
        try:
            async for part in self.parts():
                parts.append(part)
                size += len(part)
                if size >= limit:
                    break
        except RegistryError:
            pass
        return b"".join(parts)[:limit]

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it arrives, its Content-Encoding left alone (a blob is what is sent, gzip or not)."""
        while True:
            try:
                part = await self._reader.part(PART)
            except _FAILURES as error:
                raise _explain(error, self._request) from error
            if not part:
                return
            yield part

    def close(self) -> None:
        """Gives the connection back if the body was read to its end, else closes it."""
        self._release()


class Session:
    """The connections of one client. `environment` is where the proxies' variables are."""

    def __init__(self, user_agent: str, contexts: Contexts, timeouts: Timeouts, environment: Mapping[str, str]) -> None:
        self._headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._contexts = contexts
        self._timeouts = timeouts
        self._environment = environment
        self._kept: dict[Route, list[_Kept]] = {}

    async def send(self, request: Request) -> Response:
        """Sends a request and waits for the head of its answer. Raises `TransientError` or `RegistryError`."""
        try:
            route = Route.of(request, self._environment)
            headers = {**self._headers, **route.headers(request.url), **request.headers}
            data = head(request.method, route.target(request.url), route.host, headers, _length(request)) + _beginning(request)
        except ValueError as error:
            raise failures.not_asked(request, error) from error
        if kept := self._take(route):
            try:
                return await self._exchange(kept, route, request, data)
            except _UnansweredError as error:  # the other side may have closed it before it saw the request
                if request.method not in _REPEATABLE or isinstance(request.body, (FilePart, GrowingPart)):
                    raise error.why from error
        try:
            return await self._exchange(await dial(route, request, self._contexts, self._timeouts.connect), route, request, data)
        except _UnansweredError as error:
            raise error.why from error

    def close(self) -> None:
        """Closes the connections that have no request."""
        kept, self._kept = self._kept, {}
        for each in [each for some in kept.values() for each in some]:
            each.connection.close()

    def _take(self, route: Route) -> Connection | None:
        """A connection that is there, the one used last. Those that nobody used for long are closed, and those that have ended."""
        some = self._kept.get(route, [])
        while some:
            kept = some.pop()
            if time.monotonic() - kept.since < _KEPT_SECONDS and kept.connection.is_idle():
                return kept.connection
            kept.connection.close()
        return None

    async def _exchange(self, connection: Connection, route: Route, request: Request, data: bytes) -> Response:
        """One exchange over a connection, which the response keeps for the next one, or closes."""
        patience = self._timeouts.answer if request.method in ("PUT", "PATCH") else self._timeouts.idle
        incoming = _Incoming(connection, patience)
        reader, whole = Reader(incoming.receive), True
        try:
            length = _length(request)
            if length is None or length > SHORT:
                (status, headers), whole = await self._send_long(connection, request, data, reader, incoming)
            else:
                (status, headers) = await self._send_short(connection, request, data, reader)
        except EarlyEndError as error:
            connection.close()
            failure = failures.broken(request, "closed by the other side")
            if error.begun:
                raise failure from error
            raise _UnansweredError(failure) from error
        except ConnectionError as error:
            connection.close()
            raise _UnansweredError(failures.broken(request, _break(error))) from error
        except _FAILURES as error:
            connection.close()
            raise _explain(error, request) from error
        except BaseException:
            connection.close()
            raise

        def release() -> None:
            if whole and reader.is_whole():
                self._kept.setdefault(route, []).append(_Kept(connection, time.monotonic()))
            else:
                connection.close()

        return Response(request, status, headers, reader, release)

    async def _send_short(self, connection: Connection, request: Request, data: bytes, reader: Reader) -> tuple[int, Headers]:
        try:
            with anyio.fail_after(self._timeouts.idle):
                await connection.send(data)
        except ConnectionError:
            pass  # it may have answered all the same
        else:
            if isinstance(request.body, FilePart):
                request.body.moved(request.body.length)
        return await reader.head(request.method)

    async def _send_long(self, connection: Connection, request: Request, data: bytes, reader: Reader,
                         incoming: _Incoming) -> tuple[tuple[int, Headers], bool]:  # fmt: skip
        """The head of the answer, which may come before the body has been sent; and whether it has been."""
        body, failure, whole = request.body, None, False
        patience, incoming.patience = incoming.patience, math.inf
        found: tuple[int, Headers] | Exception | None = None
        answer = anyio.CancelScope()

        async def send() -> None:
            nonlocal failure, whole
            idle = self._timeouts.idle
            try:
                with anyio.fail_after(idle):
                    await connection.send(data)
                if isinstance(body, (FilePart, GrowingPart)):
                    await send_body(connection, body, idle)
                whole = True
            except OSError as error:
                failure = error
            incoming.patience = patience
            waits = patience if whole else idle if failure and failure.errno in _CUT_OFF else 0
            answer.deadline = anyio.current_time() + waits

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            with answer:
                try:
                    found = await reader.head(request.method)
                except _FAILURES as error:
                    found = error
            tasks.cancel_scope.cancel()
        if isinstance(found, tuple):
            return found, whole
        raise failure or found or TimeoutError


def _length(request: Request) -> int | None:
    """How long a body is; None when that is not known."""
    body = request.body
    return body.length if isinstance(body, (FilePart, GrowingPart)) else len(body or b"")


def _beginning(request: Request) -> bytes:
    """What of a body is sent with the head: all, unless it is a long file. Raises `TransientError` when a file is shorter."""
    part = request.body
    if part is None or isinstance(part, bytes):
        return part or b""
    if not isinstance(part, FilePart) or part.length > SHORT:
        return b""
    try:
        with open(part.path, "rb") as file:
            file.seek(part.offset)
            data = file.read(part.length)
    except OSError as error:
        raise failures.broken(request, failures.words(error)) from error
    if len(data) < part.length:
        raise failures.broken(request, f"{part.path} became shorter while it was sent")
    return data


def _explain(error: Exception, request: Request) -> RegistryError:
    """The error for people that a failed exchange stands for: `TransientError` when it may pass."""
    if isinstance(error, NoHttpError):
        return failures.no_http(request, str(error))
    return failures.broken(request, _break(error))


def _break(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no data in time"
    return failures.words(error) if isinstance(error, OSError) else str(error)
