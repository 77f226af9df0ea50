"""Which secret is the login for a repository, and that nothing shows it."""

from __future__ import annotations

from base64 import b64encode

import pytest

from engine.context.git_login import Login, login_for, without_login
from engine.errors import SecretError

URL = "https://h.example:8443/a/r.git"
HOST = ".h.example:8443"


def basic(pair: str) -> str:
    return f"Basic {b64encode(pair.encode()).decode()}"


def login(remote: str = URL, **secrets: str) -> Login | None:
    values = {key.replace("__HOST", HOST): value.encode() for key, value in secrets.items()}
    return login_for(remote, values.get)


@pytest.mark.parametrize(("secrets", "header", "scope"), [
    ({"GIT_AUTH_TOKEN": "tok"}, basic("x-access-token:tok"), URL),
    ({"GIT_AUTH_TOKEN": " tok\n"}, basic("x-access-token:tok"), URL),
    ({"GIT_AUTH_HEADER": "Bearer abc"}, "Bearer abc", URL),
    ({"GIT_AUTH_HEADER": "bearer", "GIT_AUTH_TOKEN": "tok"}, "Bearer tok", URL),
    ({"GIT_AUTH_HEADER": "basic", "GIT_AUTH_TOKEN": "me:pw"}, basic("me:pw"), URL),
    ({"GIT_AUTH_HEADER": "basic", "GIT_AUTH_TOKEN": "tok"}, basic("x-access-token:tok"), URL),
    ({"GIT_AUTH_TOKEN": "any", "GIT_AUTH_TOKEN__HOST": "its"}, basic("x-access-token:its"), "https://h.example:8443/"),
    ({"GIT_AUTH_HEADER": "Bearer any", "GIT_AUTH_TOKEN__HOST": "its"}, basic("x-access-token:its"), "https://h.example:8443/"),
    ({"GIT_AUTH_HEADER__HOST": "Bearer its", "GIT_AUTH_TOKEN__HOST": "no"}, "Bearer its", "https://h.example:8443/"),
    ({"GIT_AUTH_HEADER__HOST": "bearer", "GIT_AUTH_TOKEN": "tok"}, "Bearer tok", "https://h.example:8443/"),
])  # fmt: skip
def test_secrets_of_the_host_come_first(secrets: dict[str, str], header: str, scope: str) -> None:
    found = login(**secrets)
    assert found
    assert (found.header, found.scope) == (header, scope)


@pytest.mark.parametrize("remote", ["git@h.example:a/r.git", "ssh://git@h.example/r.git", "git://h.example/r.git"])
def test_there_is_none_but_for_http(remote: str) -> None:
    assert login(remote, GIT_AUTH_TOKEN="tok") is None


def test_other_hosts_get_nothing_of_this_one() -> None:
    assert login("https://h.example/a/r.git", GIT_AUTH_TOKEN__HOST="tok") is None
    assert login() is None


def test_at_github_a_token_is_for_all_repositories() -> None:
    found = login("https://github.com/a/b.git", GIT_AUTH_TOKEN="tok")
    assert found
    assert found.scope == "https://github.com/"


def test_a_login_in_the_url_is_taken_out_of_it() -> None:
    remote = "https://me:p%40ss@h.example/r.git"
    found = login(remote)
    assert found
    assert (found.header, found.scope, without_login(remote)) == (basic("me:p@ss"), "https://h.example/r.git", "https://h.example/r.git")
    with_secret = login(remote, GIT_AUTH_TOKEN="tok")
    assert with_secret
    assert with_secret.header == basic("x-access-token:tok")
    assert without_login("https://me@h/r.git") == "https://me@h/r.git"
    assert without_login("me:pw@h:r.git") == "me:pw@h:r.git"


@pytest.mark.parametrize("secrets", [
    {"GIT_AUTH_HEADER": "basic"}, {"GIT_AUTH_HEADER": "tok3n", "GIT_AUTH_TOKEN": "x"}, {"GIT_AUTH_TOKEN": "a\nEvil: b"},
    {"GIT_AUTH_HEADER": "Bearer x\ry"}, {"GIT_AUTH_TOKEN": "a\0b"},
])  # fmt: skip
def test_what_is_no_header_is_a_mistake_that_does_not_show_it(secrets: dict[str, str]) -> None:
    with pytest.raises(SecretError) as caught:
        login(**secrets)
    told = f"{caught.value} {caught.value.hint}"
    assert not [value for value in ("tok3n", "Evil") if value in told]


def test_nothing_shows_it() -> None:
    found = login(GIT_AUTH_TOKEN="s3cret")
    assert found
    assert "s3cret" not in repr(found)
    assert found.header not in repr(found)
    said = found.hide(f"fatal: {found.header} s3cret {found.header[6:]} end")
    assert said == "fatal: xxxxx xxxxx xxxxx end"


def test_git_is_told_by_its_environment() -> None:
    found = login(GIT_AUTH_TOKEN="tok")
    assert found
    assert found.environment == {
        "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": f"http.{URL}.extraHeader", "GIT_CONFIG_VALUE_0": f"Authorization: {found.header}",
        "GIT_CONFIG_KEY_1": f"http.{URL}.followRedirects", "GIT_CONFIG_VALUE_1": "false",
    }  # fmt: skip
