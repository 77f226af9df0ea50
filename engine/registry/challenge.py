"""WWW-Authenticate challenges, scopes and tokens (RFC 7235; distribution's token authentication specification). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar
from urllib.parse import quote

from msgspec import Struct, field

from engine import codec
from engine.values import Value

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = rf"\s*,*\s*({_TOKEN})(?=[\s,]|$)\s*"
_PARAMETER = rf'\s*,*\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}(?:[/:=?&@]+{_TOKEN})*))\s*(?=,|$)'
_TOKEN68 = r"[A-Za-z0-9._~+/-]+=*\s*(?=,|$)"
_HEADER_LIMIT = 16 << 10


class Challenge(Struct, frozen=True):
    """One way of authenticating that a server offers: the scheme in lower case, its parameters by lower-case name."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that a bearer challenge asks for."""
        return frozenset(self.parameters.get("scope", "").split())


class Token(Value, frozen=True):
    """A bearer token, good until `expires` (on the client's forward-going clock)."""

    UNSHOWN: ClassVar = frozenset({"value"})

    value: str
    expires: float


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of WWW-Authenticate headers, in order. What cannot be read ends its header, without an error."""
    scheme_pattern, pair_pattern, token68_pattern = re.compile(_SCHEME), re.compile(_PARAMETER), re.compile(_TOKEN68)
    found: list[Challenge] = []
    for header in headers:
        text, at = header[:_HEADER_LIMIT], 0
        while match := scheme_pattern.match(text, at):
            scheme, at, parameters = match[1].lower(), match.end(), {}
            while parameter := pair_pattern.match(text, at):
                raw = parameter[2]
                parameters[parameter[1].lower()] = re.sub(r"\\(.)", r"\1", raw) if raw is not None else parameter[3]
                at = parameter.end()
            if not parameters and (blob := token68_pattern.match(text, at)):
                at = blob.end()
            found.append(Challenge(scheme, parameters))
    return tuple(found)


def repository_scope(repository: str, *actions: str) -> str:
    """`repository:app:pull,push`."""
    return f"repository:{repository}:{','.join(actions)}"


def covers(have: frozenset[str], wanted: frozenset[str]) -> bool:
    """Whether a token for some scopes does for others: `repository:app:pull,push` covers `repository:app:pull`."""
    if wanted <= have:
        return True
    granted: dict[str, set[str]] = {}
    for scope in have:
        name, _, actions = scope.rpartition(":")
        granted.setdefault(name, set()).update(actions.split(","))
    for scope in wanted:
        name, _, actions = scope.rpartition(":")
        if not set(actions.split(",")) <= granted.get(name, set()):
            return False
    return True


def token_url(realm: str, service: str, scopes: Sequence[str], account: str = "") -> str:
    """The URL that a token is got from: the realm, with what is asked for in its query."""
    fields = [("service", service)] if service else []
    fields += [("scope", scope) for scope in scopes]
    fields += [("account", account)] if account else []
    query = "&".join(f"{name}={quote(value, safe=':/,')}" for name, value in fields)
    return f"{realm}{'&' if '?' in realm else '?'}{query}" if query else realm


def parse_token(body: bytes, now: float) -> Token | None:
    """The token in a token service's answer; None when there is none. It counts as expired a little early, so that a request
    does not arrive too late with it; without `expires_in` it is good for 60 s, as the specification says."""
    try:
        value = codec.decode(body)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    text = value.get("token") or value.get("access_token")
    if not isinstance(text, str) or not re.fullmatch(r"[\x21-\x7e]+", text):
        return None
    seconds = value.get("expires_in")
    lifetime = float(seconds) if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds > 0 else 60.0
    lifetime = min(lifetime, 86400.0)
    return Token(text, now + lifetime - min(10.0, lifetime / 5))
