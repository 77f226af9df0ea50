"""Who we are to a registry: docker's config.json (auths, credHelpers, credsStore) and credential helpers.

An entry is for exactly the host (and port) it names, or for a path below it; the longest match wins. Entries are looked up
only when a registry asks for a login. A helper's answer is kept until a registry rejects it.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import anyio

from engine import codec
from engine.errors import AuthError
from engine.image.reference import DOCKER_HUB
from engine.registry.rules import clean
from engine.values import Value

_HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_FOUND = ("credentials not found", "not found in native keychain")
_IDENTITY_USER = "<token>"


class Credential(Value, frozen=True):
    """A user and password, an identity token (to be exchanged for bearer tokens), or a registry token (a bearer token itself).
    `source` says where it comes from."""

    UNSHOWN: ClassVar = frozenset({"password", "identity_token", "registry_token"})
    UNCOMPARED: ClassVar = frozenset({"source"})

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    source: str = ""

    def basic(self) -> str:
        """The Authorization header of the Basic scheme."""
        user, password = self.username or _IDENTITY_USER, self.password or self.identity_token
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Credentials:
    """The credentials that a config.json names.

    `config` is its parsed content; `environment` is what helpers are run with, and its PATH where they are looked for.
    `deadline` is how many seconds a helper may take.
    """

    def __init__(self, config: Mapping[str, object], environment: Mapping[str, str], *, deadline: float = 30.0) -> None:
        self._auths = _by_host(_mapping(config.get("auths")))
        self._helpers = _by_host(_mapping(config.get("credHelpers")))
        self._store = config.get("credsStore")
        self._environment = dict(environment)
        self._deadline = deadline
        self._answers: dict[tuple[str, str], Credential | None] = {}
        self._asking: dict[tuple[str, str], anyio.Lock] = {}

    async def find(self, registry: str, repository: str = "", *, rejected: Credential | None = None) -> Credential | None:
        """The credential for a repository, or None. A helper is asked again when what it gave is `rejected`.

        Raises `AuthError` when the entry that applies is malformed or its helper fails.
        """
        host = DOCKER_HUB if registry.lower() in _HUB_NAMES else registry.lower()
        parts = [host, *filter(None, repository.split("/"))]
        for key in ("/".join(parts[:n]) for n in range(len(parts), 0, -1)):
            helper = self._helpers.get(key)
            if isinstance(helper, str) and helper:
                return await self._ask(helper, _server(key), rejected)
            entry = self._auths.get(key)
            credential = parse_entry(entry, key) if isinstance(entry, Mapping) else None
            if credential:
                return credential
        if isinstance(self._store, str) and self._store:
            return await self._ask(self._store, _server(host), rejected)
        return None

    async def _ask(self, helper: str, server: str, rejected: Credential | None) -> Credential | None:
        key = (helper, server)
        async with self._asking.setdefault(key, anyio.Lock()):
            if key not in self._answers or (rejected is not None and self._answers[key] == rejected):
                self._answers[key] = await self._run(helper, server)
            return self._answers[key]

    async def _run(self, helper: str, server: str) -> Credential | None:
        name = f"docker-credential-{helper}"
        program = shutil.which(name, path=self._environment.get("PATH", "")) if _HELPER_NAME.fullmatch(helper) else None
        if program is None:
            raise AuthError(f"credential helper {clean(name)} is not on the PATH",
                            hint=f"install it, or remove it from docker's config.json and run `docker login {server}`")
        try:
            with anyio.fail_after(self._deadline), _input(server.encode()) as stdin:
                done = await anyio.run_process([program, "get"], stdin=stdin, check=False, env=self._environment,
                                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except TimeoutError:
            raise AuthError(f"credential helper {name} gave no answer for {server} within {self._deadline:g} s") from None
        except OSError as error:
            raise AuthError(f"credential helper {name} cannot be run: {error.strerror or error}") from error
        if done.returncode:
            said = clean((done.stdout or done.stderr).decode("utf-8", "replace"))
            if any(text in said.lower() for text in _NOT_FOUND):
                return None
            raise AuthError(f"credential helper {name} failed for {server}: {said or f'exit code {done.returncode}'}")
        return parse_answer(done.stdout, name)


def parse_entry(entry: Mapping[str, object], key: str) -> Credential | None:
    """The credential of one entry of `auths`; None when it is empty (a helper's mark). Raises `AuthError` when malformed."""
    source = f"the entry {key} of config.json"
    texts = {name: value for name, value in entry.items() if isinstance(value, str)}
    username, password = texts.get("username", ""), texts.get("password", "")
    if texts.get("auth"):
        try:
            username, colon, password = base64.b64decode(texts["auth"], validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if not colon:
            raise AuthError(f"invalid docker config: `auth` of {clean(key)} is not the base64 form of user:password",
                            hint=f"run `docker login {clean(key)}` again")
    password = password.rstrip("\0")
    identity, registry = texts.get("identitytoken", ""), texts.get("registrytoken", "")
    if username == _IDENTITY_USER and password and not identity:
        username, password, identity = "", "", password
    if not (username or identity or registry):
        return None
    return Credential(username, password, identity, registry, source)


def parse_answer(output: bytes, name: str) -> Credential | None:
    """The credential that a helper's `get` printed; None when it is empty. Raises `AuthError` when it is malformed (without
    quoting it)."""
    try:
        value = codec.decode(output)
        username, secret = value["Username"], value["Secret"]
    except (ValueError, TypeError, KeyError):
        username = secret = None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise AuthError(f"credential helper {name} printed something else than a credential")
    if not secret and not username:
        return None
    if username == _IDENTITY_USER:
        return Credential(identity_token=secret, source=name)
    return Credential(username, secret, source=name)


@contextmanager
def _input(data: bytes) -> Iterator[int]:
    """A pipe's end to read some bytes from; a helper may end without having read them."""
    reader, writer = os.pipe()
    try:
        os.write(writer, data)
        os.close(writer)
        yield reader
    finally:
        os.close(reader)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _server(key: str) -> str:
    return _HUB_KEY if key == DOCKER_HUB else key


def _by_host(entries: Mapping[str, object]) -> dict[str, object]:
    """Entries under `host` or `host/path`, whatever form their key has (https://host/v1/, host/); an exact key wins."""
    found: dict[str, object] = {}
    for key, value in sorted(entries.items(), key=lambda item: "://" in item[0], reverse=True):
        host, _, path = re.sub(r"^https?://", "", key.strip(), flags=re.IGNORECASE).rstrip("/").partition("/")
        host, path = host.lower(), "" if path in ("v1", "v2") else path
        if host in _HUB_NAMES:
            host = DOCKER_HUB
        if host:
            found[f"{host}/{path}" if path else host] = value
    return found
