"""Basic authentication and tokens, as a client meets them."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest

from engine.registry.server.access import BasicAuth, TokenAuth

ALICE = "Basic " + base64.b64encode(b"alice:se:cret").decode()
WRONG = "Basic " + base64.b64encode(b"alice:wrong").decode()
NOBODY = "Basic " + base64.b64encode(b"nobody:").decode()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def guarded(serve: Any, clock: Clock) -> Any:
    return await serve(auth=TokenAuth({"alice": "se:cret"}, lifetime=60, clock=clock))


async def token(client: Any, *scopes: str, authorization: str = ALICE) -> str:
    query = "&".join(f"scope={s}" for s in scopes)
    answer = await client("GET", f"/token?service=aniko&{query}", **({"Authorization": authorization} if authorization else {}))
    assert answer.status == 200, answer
    return f"Bearer {answer.json['token']}"


@pytest.mark.parametrize("header", ["", WRONG, NOBODY, "Basic %%%", "Basic " + base64.b64encode(b"alice").decode(), "Bearer x"])
async def test_basic_authentication_refuses(serve: Any, header: str) -> None:
    client = await serve(auth=BasicAuth({"alice": "se:cret"}))
    answer = await client("GET", "/v2/", **({"Authorization": header} if header else {}))
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="aniko registry"'


async def test_basic_authentication_lets_in(serve: Any) -> None:
    client = await serve(auth=BasicAuth({"alice": "se:cret"}))
    await client.blob("a", b"content", Authorization=ALICE)
    digest = hashlib.sha256(b"content").hexdigest()
    assert (await client("GET", f"/v2/a/blobs/sha256:{digest}", Authorization=ALICE)).status == 200


@pytest.mark.parametrize(("method", "path", "scope"), [
    ("GET", "/v2/", ""), ("GET", "/v2/a/b/manifests/v1", "repository:a/b:pull"),
    ("HEAD", "/v2/a/manifests/v1", "repository:a:pull"),
    ("POST", "/v2/a/blobs/uploads/", "repository:a:pull,push"), ("PUT", "/v2/a/manifests/v1", "repository:a:pull,push"),
    ("DELETE", "/v2/a/manifests/v1", "repository:a:delete"),
])  # fmt: skip
async def test_the_challenge_says_where_to_get_a_token_and_for_what(guarded: Any, method: str, path: str, scope: str) -> None:
    answer = await guarded(method, path)
    assert answer.status == 401
    assert guarded.server.requests[-1].received == 0
    told = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers["WWW-Authenticate"]))
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert told == {"realm": f"http://{guarded.server.address}/token", "service": "aniko"} | ({"scope": scope} if scope else {})


async def test_a_token_is_good_for_its_scope_only(guarded: Any) -> None:
    bearer = await token(guarded, "repository:a:pull,push")
    await guarded.blob("a", b"content", Authorization=bearer)
    for method, path in (("POST", "/v2/b/blobs/uploads/"), ("DELETE", "/v2/a/manifests/v1")):
        answer = await guarded(method, path, Authorization=bearer)
        assert answer.status == 401
        assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]


async def test_a_token_expires(guarded: Any, clock: Clock) -> None:
    bearer = await token(guarded, "repository:a:pull")
    clock.now = 59
    assert (await guarded("GET", "/v2/", Authorization=bearer)).status == 200
    clock.now = 60
    answer = await guarded("GET", "/v2/", Authorization=bearer)
    assert (answer.status, 'error="invalid_token"' in answer.headers["WWW-Authenticate"]) == (401, True)
    guarded.server.auth.revoke()
    assert (await guarded("GET", "/v2/", Authorization=bearer)).status == 401


async def test_wrong_credentials_get_no_token(guarded: Any) -> None:
    for header in (WRONG, NOBODY, "Bearer x"):
        assert (await guarded("GET", "/token?service=aniko", Authorization=header)).status == 401


async def test_nobody_gets_a_token_that_is_good_for_nothing(guarded: Any) -> None:
    bearer = await token(guarded, "repository:a:pull", authorization="")
    assert (await guarded("GET", "/v2/a/tags/list", Authorization=bearer)).status == 401


async def test_nobody_may_pull_where_that_is_allowed(serve: Any) -> None:
    client = await serve(auth=TokenAuth({}, anonymous_pull=True))
    bearer = await token(client, "repository:a:pull,push", authorization="")
    assert (await client("GET", "/v2/a/tags/list", Authorization=bearer)).code == "NAME_UNKNOWN"
    assert (await client("POST", "/v2/a/blobs/uploads/", Authorization=bearer)).status == 401


async def test_a_mount_needs_the_right_to_pull_there(guarded: Any) -> None:
    digest = "sha256:" + hashlib.sha256(b"content").hexdigest()
    await guarded.blob("from", b"content", Authorization=await token(guarded, "repository:from:pull,push"))
    path = f"/v2/to/blobs/uploads/?mount={digest}&from=from"
    narrow = await token(guarded, "repository:to:pull,push")
    assert (await guarded("POST", path, Authorization=narrow)).status == 202
    wide = await token(guarded, "repository:to:pull,push", "repository:from:pull")
    assert (await guarded("POST", path, Authorization=wide)).status == 201


async def test_the_oauth2_form_with_a_refresh_token(guarded: Any) -> None:
    form = {"grant_type": "password", "username": "alice", "password": "se:cret", "scope": "repository:a:pull",
            "access_type": "offline", "service": "aniko", "client_id": "test"}
    first = (await guarded("POST", "/token", form)).json
    assert (await guarded("GET", "/v2/a/tags/list", Authorization=f"Bearer {first['access_token']}")).code == "NAME_UNKNOWN"
    again = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"], "scope": "repository:b:pull"}
    second = (await guarded("POST", "/token", again)).json
    assert (await guarded("GET", "/v2/b/tags/list", Authorization=f"Bearer {second['access_token']}")).code == "NAME_UNKNOWN"
    assert (await guarded("POST", "/token", again | {"refresh_token": "x"})).status == 401
    assert (await guarded("POST", "/token", form | {"password": "x"})).status == 401
