"""Who may do what: basic authentication, and the token flow of docker's registries
(distribution spec, "Authentication"; docker's "Token Authentication Specification" and its OAuth2 form).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from engine.registry.server.refusals import Refusal

Grant = tuple[str, str]
"""A repository and an action on it: `("library/app", "pull")`."""

_SCOPE = re.compile(r"repository:([^:]+(?::[0-9]+[^:]*)?):([a-z,*]+)")
_ACTIONS = ("pull", "push", "delete")
_REMEMBERED = 100_000


class Access(Protocol):
    """Decides over requests."""

    def check(self, authorization: str, wanted: frozenset[Grant], realm: str) -> None:
        """Raises `Refusal` UNAUTHORIZED, with the challenge, unless the Authorization header grants all that is wanted. `realm`
        is the URL of the token endpoint."""


def credentials(authorization: str) -> tuple[str, str] | None:
    """User and password of a Basic header, None if it is none."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if colon else None


def _known(users: Mapping[str, str], pair: tuple[str, str] | None) -> bool:
    # compare_digest even for an unknown user, so that time does not tell which names exist
    user, password = pair or ("", "")
    return hmac.compare_digest(users.get(user, "\0").encode(), password.encode()) and user in users


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """Name and password with every request; whoever is known may do everything."""

    users: Mapping[str, str] = field(repr=False)
    realm: str = "aniko registry"

    def check(self, authorization: str, wanted: frozenset[Grant], realm: str) -> None:
        """See `Access`."""
        if not _known(self.users, credentials(authorization)):
            raise Refusal("UNAUTHORIZED", headers={"WWW-Authenticate": f'Basic realm="{self.realm}"'})


class _Token(Struct):
    expires: float
    grants: frozenset[Grant]
    user: str


@dataclass(slots=True)
class TokenAuth:
    """Bearer tokens from the `/token` endpoint, each for some scopes and for `lifetime` seconds.

    `users` maps names to passwords; whoever is known may do everything, others with `anonymous_pull` may pull. `clock` gives
    seconds.
    """

    users: Mapping[str, str] = field(repr=False)
    service: str = "aniko"
    lifetime: float = 60.0
    anonymous_pull: bool = False
    clock: Callable[[], float] = time.monotonic
    issued: int = 0
    _tokens: dict[str, _Token] = field(default_factory=dict, repr=False)
    _refresh: dict[str, str] = field(default_factory=dict, repr=False)

    def check(self, authorization: str, wanted: frozenset[Grant], realm: str) -> None:
        """See `Access`."""
        scheme, _, value = authorization.partition(" ")
        token = self._tokens.get(value.strip()) if scheme.lower() == "bearer" else None
        if token is None or token.expires <= self.clock():
            error = ',error="invalid_token"' if value else ""
            raise self._challenge(wanted, realm, error)
        if not wanted <= token.grants:
            raise self._challenge(wanted, realm, ',error="insufficient_scope"')

    def revoke(self) -> None:
        """Makes all tokens expire now."""
        self._tokens.clear()

    def issue(self, pair: tuple[str, str] | None, scopes: list[str], *, offline: bool = False) -> dict[str, object]:
        """The answer of the token endpoint to credentials (None for nobody) and the scopes asked for, of which only what the
        user may do is granted; raises `Refusal` UNAUTHORIZED for wrong credentials."""
        if pair is not None and not _known(self.users, pair):
            raise Refusal("UNAUTHORIZED", message="incorrect username or password",
                          headers={"WWW-Authenticate": f'Basic realm="{self.service}"'})
        user = pair[0] if pair else ""
        return self._issue(user, scopes, offline)

    def refresh(self, refresh_token: str, scopes: list[str]) -> dict[str, object]:
        """A new token for a refresh token; raises `Refusal` UNAUTHORIZED."""
        user = self._refresh.get(refresh_token)
        if user is None:
            raise Refusal("UNAUTHORIZED", message="unknown refresh token")
        return self._issue(user, scopes, False)

    def _issue(self, user: str, scopes: list[str], offline: bool) -> dict[str, object]:
        may = set(_ACTIONS) if user else {"pull"} if self.anonymous_pull else set()
        grants = frozenset((name, action) for name, action in _grants(scopes) if action in may)
        now = self.clock()
        self._tokens = {k: v for k, v in self._tokens.items() if v.expires > now} if len(self._tokens) > 1000 else self._tokens
        if len(self._tokens) > _REMEMBERED:
            raise Refusal("TOOMANYREQUESTS")
        text = secrets.token_urlsafe(24)
        self._tokens[text] = _Token(now + self.lifetime, grants, user)
        self.issued += 1
        answer: dict[str, object] = {"token": text, "access_token": text, "expires_in": int(self.lifetime)}
        if offline and user:
            answer["refresh_token"] = secrets.token_urlsafe(24)
            self._refresh[str(answer["refresh_token"])] = user
        return answer

    def _challenge(self, wanted: frozenset[Grant], realm: str, error: str) -> Refusal:
        by_name: dict[str, list[str]] = {}
        for name, action in sorted(wanted, key=lambda g: (g[0], _ACTIONS.index(g[1]))):
            by_name.setdefault(name, []).append(action)
        scope = " ".join(f"repository:{name}:{','.join(actions)}" for name, actions in by_name.items())
        challenge = f'Bearer realm="{realm}",service="{self.service}"' + (f',scope="{scope}"' if scope else "") + error
        return Refusal("UNAUTHORIZED", headers={"WWW-Authenticate": challenge})


def _grants(scopes: list[str]) -> set[Grant]:
    out: set[Grant] = set()
    for scope in " ".join(scopes).split():
        if match := _SCOPE.fullmatch(scope):
            actions = match[2].split(",")
            out |= {(match[1], a) for a in (_ACTIONS if "*" in actions else actions)}
    return out
