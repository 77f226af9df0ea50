"""One HTTP exchange, over aiohttp: no retries, no redirects, no login, but every failure as an error that says what happened.

With `body`, the only module of the client that uses aiohttp, which takes a while to import: that is done in a thread when the first
request is made that is long or goes through a proxy (`engine.registry.direct` has the others). HTTP/1.1 it is on purpose: a blob
over one HTTP/2 stream is slower.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any

from yarl import URL

from engine.errors import RegistryError
from engine.registry import failures
from engine.registry.aio import aiohttp
from engine.registry.body import FileBody
from engine.registry.exchange import FilePart, GrowingPart, Request, Timeouts
from engine.registry.retry import TransientError
from engine.registry.rules import Headers, clean, proxy_for
from engine.registry.tls import Contexts

RECEIVE_BUFFER = 1 << 20
"""Bytes that may wait to be read before the connection is paused (aiohttp pauses at twice of it)."""


class Response:
    """An answer whose body may still be on its way. To be closed, in any case and without waiting, with `close`."""

    def __init__(self, raw: aiohttp.ClientResponse, request: Request) -> None:
        self._raw = raw
        self._request = request
        self.status = raw.status
        self.headers = Headers(list(raw.headers.items()))
        self.url = request.url

    async def read(self, limit: int) -> bytes:
        """The whole body; raises `RegistryError` when it is larger than `limit` bytes."""
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
        except TransientError:
            pass
        return b"".join(parts)[:limit]

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it arrives, its Content-Encoding left alone (a blob is what is sent, gzip or not)."""
        read = self._raw.content.readany
        while True:
            try:
                part = await read()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise explain(error, self._request) from error
            if not part:
                return
            yield part

    def close(self) -> None:
        """Gives the connection back if the body was read to its end, else closes it."""
        self._raw.release() if self._raw.content.at_eof() else self._raw.close()


class Session:
    """The connections of one client; made inside the event loop."""

    def __init__(self, user_agent: str, contexts: Contexts, timeouts: Timeouts, environment: Mapping[str, str]) -> None:
        self._contexts = contexts
        self._timeouts = timeouts
        self._environment = environment
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ttl_dns_cache=60),
            auto_decompress=False, read_bufsize=RECEIVE_BUFFER, cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": user_agent, "Accept-Encoding": "identity"}, skip_auto_headers=("Content-Type",),
        )

    async def send(self, request: Request) -> Response:
        """Sends a request and waits for the head of its answer. Raises `TransientError` or `RegistryError`."""
        waits = self._timeouts
        idle = waits.answer if request.method in ("PUT", "PATCH") else waits.idle
        body: Any = FileBody(request.body, waits.idle) if isinstance(request.body, (FilePart, GrowingPart)) else request.body
        url = URL(request.url, encoded=True)
        try:
            raw = await self._client.request(
                request.method, url, data=body, headers=request.headers, allow_redirects=False,
                ssl=self._contexts.get(request.verify) if url.scheme == "https" else True,
                proxy=proxy_for(request.url, self._environment),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=waits.connect, sock_read=idle))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise explain(error, request) from error
        return Response(raw, request)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._client.close()


def explain(error: Exception, request: Request) -> RegistryError:
    """The error for people that a failed exchange stands for: `TransientError` when it may pass."""
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)):
        cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
        return failures.untrusted(request, getattr(cause, "verify_message", "") or str(cause))
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return failures.no_tls(request, str(getattr(getattr(error, "os_error", error), "reason", None) or error))
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return failures.no_name(request, error.os_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        via = "the proxy of " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
        return failures.unreachable(request, error.os_error, via)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return failures.too_slow(request)
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return failures.not_asked(request, error)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return failures.refused_by_proxy(request, error.status)
    if isinstance(error, aiohttp.ClientResponseError):
        return failures.no_http(request, error.message)
    return failures.broken(request, _break(error))


def _break(error: Exception) -> str:
    cause = error.__cause__
    if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
        return "no data in time"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed by the other side"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer ended too early"
    if isinstance(error, OSError) and error.errno:
        return failures.words(error)
    if isinstance(cause, OSError) and cause.errno:
        return failures.words(cause)
    return clean(str(error), 120) or type(error).__name__
