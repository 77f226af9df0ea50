"""An HTTP server that answers as a test tells it, for what no well-meaning registry does."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """One request that arrived."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Say:
    """An answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Rule:
    method: str
    path: str
    answers: list[Say | Handler]


class Scripted:
    """Answers of the first rule that fits a request, one after the other, the last one for ever.

        async with Scripted() as server:
            server.on("GET", "/v2/app/manifests/1", Say(500), Say(200, raw))
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self._rules: list[_Rule] = []
        self._runner: web.AppRunner | None = None
        self._tls = tls
        self.on("GET", "/v2/", Say(200, b"{}"))

    def on(self, method: str, path: str, *answers: Say | Handler) -> None:
        """What is said to a method (a regular expression) at a path (one too); later rules come first."""
        self._rules.insert(0, _Rule(method, path, list(answers)))

    def count(self, method: str, path: str = ".*") -> int:
        """How many such requests have arrived."""
        return sum(bool(re.fullmatch(method, s.method) and re.fullmatch(path, s.path)) for s in self.seen)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        assert self._runner is not None
        host, port = self._runner.addresses[0][:2]
        return f"{host}:{port}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        for rule in self._rules:
            if re.fullmatch(rule.method, request.method) and re.fullmatch(rule.path, request.path):
                answer = rule.answers.pop(0) if len(rule.answers) > 1 else rule.answers[0]
                break
        else:
            answer = Say(404)
        seen = Seen(request.method, request.path, request.query_string, dict(request.headers), b"")
        self.seen.append(seen)
        if not isinstance(answer, Say):
            return await answer(request)
        seen.body = await request.read()
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    async def __aenter__(self) -> Scripted:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, auto_decompress=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
