"""Logins for git over http: which of a build's secrets is for a repository, and how git is told of it. Pure.

As with BuildKit the secrets are `GIT_AUTH_TOKEN`, a token, and `GIT_AUTH_HEADER`, the value of the header `Authorization` (or just
its scheme, `basic` or `bearer`, beside a token); with `.HOST` behind the name they are for that host, submodules there included.
git learns of a login by variables of its environment, which nobody but its own user can read, and forgets it when it ends.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from engine.errors import SecretError
from engine.values import Value

Secrets = Callable[[str], bytes | None]
"""A secret's value by its id, None when it was not given. Raises `SecretError`."""

TOKEN, HEADER = "GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"
_GITHUB = ("https://github.com/", "https://www.github.com/")
_HIDDEN = "xxxxx"
_SHORTEST = 4
"""Secrets of fewer characters are not looked for in what git says: they would be found everywhere."""


class Login(Value, frozen=True):
    """What git sends along to URLs that begin with `scope`. `origin` says for people where it comes from."""

    UNSHOWN: ClassVar = frozenset({"header", "values"})

    scope: str
    header: str
    origin: str
    values: tuple[str, ...] = ()
    """All that must not be shown."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for git. It follows no redirect then: it would send the login wherever that leads."""
        settings = {f"http.{self.scope}.extraHeader": f"Authorization: {self.header}",
                    f"http.{self.scope}.followRedirects": "false"}  # fmt: skip
        pairs = {f"GIT_CONFIG_{part}_{n}": text for n, pair in enumerate(settings.items())
                 for part, text in zip(("KEY", "VALUE"), pair, strict=True)}  # fmt: skip
        return {"GIT_CONFIG_COUNT": str(len(settings)), **pairs}

    def hide(self, text: str) -> str:
        """A text without the login, should it be in it."""
        for value in sorted({self.header, *self.values}, key=len, reverse=True):
            if len(value) >= _SHORTEST:
                text = text.replace(value, _HIDDEN)
        return text


def login_for(remote: str, secrets: Secrets) -> Login | None:
    """The login for a repository: of the secrets for its host, else of those for any, else the one in its URL. None if there is
    none, or if the repository is not spoken to by http. Raises `SecretError`."""
    parts = urlsplit(remote) if remote.lower().startswith(("http://", "https://")) else None
    if parts is None:
        return None
    host = parts.netloc.rpartition("@")[2]
    bare = without_login(remote)
    whole = f"{parts.scheme.lower()}://{host}/"
    general = whole if bare.startswith(_GITHUB) else bare
    return (_from_secrets(f".{host}", whole, secrets, "") or _from_secrets("", general, secrets, f".{host}")
            or _from_url(parts.username, parts.password, bare))  # fmt: skip


def without_login(remote: str) -> str:
    """A repository's URL without the user and password in it, if it is spoken to by http and both are there."""
    if not remote.lower().startswith(("http://", "https://")):
        return remote
    parts = urlsplit(remote)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.password else remote


def _from_secrets(suffix: str, scope: str, secrets: Secrets, other: str) -> Login | None:
    """The login of the secrets with a suffix; `other` is another suffix under which the scheme's token may be."""
    header, token = _text(HEADER + suffix, secrets), _text(TOKEN + suffix, secrets)
    if header and " " not in header:
        token = token or _text(TOKEN + other, secrets) or _text(TOKEN, secrets)
        if header.lower() not in ("basic", "bearer") or not token:
            raise SecretError(f"secret {HEADER}{suffix} is no value for an Authorization header",
                              hint=f"it is a scheme and credentials, or `basic` or `bearer` beside the secret {TOKEN}")
        header = f"Bearer {token}" if header.lower() == "bearer" else _basic(token if ":" in token else f"x-access-token:{token}")
    if header:
        return Login(scope, header, f"secret {HEADER}{suffix}", (header.partition(" ")[2], token))
    if token:
        header = _basic(f"x-access-token:{token}")
        return Login(scope, header, f"secret {TOKEN}{suffix}", (header.partition(" ")[2], token))
    return None


def _from_url(user: str | None, password: str | None, scope: str) -> Login | None:
    if not password:
        return None
    header = _basic(f"{unquote(user or '')}:{unquote(password)}")
    return Login(scope, header, "the URL's own login", (header.partition(" ")[2], password, unquote(password)))


def _basic(pair: str) -> str:
    return f"Basic {b64encode(pair.encode()).decode()}"


def _text(id: str, secrets: Secrets) -> str:
    data = secrets(id)
    if data is None:
        return ""
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        text = "\n"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise SecretError(f"secret {id} cannot be sent in a header: it has more than one line, or is no text")
    return text
