"""Requests to registries: over the right scheme, logged in, redirected, and retried while there is hope.

`open` makes one attempt and leaves the answer's body to the caller; `fetch` makes as many as it takes and returns a whole
small answer. The login goes to the registry's own host only, never along a redirect to another one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from msgspec import Struct, field

from engine.errors import RegistryError
from engine.image.reference import Reference
from engine.progress.spans import span
from engine.registry.auth import Authenticator, Claim
from engine.registry.challenge import parse_challenges, repository_scope
from engine.registry.credentials import Credentials
from engine.registry.exchange import Answer, FilePart, GrowingPart, Request, Timeouts
from engine.registry.retry import TRANSIENT_STATUSES, Attempts, Clock, Patience, TransientError
from engine.registry.rules import (
    ERROR_BODY_LIMIT,
    Endpoint,
    endpoints,
    follow,
    origin,
    refusal,
    speaks_tls,
)
from engine.registry.session import Response, Session
from engine.registry.tls import Contexts

_REDIRECTS = 5
_LOGINS = 2
_TOKEN_LIMIT = 4 * ERROR_BODY_LIMIT
_SMALL_REQUESTS = 16
"""Requests without a blob that are under way at once."""


class Call(Struct, frozen=True):
    """A request to a registry. `url` is a path below the registry's base, or a whole URL that the registry gave.

    An answer whose status is in `expected` is returned, every other one raises.
    """

    method: str
    url: str
    claim: Claim
    expected: frozenset[int] = frozenset({200})
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FilePart | GrowingPart | None = None


def claim(reference: Reference, what: str, *actions: str, also_pull: str = "") -> Claim:
    """The rights for some actions on the reference's repository, and for pulling from another one (a mount's source)."""
    scopes = {repository_scope(reference.repository, *actions)}
    if also_pull:
        scopes.add(repository_scope(also_pull, "pull"))
    return Claim(reference.registry, reference.repository, frozenset(scopes), what)


class Transport:
    """The way to all registries, for one client."""

    def __init__(self, credentials: Credentials, insecure: frozenset[str], *, clock: Clock, patience: Patience,
                 timeouts: Timeouts, ca_file: Path | None, user_agent: str, environment: Mapping[str, str]) -> None:
        self.clock = clock
        self.patience = patience
        self._insecure = insecure
        self._session = Session(user_agent, Contexts(ca_file), timeouts, environment)
        self._auth = Authenticator(credentials, self._ask_tokens, clock, lambda registry: self._settled.get(registry))
        self._small = anyio.CapacityLimiter(_SMALL_REQUESTS)
        self._settled: dict[str, Endpoint] = {}
        self._settling: dict[str, anyio.Lock] = {}
        self._answered: set[str] = set()

    def attempts(self) -> Attempts:
        """The tries of a new request."""
        return Attempts(self.patience, self.clock)

    async def fetch(self, call: Call, limit: int = ERROR_BODY_LIMIT) -> Answer:
        """A whole answer of at most `limit` bytes, after as many attempts as it takes."""
        attempts = self.attempts()
        while True:
            try:
                async with self._small, self.open(call) as response:
                    return Answer(response.status, response.headers, await response.read(limit), response.url)
            except TransientError as error:
                await attempts.pause(error)

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[Response]:
        """An answer of an expected status, its body to be read inside the context; one attempt. Raises what `refusal` says."""
        with span("network", call.claim.what):
            response = await self._logged_in(call)
            try:
                if response.status not in call.expected:
                    raise await self._refused(call, response)
                yield response
            finally:
                response.close()

    async def endpoint(self, registry: str, what: str) -> Endpoint:
        """How a registry is spoken to; found out once, by asking, where there is more than one way."""
        known = self._settled.get(registry)
        if known:
            return known
        async with self._settling.setdefault(registry, anyio.Lock()):
            if registry not in self._settled:
                ways = endpoints(registry, self._insecure)
                self._settled[registry] = ways[0] if len(ways) == 1 else await self._probe(registry, ways, what)
            return self._settled[registry]

    def close(self) -> None:
        """Closes the connections; a later request opens new ones."""
        self._session.close()

    async def _logged_in(self, call: Call) -> Response:
        endpoint = await self.endpoint(call.claim.registry, call.claim.what)
        logins = 0
        while True:
            header = await self._auth.header(call.claim)
            response = await self._redirected(call, endpoint, header)
            if response.status != 401 or origin(response.url) != origin(endpoint.base) or logins == _LOGINS:
                return response
            logins += 1
            try:
                challenges = parse_challenges(response.headers.all("www-authenticate"))
                await response.head(ERROR_BODY_LIMIT)
            finally:
                response.close()
            await self._auth.renew(call.claim, challenges, header)

    async def _redirected(self, call: Call, endpoint: Endpoint, header: str | None) -> Response:
        url = follow(endpoint.base + "/", call.url, endpoint)
        for _ in range(_REDIRECTS):
            response = await self._send(call, endpoint, url, header)
            repeats = response.status in (307, 308) or (response.status in (301, 302, 303) and call.method in ("GET", "HEAD"))
            location = response.headers.get("location")
            if not repeats or not location or response.status in call.expected:
                return response
            response.close()
            url = follow(url, location, endpoint)
        raise RegistryError(f"registry {call.claim.registry} redirects in circles ({call.claim.what})")

    async def _send(self, call: Call, endpoint: Endpoint, url: str, header: str | None) -> Response:
        own = origin(url) == origin(endpoint.base)
        if not own and call.body and url.startswith("http:") and endpoint.scheme == "https" and endpoint.verify:
            raise RegistryError(f"registry {call.claim.registry} wants the upload sent unencrypted to another host "
                                f"({call.claim.what})")
        headers = {**call.headers, "Authorization": header} if own and header else call.headers
        verify = endpoint.verify if own else self._verifies(origin(url)[1])
        return await self._exchange(_request(call, url, headers, verify))

    async def _exchange(self, request: Request) -> Response:
        """One exchange. A registry that has answered before is not one that was never there: it may just be starting anew."""
        try:
            response = await self._session.send(request)
        except TransientError as error:
            error.reached = error.reached or request.registry in self._answered
            raise
        self._answered.add(request.registry)
        return response

    def _verifies(self, host: str) -> bool:
        return endpoints(host, self._insecure)[0].verify

    async def _refused(self, call: Call, response: Response) -> RegistryError:
        body = await response.head(ERROR_BODY_LIMIT)
        registry, what, status = call.claim.registry, call.claim.what, response.status
        endpoint = self._settled[registry]
        if origin(response.url) != origin(endpoint.base) and status in (400, 401, 403, 404) and call.method == "GET":
            # A signed URL of the storage behind the registry, expired or not yet known there: the registry makes a new one.
            return TransientError(f"registry {registry}: its storage at {origin(response.url)[1]} answered {status} ({what})",
                                  status=status)
        return refusal(registry, what, status, response.headers, body, self.clock.wall())

    async def _probe(self, registry: str, ways: tuple[Endpoint, ...], what: str) -> Endpoint:
        """The first way in which a registry answers at all."""
        failure: RegistryError | None = None
        asking = Claim(registry, "", frozenset(), what)
        for way in ways:
            call = Call("GET", "/v2/", asking)
            try:
                response = await self._exchange(_request(call, f"{way.base}/v2/", {}, way.verify))
            except RegistryError as error:
                failure = failure or error
                continue
            try:
                body = await response.head(ERROR_BODY_LIMIT)
                if way.scheme == "http" and speaks_tls(response.status, body):
                    continue
            finally:
                response.close()
            return way
        raise failure or RegistryError(f"registry {registry} speaks neither http nor https ({what})")

    async def _ask_tokens(self, asking: Claim, method: str, url: str, headers: Mapping[str, str],
                          body: bytes | None) -> Answer:
        """A request to a token service: one attempt (a failure that may pass has the whole request tried again), not logged in,
        not redirected; any final answer is one."""
        own = self._settled.get(asking.registry)
        host = origin(url)[1]
        verify = own.verify if own and origin(own.base)[1] == host else self._verifies(host)
        response = await self._exchange(_request(Call(method, url, asking, body=body), url,
                                                 headers, verify))
        try:
            answer = Answer(response.status, response.headers, await response.read(_TOKEN_LIMIT), url)
        finally:
            response.close()
        if answer.status in TRANSIENT_STATUSES:
            raise refusal(asking.registry, f"its token service, for {asking.what}", answer.status, answer.headers,
                          answer.body, self.clock.wall())
        return answer


def _request(call: Call, url: str, headers: Mapping[str, str], verify: bool) -> Request:
    return Request(call.method, url, call.claim.registry, call.claim.what, headers, call.body, verify)
