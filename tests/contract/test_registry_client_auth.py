"""Token logins: scopes, renewal, identity tokens, and services that refuse or lie."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from engine.errors import AuthError, RegistryError
from engine.image.descriptor import OCI_INDEX
from engine.image.manifest import make_index
from engine.image.reference import Reference
from engine.registry.server.access import TokenAuth
from engine.registry.server.faults import Fault
from engine.registry.server.server import RegistryServer
from tests.contract.registry_fixtures.clients import Clock, connected, login, make_blob, pull
from tests.contract.registry_fixtures.scripted import Say, Scripted

MIB = 1 << 20


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RegistryServer]:
    async with RegistryServer(tmp_path / "registry", auth=TokenAuth({"anna": "secret"}, anonymous_pull=True)) as server:
        yield server


@pytest.fixture
def reference(server: RegistryServer) -> Reference:
    return Reference.parse(f"{server.address}/app:1")


def tokens(server: RegistryServer) -> TokenAuth:
    assert isinstance(server.auth, TokenAuth)
    return server.auth


def token_requests(server: RegistryServer) -> list[tuple[str, list[str]]]:
    """Method and scopes of the requests to the token service."""
    return [(e.method, sorted(urllib.parse.parse_qs(e.query).get("scope", []))) for e in server.requests if e.path == "/token"]


async def test_one_token_does_for_a_whole_push(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, MIB)
    async with connected(login(server.address, "anna", "secret")) as client:
        assert await client.push_blob(reference, descriptor, path)
        await client.push_manifest(reference, make_index([]).raw, OCI_INDEX)
        assert await pull(client, reference, descriptor) == data
        await client.resolve(reference)
    assert token_requests(server) == [("GET", ["repository:app:pull,push"])]


async def test_many_requests_at_once_get_one_token(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    async with connected(login(server.address, "anna", "secret")) as client:
        await client.push_manifest(reference, make_index([]).raw, OCI_INDEX)
        tokens(server).revoke()
        before = len(token_requests(server))
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(client.resolve, reference)
        assert len(token_requests(server)) == before + 1


async def test_a_mount_asks_for_the_source_too(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 1000)
    other = replace(reference, repository="other")
    async with connected(login(server.address, "anna", "secret")) as client:
        await client.push_blob(reference, descriptor, path)
        assert not await client.push_blob(other, descriptor, path, mount_from=[reference])
        assert await pull(client, other, descriptor) == data
    assert ("GET", ["repository:app:pull", "repository:other:pull,push"]) in token_requests(server)


async def test_nobody_may_pull_where_the_service_lets_them(server: RegistryServer, reference: Reference, tmp_path: Path) -> None:
    async with connected(login(server.address, "anna", "secret")) as client:
        await client.push_manifest(reference, make_index([]).raw, OCI_INDEX)
    path, _, descriptor = make_blob(tmp_path, 10)
    async with connected() as client:
        await client.resolve(reference)
        with pytest.raises(AuthError, match=r"denies access \(PUT app@sha256:") as raised:
            await client.push_blob(reference, descriptor, path)
    assert "docker login" in (raised.value.hint or "")


async def test_a_token_that_expires_is_renewed_before_and_after(tmp_path: Path) -> None:
    clock = Clock()
    auth = TokenAuth({"anna": "secret"}, lifetime=100, clock=clock.now)
    async with RegistryServer(tmp_path / "r", auth=auth) as server, \
            connected(login(server.address, "anna", "secret"), clock=clock) as client:
        reference = Reference.parse(f"{server.address}/app:1")
        await client.push_manifest(reference, make_index([]).raw, OCI_INDEX)
        assert auth.issued == 1
        clock.time += 95  # still good by the service's clock, but about to expire
        await client.push_manifest(reference, make_index([]).raw, OCI_INDEX)
        assert auth.issued == 2
        before = len(server.requests)
        auth.revoke()
        await client.push_manifest(reference, make_index([]).raw, OCI_INDEX)
        assert auth.issued == 3
        assert [e.status for e in list(server.requests)[before:]] == [401, 200, 201]


async def test_a_token_that_expires_in_the_middle_of_an_upload_is_renewed(server: RegistryServer, reference: Reference,
                                                                          tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 6 * MIB)
    revoked = []

    def progress(moved: int) -> None:
        if not revoked and moved >= 2 * MIB:
            revoked.append(moved)
            tokens(server).revoke()

    async with connected(login(server.address, "anna", "secret")) as client:
        server.add_fault(Fault("PUT", ".*/blobs/uploads/.*", kind="reset", after=4 * MIB))
        assert await client.push_blob(reference, descriptor, path, progress=progress)
        assert await pull(client, reference, descriptor) == data
    assert revoked


async def test_a_wrong_password_is_the_token_services_word(server: RegistryServer, reference: Reference) -> None:
    async with connected(login(server.address, "anna", "SECRET")) as client:
        with pytest.raises(AuthError, match=r"token service .*/token of registry .* rejects the login of user 'anna'") as raised:
            await client.resolve(reference)
    assert "incorrect username or password" in raised.value.message
    assert "SECRET" not in raised.value.message + (raised.value.hint or "")


async def test_an_identity_token_is_posted(server: RegistryServer, reference: Reference) -> None:
    offline = tokens(server).issue(("anna", "secret"), [], offline=True)
    config: dict[str, object] = {"auths": {server.address: {"identitytoken": offline["refresh_token"]}}}
    async with connected(config) as client:
        await client.push_manifest(reference, make_index([]).raw, OCI_INDEX)
    assert [method for method, _ in token_requests(server)] == ["POST"]


async def test_a_token_service_that_stays_broken_is_given_up(server: RegistryServer, reference: Reference) -> None:
    clock = Clock()
    server.add_fault(Fault("GET", "/token", status=503, times=None))
    async with connected(login(server.address, "anna", "secret"), clock=clock) as client:
        with pytest.raises(RegistryError, match=r"503 service unavailable \(its token service, for HEAD app:1\)"):
            await client.resolve(reference)
    assert len(token_requests(server)) <= 7


async def test_a_token_service_that_fails_is_tried_again(server: RegistryServer, reference: Reference) -> None:
    clock = Clock()
    server.add_fault(Fault("GET", "/token", status=503, times=2))
    server.add_fault(Fault("GET", "/token", kind="reset"))
    async with connected(login(server.address, "anna", "secret"), clock=clock) as client:
        await client.push_manifest(reference, make_index([]).raw, OCI_INDEX)
    assert clock.slept


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    async with Scripted() as server:
        yield server


def challenge(server: Scripted, *, realm: str = "", more: str = "") -> Say:
    realm = realm or f"http://{server.address}/token"
    return Say(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="reg"{more}'})


MANIFEST = Say(200, make_index([]).raw, {"Content-Type": OCI_INDEX})


async def test_an_identity_token_falls_back_to_get(scripted: Scripted) -> None:
    scripted.on("GET", ".*/manifests/1", challenge(scripted), MANIFEST)
    scripted.on("POST", "/token", Say(404))
    scripted.on("GET", "/token", Say(200, b'{"access_token":"T"}'))
    config: dict[str, object] = {"auths": {scripted.address: {"identitytoken": "IDT", "username": "anna"}}}
    async with connected(config) as client:
        await client.manifest(Reference.parse(f"{scripted.address}/app:1"))
    post = next(s for s in scripted.seen if s.method == "POST")
    assert urllib.parse.parse_qs(post.body.decode()) == {
        "grant_type": ["refresh_token"], "refresh_token": ["IDT"], "client_id": ["aniko"], "service": ["reg"],
        "scope": ["repository:app:pull"]}  # fmt: skip
    get = next(s for s in scripted.seen if s.method == "GET" and s.path == "/token")
    assert get.headers["Authorization"] == "Basic " + base64.b64encode(b"anna:IDT").decode()
    assert scripted.seen[-1].headers["Authorization"] == "Bearer T"


async def test_a_password_is_posted_where_get_is_not_known(scripted: Scripted) -> None:
    scripted.on("GET", ".*/manifests/1", challenge(scripted), MANIFEST)
    scripted.on("GET", "/token", Say(405))
    scripted.on("POST", "/token", Say(200, b'{"access_token":"T"}'))
    async with connected(login(scripted.address, "anna", "p&w")) as client:
        await client.manifest(Reference.parse(f"{scripted.address}/app:1"))
    post = next(s for s in scripted.seen if s.method == "POST")
    assert urllib.parse.parse_qs(post.body.decode())["password"] == ["p&w"]


async def test_a_registry_token_is_used_as_it_is(scripted: Scripted) -> None:
    scripted.on("GET", ".*/manifests/1", challenge(scripted), MANIFEST)
    config: dict[str, object] = {"auths": {scripted.address: {"registrytoken": "RT"}}}
    async with connected(config) as client:
        await client.manifest(Reference.parse(f"{scripted.address}/app:1"))
    assert scripted.seen[-1].headers["Authorization"] == "Bearer RT"
    assert not scripted.count("GET", "/token")


async def test_scopes_that_the_challenge_adds_are_asked_for(scripted: Scripted) -> None:
    scripted.on("GET", ".*/manifests/1", challenge(scripted, more=',scope="repository:app:pull registry:catalog:*"'), MANIFEST)
    scripted.on("GET", "/token", Say(200, b'{"token":"T"}'))
    async with connected() as client:
        await client.manifest(Reference.parse(f"{scripted.address}/app:1"))
    get = next(s for s in scripted.seen if s.path == "/token")
    assert sorted(urllib.parse.parse_qs(get.query)["scope"]) == ["registry:catalog:*", "repository:app:pull"]


async def test_a_token_that_is_always_rejected_ends_in_an_error(scripted: Scripted) -> None:
    scripted.on("GET", ".*/manifests/1", challenge(scripted, more=',error="insufficient_scope"'))
    scripted.on("GET", "/token", Say(200, b'{"token":"T"}'))
    async with connected(login(scripted.address, "anna", "x")) as client:
        with pytest.raises(AuthError, match=r"denies access \(GET app:1\)"):
            await client.manifest(Reference.parse(f"{scripted.address}/app:1"))
    assert scripted.count("GET", "/token") <= 2


@pytest.mark.parametrize(("answer", "message"), [
    (Say(200, b"<html>"), "gave no token: status 200"), (Say(418, b"{}"), "gave no token: status 418"),
    (Say(200, b'{"token":"' + b"x" * 1_000_000 + b'"}'), "sent more than"),
    (Say(401, b'{"details":"go away"}'), "asks for a login and there is none for it .*go away"),
])  # fmt: skip
async def test_a_token_service_without_a_token_is_an_error(scripted: Scripted, answer: Say, message: str) -> None:
    scripted.on("GET", ".*/manifests/1", challenge(scripted))
    scripted.on("GET", "/token", answer)
    async with connected() as client:
        with pytest.raises(RegistryError, match=message):
            await client.manifest(Reference.parse(f"{scripted.address}/app:1"))


@pytest.mark.parametrize("header", [None, "Negotiate", 'Bearer service="no realm"', "Digest realm=x"])
async def test_a_login_of_an_unknown_kind_is_an_error(scripted: Scripted, header: str | None) -> None:
    scripted.on("GET", ".*/manifests/1", Say(401, headers={"WWW-Authenticate": header} if header else {}))
    async with connected(login(scripted.address, "anna", "x")) as client:
        with pytest.raises(AuthError, match="offers no login known here"):
            await client.manifest(Reference.parse(f"{scripted.address}/app:1"))


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "//x", "http://[/", "http://h:99999999/"])
async def test_a_token_service_that_is_no_url_is_an_error(scripted: Scripted, realm: str) -> None:
    scripted.on("GET", ".*/manifests/1", challenge(scripted, realm=realm))
    async with connected(login(scripted.address, "anna", "x")) as client:
        with pytest.raises(AuthError, match="unusable token service"):
            await client.manifest(Reference.parse(f"{scripted.address}/app:1"))


async def test_a_helpers_new_password_replaces_a_rejected_one(scripted: Scripted, tmp_path: Path) -> None:
    helper = tmp_path / "docker-credential-cloud"
    helper.write_text(f'#!/bin/sh\necho x >> {tmp_path}/runs\n'
                      f'printf \'{{"Username":"u","Secret":"%s"}}\' "$(/usr/bin/wc -l < {tmp_path}/runs | /usr/bin/tr -d " ")"\n')
    helper.chmod(0o755)
    wants = Say(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    scripted.on("GET", ".*/manifests/1", wants, MANIFEST, wants, MANIFEST, wants, wants, wants, wants)
    reference = Reference.parse(f"{scripted.address}/app:1")
    async with connected({"credHelpers": {scripted.address: "cloud"}}, environment={"PATH": str(tmp_path)}) as client:
        await client.manifest(reference)
        await client.manifest(reference)  # what the helper gave first has expired
        used = [s.headers.get("Authorization") for s in scripted.seen if s.path.endswith("/manifests/1")]
        first, second = ("Basic " + base64.b64encode(f"u:{n}".encode()).decode() for n in (1, 2))
        assert used == [None, first, first, second]
        with pytest.raises(AuthError):
            await client.manifest(reference)


async def test_the_login_stays_with_the_registry_when_it_redirects(scripted: Scripted, tmp_path: Path) -> None:
    _, data, descriptor = make_blob(tmp_path, 5000)
    async with Scripted() as storage:
        storage.on("GET", "/signed", Say(200, data))
        port = storage.address.rpartition(":")[2]
        wants = Say(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        away = Say(307, headers={"Location": f"http://127.0.0.1:{port}/signed?sig=1"})
        scripted.on("GET", ".*/blobs/.*", wants, away)
        async with connected(login(scripted.address, "anna", "x")) as client:
            assert await pull(client, Reference.parse(f"{scripted.address}/app:1"), descriptor) == data
        assert "Authorization" in scripted.seen[-1].headers
        assert [("Authorization" in s.headers, s.query) for s in storage.seen] == [(False, "sig=1")]
