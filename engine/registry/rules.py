"""The rules of the distribution protocol that need no connection: where a registry is, what its answers mean, how its
headers are read (OCI distribution spec 1.1; docker's client for what the spec leaves open).

What a registry says is hostile: every parser here is total, bounded by what it is given, and texts that go to people are
cut and stripped of what a terminal would act on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit

from msgspec import Struct

from engine import codec
from engine.errors import AuthError, NotFoundError, RegistryError
from engine.image.descriptor import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from engine.image.digest import Digest
from engine.image.reference import DOCKER_HUB, Reference
from engine.registry.retry import TRANSIENT_STATUSES, TransientError, parse_retry_after

ERROR_BODY_LIMIT = 64 << 10
"""Bytes of an error's body that are read."""

ACCEPT_MANIFESTS = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))

_HUB_HOST = "registry-1.docker.io"
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?")
_LINK = re.compile(r'<([^<>]*)>\s*((?:;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^\s",;]+)\s*)*)')
_CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_UPLOAD_RANGE = re.compile(r"(?:bytes[=\s])?0-(\d{1,19})")
_IMMUTABLE = re.compile(r"immutab|already exists|cannot be overwritten|overwrit|TagAlreadyExists", re.IGNORECASE)


class Headers:
    """The headers of an answer; names in any case."""

    __slots__ = ("_values",)

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def get(self, name: str) -> str:
        """The first value of a header, empty when there is none."""
        return self.all(name)[0] if name.lower() in self._values else ""

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of a header."""
        return tuple(self._values.get(name.lower(), ()))

    def length(self) -> int | None:
        """The Content-Length, None when there is none that is a number."""
        text = self.get("content-length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def digest(self) -> Digest | None:
        """The Docker-Content-Digest; raises `ContentError` when it is malformed."""
        text = self.get("docker-content-digest").strip()
        return Digest.parse(text) if text else None


class Endpoint(Struct, frozen=True):
    """Where and how a registry is spoken to. `verify` is whether its certificate must be good."""

    scheme: str
    host: str
    verify: bool = True

    @property
    def base(self) -> str:
        """The URL that paths are appended to."""
        return f"{self.scheme}://{self.host}"


def is_loopback(registry: str) -> bool:
    """Whether a registry is on this machine by its very name: localhost, 127.0.0.0/8, [::1], with any port."""
    return _LOOPBACK.fullmatch(registry) is not None


def endpoints(registry: str, insecure: frozenset[str]) -> tuple[Endpoint, ...]:
    """How a registry may be spoken to, best first. A loopback registry speaks http; one of `insecure` speaks https with any
    certificate, or http; every other one speaks https with a good certificate and nothing else."""
    host = _HUB_HOST if registry == DOCKER_HUB else registry
    if is_loopback(registry):
        return Endpoint("http", host), Endpoint("https", host, verify=False)
    if registry in insecure:
        return Endpoint("https", host, verify=False), Endpoint("http", host)
    return (Endpoint("https", host),)


def speaks_tls(status: int, body: bytes) -> bool:
    """Whether an answer to a plain request says that the port is for https (Go's net/http, nginx)."""
    text = body[:1024].lower()
    return status == 400 and (b"https server" in text or b"https port" in text)


def origin(url: str) -> tuple[str, str]:
    """Scheme and host of a URL, the default port left out: what must be equal for credentials to be sent."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return parts.scheme, host.removesuffix(default) if default else host


def redact(url: str) -> str:
    """A URL without user, password and the values of its query (signatures, upload states), for messages."""
    parts = urlsplit(url)
    query = "&".join(f"{item.partition('=')[0]}=…" for item in parts.query.split("&")) if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def web_url(text: str) -> SplitResult | None:
    """The parts of an http or https URL with a host; None when a text is none."""
    try:
        parts = urlsplit(text.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def follow(base: str, location: str, endpoint: Endpoint) -> str:
    """The URL a Location header stands for, seen from the URL `base`; raises `RegistryError` when it is none.

    A registry behind a proxy often names itself with http where it is spoken to by https: the scheme then stays https.
    """
    try:
        parts = web_url(urljoin(base, location.strip())) if location else None
    except ValueError:
        parts = None
    if parts is None:
        raise RegistryError(f"registry {endpoint.host} sent an unusable location {clean(location)!r}")
    if parts.scheme == "http" and endpoint.scheme == "https" and parts.hostname == urlsplit(endpoint.base).hostname:
        netloc = endpoint.host if parts.port in (None, 80) else parts.netloc
        parts = parts._replace(scheme="https", netloc=netloc)
    return urlunsplit(parts._replace(fragment=""))


def with_query(url: str, name: str, value: str) -> str:
    """A URL with one more query field, the rest of it untouched (an upload's state must come back as it was sent)."""
    return f"{url}{'&' if '?' in url else '?'}{name}={quote(value, safe='')}"


def next_page(links: Sequence[str], base: str) -> str | None:
    """Path and query of the next page by Link headers (RFC 8288, rel=next), whatever host they name; None at the end."""
    for value in links:
        for match in _LINK.finditer(value[:8192]):
            if re.search(r';\s*rel\s*=\s*"?[^";]*\bnext\b', match[2], re.IGNORECASE):
                try:
                    parts = urlsplit(urljoin(base, match[1]))
                except ValueError:
                    return None
                return f"{parts.path}?{parts.query}" if parts.query else parts.path
    return None


def content_start(value: str) -> int | None:
    """Where a partial answer begins, by its Content-Range; None when that cannot be read."""
    match = _CONTENT_RANGE.fullmatch(value.strip())
    return int(match[1]) if match else None


def acknowledged(value: str) -> int | None:
    """How many bytes of an upload a registry has, by the Range header of its answer; None when that cannot be read."""
    match = _UPLOAD_RANGE.fullmatch(value.strip())
    return int(match[1]) + 1 if match else None


def clean(text: str, limit: int = 400) -> str:
    """A foreign text on one line, without control characters, cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[:limit] + "…"


def error_text(body: bytes) -> tuple[frozenset[str], str]:
    """The codes and the words of an error's body: the spec's `{"errors": [{code, message, detail}]}`, or what resembles it."""
    try:
        value = codec.decode(body)
    except ValueError:
        text = body.decode("utf-8", "replace")
        return frozenset(), "" if "<html" in text.lower() or "<!doctype" in text.lower() else clean(text, 200)
    codes: set[str] = set()
    words: list[str] = []
    errors = value.get("errors") if isinstance(value, dict) else None
    for item in (errors if isinstance(errors, list) else [value])[:5]:
        if not isinstance(item, dict):
            continue
        code, message, detail = (item.get(k) for k in ("code", "message", "detail"))
        message = message or item.get("details") or item.get("error_description") or item.get("error")
        if isinstance(code, str):
            codes.add(code)
        said = [clean(x) for x in (code, message, detail) if isinstance(x, str) and x]
        words.append(": ".join(dict.fromkeys(said)))
    return frozenset(codes), clean("; ".join(w for w in words if w))


def says_immutable(status: int, message: str) -> bool:
    """Whether a refused manifest was refused because its tag may not be moved (no registry has a code of its own for it)."""
    return status in (409, 412) or _IMMUTABLE.search(message) is not None


def refusal(registry: str, what: str, status: int, headers: Headers, body: bytes, wall: float) -> RegistryError:
    """The error that an unwelcome answer stands for. `what` is the request, for people; `wall` the time since the epoch."""
    codes, text = error_text(body)
    tail = f": {text}" if text else ""
    if status in TRANSIENT_STATUSES:
        hint = f"log in with `docker login {registry}` for a higher limit, or wait" if "TOOMANYREQUESTS" in codes else None
        return TransientError(f"registry {registry} answered {status} {TRANSIENT_STATUSES[status]} ({what}){tail}",
                              status=status, hint=hint, retry_after=parse_retry_after(headers.get("retry-after"), wall))
    if status == 404:
        return NotFoundError(f"registry {registry}: not found ({what}){tail}", status=status)
    if status in (401, 403):
        return AuthError(f"registry {registry} denies access ({what}){tail}", status=status, hint=login_hint(registry))
    from http import HTTPStatus

    try:
        phrase = HTTPStatus(status).phrase.lower()
    except ValueError:
        phrase = "(unknown status)"
    return RegistryError(f"registry {registry} answered {status} {phrase} ({what}){tail}", status=status)


def login_hint(registry: str) -> str:
    """What to do about credentials."""
    return f"run `docker login {registry}`, or check the entry of {registry} in docker's config.json"


def asked(method: str, reference: Reference, digest: Digest | None = None) -> str:
    """A request for people: `HEAD app:1`, `PUT app@sha256:0123456789ab`."""
    digest = digest or reference.digest
    name = reference.repository
    if reference.registry == DOCKER_HUB:
        name = name.removeprefix("library/")
    return f"{method} {name}" + (f"@{digest.algorithm}:{digest.short}" if digest else f":{reference.target}")


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy that http_proxy, https_proxy (or all_proxy) and no_proxy prescribe for a URL; never one for the loopback.

    As Go's httpproxy has it: no_proxy is a list of hosts with or without port, `.suffix` and `suffix` mean a domain and what
    is below it, `*` everything.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    bracketed = f"[{host}]" if ":" in host else host
    if is_loopback(bracketed):
        return None

    def variable(name: str) -> str:
        return environment.get(name) or environment.get(name.upper()) or ""

    for rule in variable("no_proxy").lower().split(","):
        name, _, port = rule.strip().partition(":")
        name = name.removeprefix("*").lstrip(".") if rule.strip() != "*" else "*"
        if not name or (port and port != str(parts.port or {"http": 80, "https": 443}.get(parts.scheme))):
            continue
        if name == "*" or host == name or host.endswith("." + name):
            return None
    return variable(f"{parts.scheme}_proxy") or variable("all_proxy") or None
