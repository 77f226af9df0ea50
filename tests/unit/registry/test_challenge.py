"""Challenges, scopes and tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.registry.challenge import Challenge, covers, parse_challenges, parse_token, repository_scope, token_url


@pytest.mark.parametrize(("header", "expected"), [
    ('Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push"',
     [("bearer", {"realm": "https://auth.example/token", "service": "reg", "scope": "repository:a/b:pull,push"})]),
    ('Basic realm="a \\"quoted\\" realm, with comma"', [("basic", {"realm": 'a "quoted" realm, with comma'})]),
    ("Basic", [("basic", {})]),
    ('bearer REALM="x" , service=y', [("bearer", {"realm": "x", "service": "y"})]),
    ("Bearer realm=https://auth.example/token,service=reg",
     [("bearer", {"realm": "https://auth.example/token", "service": "reg"})]),
    ('Negotiate, Bearer realm="x",service="y", Basic realm="z"',
     [("negotiate", {}), ("bearer", {"realm": "x", "service": "y"}), ("basic", {"realm": "z"})]),
    ("Negotiate YWJjZA==, Basic realm=\"z\"", [("negotiate", {}), ("basic", {"realm": "z"})]),
    ("", []), ("  ,, ", []), ('Bearer realm="unterminated', [("bearer", {}), ]),
])  # fmt: skip
def test_challenges_are_read(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(c.scheme, dict(c.parameters)) for c in parse_challenges([header])][: len(expected) or None] == expected


def test_several_headers_are_several_challenges() -> None:
    assert [c.scheme for c in parse_challenges(["Basic realm=x", "Bearer realm=y"])] == ["basic", "bearer"]


@given(st.text(alphabet='Bear=",; \\abcrealm/:.\t', max_size=200))
def test_any_header_is_read_without_an_error(header: str) -> None:
    for challenge in parse_challenges([header]):
        assert isinstance(challenge, Challenge)


def test_a_hostile_header_is_read_in_no_time() -> None:
    assert parse_challenges(["a=" * 100_000]) is not None
    assert parse_challenges(['Bearer realm="' + "\\" * 100_000]) is not None
    assert parse_challenges(["Bearer realm=" + "a:" * 100_000]) is not None


def test_a_push_token_covers_a_pull() -> None:
    push, pull = repository_scope("app", "pull", "push"), repository_scope("app", "pull")
    assert push == "repository:app:pull,push"
    assert covers(frozenset({push}), frozenset({pull}))
    assert covers(frozenset({push, "repository:base:pull"}), frozenset({"repository:base:pull"}))
    assert not covers(frozenset({pull}), frozenset({push}))
    assert not covers(frozenset({push}), frozenset({repository_scope("other", "pull")}))
    assert covers(frozenset(), frozenset())


def test_the_token_url_asks_for_service_and_every_scope() -> None:
    url = token_url("https://a.example/token?x=1", "my reg", ["repository:a:pull", "repository:b:pull,push"], "anna&co")
    assert url == ("https://a.example/token?x=1&service=my%20reg&scope=repository:a:pull&scope=repository:b:pull,push"
                   "&account=anna%26co")
    assert token_url("https://a.example/token", "", []) == "https://a.example/token"


@pytest.mark.parametrize(("body", "value", "lifetime"), [
    (b'{"token":"t","expires_in":300}', "t", 290), (b'{"access_token":"a"}', "a", 50), (b'{"token":"t","expires_in":5}', "t", 4),
    (b'{"token":"t","expires_in":"soon"}', "t", 50), (b'{"token":"t","expires_in":-1}', "t", 50),
    (b'{"token":"t","expires_in":true}', "t", 50),
])  # fmt: skip
def test_a_token_counts_as_expired_a_little_early(body: bytes, value: str, lifetime: float) -> None:
    token = parse_token(body, 1000.0)
    assert token is not None
    assert (token.value, token.expires) == (value, 1000 + lifetime)
    assert value not in repr(token).replace("Token", "").replace("expires", "")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token":""}', b'{"token":7}', b'{"token":"a\\r\\nX-Evil: 1"}', b"no"])
def test_an_answer_without_a_usable_token_is_none(body: bytes) -> None:
    assert parse_token(body, 0.0) is None
