"""Short exchanges with registries, over connections of our own: what has nothing but a manifest, a token, or a small blob to carry.

They are most of the requests of most builds, and all of those of a build in which nothing has changed; with these few lines such a
build does without aiohttp, the import of which took a quarter of it. What is long, or goes through a proxy, is aiohttp's
(`engine.registry.session`), which has the same contract: no retries, no redirects, no login, every failure an error that says what
happened.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream
from msgspec import Struct

from engine.errors import RegistryError
from engine.registry import failures
from engine.registry.exchange import FilePart, GrowingPart, Request, Timeouts
from engine.registry.http1 import EarlyEndError, NoHttpError, Reader, can_ask_for, head
from engine.registry.rules import ERROR_BODY_LIMIT, Headers, origin, proxy_for
from engine.registry.tls import Contexts

LONGEST_ANSWER = 8 << 20
"""Bytes of a body that are held in memory."""
LONGEST_REQUEST = 64 << 10
"""Bytes of a body that are sent before the answer is looked at: no more than the buffers of both sides take."""
SMALL_BLOB = 256 << 10
"""Bytes up to which a blob is got this way."""

_KEPT_SECONDS = 30.0
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_RECEIVE_SIZE = 256 << 10
_Way = tuple[str, str, bool]
"""Scheme, host and port, and whether the certificate must be good."""


class DirectResponse:
    """An answer, already here: `Response` of `engine.registry.exchange`. `failure` is what its body ended with."""

    def __init__(self, request: Request, status: int, headers: Headers, body: bytes, failure: RegistryError | None) -> None:
        self.status, self.headers, self.url = status, headers, request.url
        self._request, self._body, self._failure = request, body, failure

    async def read(self, limit: int) -> bytes:
        """The whole body; raises `RegistryError` when it is larger than `limit` bytes."""
        if len(self._body) > limit:
            raise failures.too_long(self._request, limit, self.status)
        if self._failure:
            raise self._failure
        return self._body

    async def head(self, limit: int) -> bytes:
        """The first bytes of the body, as far as they arrived."""
        return self._body[:limit]

    async def parts(self) -> AsyncIterator[bytes]:
        """The body, and the failure that it ended with."""
        if self._body:
            yield self._body
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Nothing is left to close."""


class _UnansweredError(Exception):
    """A connection ended before the first byte of an answer; the text says how."""


class _Kept(Struct):
    """A connection without a request, and since when that is so."""

    stream: ByteStream
    since: float


class DirectSession:
    """The connections of one client."""

    def __init__(self, user_agent: str, contexts: Contexts, timeouts: Timeouts, environment: Mapping[str, str]) -> None:
        self._headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._contexts = contexts
        self._timeouts = timeouts
        self._environment = environment
        self._kept: dict[_Way, list[_Kept]] = {}

    def takes(self, request: Request) -> bool:
        """Whether a request is short, and can be sent without anything between."""
        body = request.body
        if isinstance(body, GrowingPart):
            return False
        length = body.length if isinstance(body, FilePart) else len(body or b"")
        if request.most is None or request.most > LONGEST_ANSWER or length > LONGEST_REQUEST:
            return False
        parts = urlsplit(request.url)
        return "@" not in parts.netloc and can_ask_for(_target(request.url)) and not proxy_for(request.url, self._environment)

    async def send(self, request: Request) -> DirectResponse:
        """Sends a request and waits for its answer. Raises `TransientError` or `RegistryError`."""
        body = _body(request)
        way = (*origin(request.url), request.verify)
        try:
            data = head(request.method, _target(request.url), way[1], {**self._headers, **request.headers}, len(body)) + body
        except ValueError as error:
            raise failures.not_asked(request, error) from error
        stream = await self._take(way)
        if stream is not None:
            try:
                return await self._exchange(stream, way, request, data)
            except _UnansweredError as error:  # the other side may have closed it before it saw the request
                if request.method not in _REPEATABLE or isinstance(request.body, FilePart):
                    raise failures.broken(request, str(error)) from error
        try:
            return await self._exchange(await self._connect(way, request), way, request, data)
        except _UnansweredError as error:
            raise failures.broken(request, str(error)) from error

    async def aclose(self) -> None:
        """Closes all connections."""
        kept, self._kept = self._kept, {}
        for each in [each for some in kept.values() for each in some]:
            await anyio.aclose_forcefully(each.stream)

    async def _take(self, way: _Way) -> ByteStream | None:
        """A connection that is there, the one used last; those that nobody used for long are closed."""
        some = self._kept.get(way, [])
        while some:
            kept = some.pop()
            if time.monotonic() - kept.since < _KEPT_SECONDS:
                return kept.stream
            await anyio.aclose_forcefully(kept.stream)
        return None

    async def _connect(self, way: _Way, request: Request) -> ByteStream:
        parts = urlsplit(request.url)
        host = parts.hostname or ""
        try:
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            with anyio.fail_after(self._timeouts.connect):
                if parts.scheme == "http":
                    return await anyio.connect_tcp(host, port)
                return await anyio.connect_tcp(host, port, ssl_context=self._contexts.get(request.verify), tls_hostname=host,
                                               tls_standard_compatible=False)  # fmt: skip
        except (OSError, ValueError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise _unreached(error, request) from error

    async def _exchange(self, stream: ByteStream, way: _Way, request: Request, data: bytes) -> DirectResponse:
        """One exchange over a connection, which is kept for the next one or closed."""
        reusable = False
        patience = self._timeouts.answer if request.method in ("PUT", "PATCH") else self._timeouts.idle

        async def receive() -> bytes:
            with anyio.fail_after(patience), suppress(anyio.EndOfStream):
                return await stream.receive(_RECEIVE_SIZE)
            return b""

        reader, failure = Reader(receive), None
        try:
            with anyio.fail_after(self._timeouts.idle), suppress(anyio.BrokenResourceError):  # it may have answered all the same
                await stream.send(data)
                if isinstance(request.body, FilePart):
                    request.body.moved(request.body.length)
            status, headers = await reader.head(request.method)
            try:
                reusable = await reader.body(max(request.most or 0, ERROR_BODY_LIMIT))
            except _FAILURES as error:
                failure = _explain(error, request)
        except EarlyEndError as error:
            if error.begun:
                raise failures.broken(request, "closed by the other side") from error
            raise _UnansweredError("closed by the other side") from error
        except anyio.BrokenResourceError as error:
            raise _UnansweredError(_break(error)) from error
        except _FAILURES as error:
            raise _explain(error, request) from error
        finally:
            if not reusable:
                with anyio.CancelScope(shield=True):
                    await anyio.aclose_forcefully(stream)
        if reusable:
            self._kept.setdefault(way, []).append(_Kept(stream, time.monotonic()))
        return DirectResponse(request, status, headers, bytes(reader.content), failure)


_FAILURES = (NoHttpError, EarlyEndError, anyio.BrokenResourceError, OSError)


def _explain(error: Exception, request: Request) -> RegistryError:
    """The error for people that a failed exchange stands for: `TransientError` when it may pass."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return failures.untrusted(request, error.verify_message or str(error))
    if isinstance(error, ssl.SSLError):
        return failures.no_tls(request, error.reason or str(error))
    if isinstance(error, NoHttpError):
        return failures.no_http(request, str(error))
    return failures.broken(request, _break(error))


def _break(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no data in time"
    if isinstance(error, EarlyEndError):
        return str(error)
    cause = error if isinstance(error, OSError) else error.__cause__
    return failures.words(cause) if isinstance(cause, OSError) else "closed by the other side"


def _unreached(error: Exception, request: Request) -> RegistryError:
    """What a connection that did not come about stands for."""
    if isinstance(error, TimeoutError):
        return failures.too_slow(request)
    if isinstance(error, socket.gaierror):
        return failures.no_name(request, error)
    if isinstance(error, ssl.SSLError):
        return _explain(error, request)
    if isinstance(error, OSError):
        cause = error.__cause__  # one attempt's error, or those of the attempts at several addresses
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[-1]
        return failures.unreachable(request, cause if isinstance(cause, OSError) else error)
    if isinstance(error, ValueError):
        return failures.not_asked(request, error)
    return failures.no_tls(request, "unexpected eof while reading")


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _body(request: Request) -> bytes:
    """The bytes to send; raises `TransientError` when a file has become shorter."""
    part = request.body
    if part is None or isinstance(part, bytes):
        return part or b""
    assert isinstance(part, FilePart)  # see `takes`
    try:
        with open(part.path, "rb") as file:
            file.seek(part.offset)
            data = file.read(part.length)
    except OSError as error:
        raise failures.broken(request, failures.words(error)) from error
    if len(data) < part.length:
        raise failures.broken(request, f"{part.path} became shorter while it was sent")
    return data
