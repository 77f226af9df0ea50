"""The way to a host: straight, or through the proxy that the environment prescribes. A proxy is sent requests for http as they are,
and tunnels for https."""

from __future__ import annotations

import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

import anyio
from msgspec import Struct

from engine.errors import RegistryError
from engine.registry import failures, http1
from engine.registry.connection import ENDED, Connection, Encrypted, connect
from engine.registry.exchange import Request
from engine.registry.rules import origin, proxy_for
from engine.registry.tls import Contexts


class Route(Struct, frozen=True):
    """Where connections go to; one serves all requests with an equal route. `verify` is whether the certificate must be good,
    `proxy` the proxy's URL, empty where there is none."""

    scheme: str
    host: str
    verify: bool
    proxy: str = ""

    @staticmethod
    def of(request: Request, environment: Mapping[str, str]) -> Route:
        """The way of a request."""
        proxy = proxy_for(request.url, environment) or ""
        return Route(*origin(request.url), request.verify, proxy if "://" in proxy or not proxy else f"http://{proxy}")

    def target(self, url: str) -> str:
        """What is to be asked for on this way, for a URL."""
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return f"http://{self.host}{path}" if self.proxy and self.scheme == "http" else path

    def headers(self, url: str) -> dict[str, str]:
        """What is to be said on this way, for a URL."""
        headers = {}
        if own := basic(urlsplit(url)):
            headers["Authorization"] = own
        if self.proxy and self.scheme == "http" and (proxy := basic(urlsplit(self.proxy))):
            headers["Proxy-Authorization"] = proxy
        return headers


def basic(parts: SplitResult) -> str:
    """The login that is in a URL, as a header's value; empty when there is none."""
    if parts.username is None:
        return ""
    return "Basic " + b64encode(f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()).decode()


async def dial(route: Route, request: Request, contexts: Contexts, seconds: float) -> Connection:
    """A new connection for a request, in the time there is for it. Raises `TransientError` or `RegistryError`."""
    via = "the proxy of " if route.proxy else ""
    try:
        with anyio.fail_after(seconds):
            return await _dial(route, request, contexts)
    except TimeoutError as error:
        raise failures.too_slow(request) from error
    except socket.gaierror as error:
        raise failures.no_name(request, error, via) from error
    except ENDED as error:
        raise failures.hung_up(request, error) from error
    except ssl.SSLError as error:
        raise failures.bad_tls(request, error) from error
    except OSError as error:
        raise failures.unreachable(request, error, via) from error
    except ValueError as error:
        raise failures.not_asked(request, error) from error


async def _dial(route: Route, request: Request, contexts: Contexts) -> Connection:
    there = urlsplit(f"{route.scheme}://{route.host}")
    first = urlsplit(route.proxy) if route.proxy else there
    if first.scheme not in ("http", "https") or not first.hostname:
        raise ValueError(f"its proxy speaks no HTTP: {first.scheme}://{first.hostname or ''}")
    connection: Connection = await connect(first.hostname, _port(first))
    try:
        if first.scheme == "https":
            connection = await _encrypted(connection, contexts.get(route.verify or bool(route.proxy)), first.hostname)
        if route.proxy and there.scheme == "https":
            await _tunnel(connection, there, request, basic(first))
            connection = await _encrypted(connection, contexts.get(route.verify), there.hostname or "")
    except BaseException:
        connection.close()
        raise
    return connection


async def _encrypted(connection: Connection, context: ssl.SSLContext, host: str) -> Encrypted:
    made = Encrypted(connection, context, host)
    await made.shake_hands()
    return made


async def _tunnel(connection: Connection, there: SplitResult, request: Request, login: str) -> None:
    """Has a proxy connect a connection to a host."""
    host = f"[{there.hostname}]" if ":" in (there.hostname or "") else there.hostname
    place = f"{host}:{_port(there)}"
    await connection.send(http1.head("CONNECT", place, place, {"Proxy-Authorization": login} if login else {}, 0))
    reader = http1.Reader(connection.receive)
    try:
        status, _ = await reader.head("CONNECT")
    except http1.EarlyEndError as error:
        raise failures.broken(request, "closed by its proxy") from error
    except http1.NoHttpError as error:
        raise RegistryError(f"the proxy of registry {request.registry} does not speak HTTP: {error} ({request.what})") from error
    if status >= 300:
        raise failures.refused_by_proxy(request, status)
    if not reader.is_empty():
        raise RegistryError(f"the proxy of registry {request.registry} says more than it was asked ({request.what})")


def _port(parts: SplitResult) -> int:
    return parts.port or {"http": 80, "https": 443}[parts.scheme]
