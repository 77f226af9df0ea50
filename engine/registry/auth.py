"""Logging in: which Authorization header a request gets (distribution's token specification, and HTTP Basic).

A registry is asked without a login first; its challenge says how it wants to be spoken to, and is remembered. Tokens are kept
per registry and scopes, got once however many requests need one, and renewed before they expire or when one is rejected.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlencode

import anyio
from msgspec import Struct

from engine.errors import AuthError, RegistryError
from engine.registry.challenge import Challenge, Token, covers, parse_token, token_url
from engine.registry.credentials import Credential, Credentials
from engine.registry.exchange import Answer
from engine.registry.retry import Clock
from engine.registry.rules import Endpoint, clean, error_text, login_hint, redact, web_url

CLIENT_ID = "aniko"
_REFUSED = frozenset({400, 401, 403})
_NO_POST = frozenset({401, 404, 405})
"""How token services without oauth2 answer a POST (Artifactory says 401)."""


class Claim(Struct, frozen=True):
    """Which rights a request needs: on which registry, as whom (the repository picks the credential), for which scopes.
    `what` is the request, for people."""

    registry: str
    repository: str
    scopes: frozenset[str]
    what: str


Ask = Callable[[Claim, str, str, Mapping[str, str], bytes | None], Awaitable[Answer]]
"""A request to a token service (method, URL, headers, body), not logged in itself; any final status is an answer."""


class _Basic(Struct, frozen=True):
    pass


class _Bearer(Struct, frozen=True):
    realm: str
    service: str


class Authenticator:
    """The logins of one client. `endpoint` tells how a registry is spoken to, once that is known."""

    def __init__(self, credentials: Credentials, ask: Ask, clock: Clock,
                 endpoint: Callable[[str], Endpoint | None]) -> None:
        self._credentials = credentials
        self._ask = ask
        self._clock = clock
        self._endpoint = endpoint
        self._schemes: dict[str, _Basic | _Bearer] = {}
        self._wider: dict[tuple[str, frozenset[str]], frozenset[str]] = {}
        self._tokens: dict[tuple[str, str], dict[frozenset[str], Token]] = {}
        self._fetching: dict[tuple[str, str, frozenset[str]], anyio.Lock] = {}
        self._used: dict[tuple[str, str], Credential | None] = {}

    async def header(self, claim: Claim) -> str | None:
        """The Authorization header for a request, None while the registry has not asked for one. May get a token."""
        scheme = self._schemes.get(claim.registry)
        if scheme is None:
            return None
        if isinstance(scheme, _Basic):
            credential = self._used.get((claim.registry, claim.repository)) or await self._credential(claim)
            return credential.basic() if credential and (credential.username or credential.identity_token) else None
        return "Bearer " + (await self._token(claim, scheme)).value

    async def renew(self, claim: Claim, challenges: Sequence[Challenge], rejected: str | None) -> None:
        """Takes note of a 401: of the challenge in it, and of the header that was rejected, so that `header` gives another.

        Raises `AuthError` when there is no other.
        """
        offered = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if "bearer" in offered and offered["bearer"].parameters.get("realm"):
            self._expect_token(claim, offered["bearer"], rejected)
        elif "basic" in offered:
            self._schemes[claim.registry] = _Basic()
            before = self._used.get((claim.registry, claim.repository)) if rejected else None
            credential = await self._credential(claim, rejected=before)
            if credential is None:
                raise AuthError(f"registry {claim.registry} asks for a login and there is none for it ({claim.what})",
                                status=401, hint=login_hint(claim.registry))
            if credential.basic() == rejected:
                raise _wrong_password(claim, credential)
        else:
            names = ", ".join(clean(c.scheme, 40) for c in challenges) or "nothing"
            raise AuthError(f"registry {claim.registry} refuses the request and offers no login known here, but {names} "
                            f"({claim.what})", status=401, hint=login_hint(claim.registry))

    def _expect_token(self, claim: Claim, challenge: Challenge, rejected: str | None) -> None:
        realm = challenge.parameters["realm"]
        endpoint = self._endpoint(claim.registry)
        parts = web_url(realm)
        if parts is None:
            raise AuthError(f"registry {claim.registry} names an unusable token service {clean(realm)!r}", status=401)
        if parts.scheme == "http" and endpoint and endpoint.scheme == "https" and endpoint.verify:
            raise AuthError(f"registry {claim.registry} wants credentials sent unencrypted to {redact(realm)}", status=401)
        self._schemes[claim.registry] = _Bearer(realm, challenge.parameters.get("service", ""))
        more = frozenset(scope for scope in challenge.scopes if not covers(claim.scopes, frozenset({scope})))
        if more:
            self._wider[claim.registry, claim.scopes] = claim.scopes | more
        tokens = self._tokens.get((claim.registry, claim.repository), {})
        for scopes in [s for s, token in tokens.items() if f"Bearer {token.value}" == rejected]:
            del tokens[scopes]

    async def _credential(self, claim: Claim, rejected: Credential | None = None) -> Credential | None:
        found = await self._credentials.find(claim.registry, claim.repository, rejected=rejected)
        self._used[claim.registry, claim.repository] = found
        return found

    async def _token(self, claim: Claim, scheme: _Bearer) -> Token:
        wanted = self._wider.get((claim.registry, claim.scopes), claim.scopes)
        tokens = self._tokens.setdefault((claim.registry, claim.repository), {})
        async with self._fetching.setdefault((claim.registry, claim.repository, wanted), anyio.Lock()):
            now = self._clock.now()
            for scopes, token in tokens.items():
                if token.expires > now and covers(scopes, wanted):
                    return token
            tokens[wanted] = token = await self._fetch(claim, scheme, sorted(wanted))
            return token

    async def _fetch(self, claim: Claim, scheme: _Bearer, scopes: Sequence[str]) -> Token:
        credential = await self._credential(claim)
        if credential and credential.registry_token:
            return Token(credential.registry_token, float("inf"))
        answer = await self._request(claim, scheme, scopes, credential)
        if answer.status in _REFUSED and credential:
            fresh = await self._credential(claim, rejected=credential)
            if fresh and fresh != credential:
                credential = fresh
                answer = await self._request(claim, scheme, scopes, credential)
        token = parse_token(answer.body, self._clock.now()) if answer.status == 200 else None
        if token is None:
            raise _no_token(claim, scheme, answer, credential)
        return token

    async def _request(self, claim: Claim, scheme: _Bearer, scopes: Sequence[str], credential: Credential | None) -> Answer:
        if credential and credential.identity_token:
            answer = await self._post(claim, scheme, scopes, {"grant_type": "refresh_token",
                                                              "refresh_token": credential.identity_token})
            if answer.status not in _NO_POST:
                return answer
        headers = {"Authorization": credential.basic()} if credential else {}
        account = credential.username if credential else ""
        answer = await self._ask(claim, "GET", token_url(scheme.realm, scheme.service, scopes, account), headers, None)
        if answer.status in (404, 405) and credential and credential.password:
            answer = await self._post(claim, scheme, scopes, {"grant_type": "password", "username": credential.username,
                                                              "password": credential.password})
        return answer

    async def _post(self, claim: Claim, scheme: _Bearer, scopes: Sequence[str], grant: dict[str, str]) -> Answer:
        form = {**grant, "client_id": CLIENT_ID, "service": scheme.service, "scope": " ".join(scopes)}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._ask(claim, "POST", scheme.realm, headers, urlencode(form).encode())


def _wrong_password(claim: Claim, credential: Credential) -> AuthError:
    user = f" of user {clean(credential.username)!r}" if credential.username else ""
    return AuthError(f"registry {claim.registry} rejects the user name or password{user} ({claim.what})", status=401,
                     hint=f"{login_hint(claim.registry)}; used was {credential.source}")


def _no_token(claim: Claim, scheme: _Bearer, answer: Answer, credential: Credential | None) -> RegistryError:
    service = redact(scheme.realm)
    text = error_text(answer.body)[1]
    tail = f": {text}" if text else ""
    if answer.status in _REFUSED:
        if credential is None:
            return AuthError(f"registry {claim.registry} asks for a login and there is none for it ({claim.what}){tail}",
                             status=answer.status, hint=login_hint(claim.registry))
        user = f" of user {clean(credential.username)!r}" if credential.username else ""
        return AuthError(f"the token service {service} of registry {claim.registry} rejects the login{user} "
                         f"({claim.what}){tail}", status=answer.status,
                         hint=f"{login_hint(claim.registry)}; used was {credential.source}")
    return RegistryError(f"the token service {service} of registry {claim.registry} gave no token: status {answer.status} "
                         f"({claim.what}){tail}", status=answer.status)
