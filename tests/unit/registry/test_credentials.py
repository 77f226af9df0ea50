"""docker's config.json, and credential helpers (small real programs)."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import anyio
import pytest

from engine.errors import AuthError
from engine.registry.credentials import Credential, Credentials, parse_entry


def entry(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


async def found(config: dict[str, object], registry: str, repository: str = "") -> Credential | None:
    return await Credentials(config, {}).find(registry, repository)


@pytest.fixture
def helpers(tmp_path: Path) -> Path:
    """A folder on the PATH of `environment`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def write_helper(folder: Path, name: str, script: str) -> None:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {"PATH": f"{folder}:{os.environ['PATH']}", **more}


async def test_an_entry_is_user_and_password_in_base64() -> None:
    credential = await found({"auths": {"reg.example:5000": entry("anna", "p:w ü")}}, "reg.example:5000")
    assert credential == Credential("anna", "p:w ü")
    assert base64.b64decode(credential.basic().removeprefix("Basic ")).decode() == "anna:p:w ü"
    assert "p:w" not in repr(credential)


async def test_user_and_password_may_stand_in_fields_of_their_own() -> None:
    assert await found({"auths": {"r.io": {"username": "u", "password": "p"}}}, "r.io") == Credential("u", "p")


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "https://registry-1.docker.io/v2/"])
async def test_docker_hub_is_found_under_all_its_names(key: str) -> None:
    assert await found({"auths": {key: entry("u", "p")}}, "docker.io", "library/busybox") == Credential("u", "p")


@pytest.mark.parametrize("key", ["https://reg.example", "http://reg.example/", "https://reg.example/v1/", "reg.example/v2",
                                 "REG.example"])  # fmt: skip
async def test_legacy_forms_of_a_key(key: str) -> None:
    assert await found({"auths": {key: entry("u", "p")}}, "reg.example") == Credential("u", "p")


@pytest.mark.parametrize("key", [
    "reg.example.evil.com", "evilreg.example", "example", "reg.example:5000", "*.example", "https://evil.com/reg.example",
    "reg.example@evil.com",
])  # fmt: skip
async def test_a_host_that_only_looks_alike_gets_nothing(key: str) -> None:
    assert await found({"auths": {key: entry("u", "p")}}, "reg.example") is None


async def test_the_longest_path_wins() -> None:
    config: dict[str, object] = {"auths": {"r.io": entry("host", "p"), "r.io/team": entry("team", "p"),
                                           "r.io/team/app": entry("app", "p")}}  # fmt: skip
    users = {name: (await found(config, "r.io", name)) for name in ("team/app", "team/app/sub", "team/other", "teammate/x", "")}
    assert {name: c and c.username for name, c in users.items()} == {
        "team/app": "app", "team/app/sub": "app", "team/other": "team", "teammate/x": "host", "": "host"}  # fmt: skip


async def test_an_identity_token_has_no_password() -> None:
    config: dict[str, object] = {"auths": {"r.io": {"auth": entry("u", "")["auth"], "identitytoken": "IDT"}}}
    assert await found(config, "r.io") == Credential("u", "", identity_token="IDT")
    assert parse_entry(entry("<token>", "IDT"), "r.io") == Credential(identity_token="IDT")
    assert parse_entry({"registrytoken": "RT"}, "r.io") == Credential(registry_token="RT")


@pytest.mark.parametrize("auth", ["not base64!", base64.b64encode(b"nocolon").decode(), base64.b64encode(b"\xff:\xfe").decode()])
async def test_a_malformed_entry_is_an_error_only_where_it_applies(auth: str) -> None:
    config: dict[str, object] = {"auths": {"bad.io": {"auth": auth}, "good.io": entry("u", "p")}}
    assert await found(config, "good.io") == Credential("u", "p")
    with pytest.raises(AuthError, match=r"bad\.io") as raised:
        await found(config, "bad.io")
    assert auth not in str(raised.value)


async def test_an_odd_config_has_no_credentials() -> None:
    for config in ({}, {"auths": None}, {"auths": []}, {"auths": {"r.io": None}}, {"auths": {"r.io": {}}}, {"credsStore": 7}):
        assert await found(config, "r.io") is None  # type: ignore[arg-type]


async def test_a_helper_is_asked_for_its_registry_only(helpers: Path) -> None:
    write_helper(helpers, "one", 'read server; test "$1" = get && printf \'{"Username":"u@%s","Secret":"s"}\' "$server"')
    credentials = Credentials({"credHelpers": {"r.io": "one"}, "auths": {"other.io": entry("file", "p")}}, environment(helpers))
    assert await credentials.find("r.io", "a/b") == Credential("u@r.io", "s")
    assert await credentials.find("other.io") == Credential("file", "p")
    assert await credentials.find("third.io") is None


async def test_the_store_is_asked_for_everything_else_and_hub_by_its_legacy_key(helpers: Path) -> None:
    write_helper(helpers, "all", 'read server; printf \'{"Username":"%s","Secret":"s"}\' "$server"')
    credentials = Credentials({"credsStore": "all", "auths": {"https://index.docker.io/v1/": {}, "f.io": entry("f", "p")}},
                              environment(helpers))
    assert await credentials.find("docker.io") == Credential("https://index.docker.io/v1/", "s")
    assert await credentials.find("x.io:5000") == Credential("x.io:5000", "s")
    assert await credentials.find("f.io") == Credential("f", "p")


async def test_helpers_see_the_environment_they_are_given_and_nothing_else(helpers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAK", "leaked")
    write_helper(helpers, "env", 'printf \'{"Username":"%s-%s","Secret":"s"}\' "$REGION" "$LEAK"')
    credentials = Credentials({"credsStore": "env"}, environment(helpers, REGION="eu"))
    assert await credentials.find("r.io") == Credential("eu-", "s")


async def test_a_helper_runs_once_until_its_answer_is_rejected(helpers: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    write_helper(helpers, "count", f'echo run >> {log}; printf \'{{"Username":"u","Secret":"%s"}}\' "$(wc -l < {log} | tr -d " ")"')
    credentials = Credentials({"credsStore": "count"}, environment(helpers))
    results: list[Credential | None] = []

    async def find() -> None:
        results.append(await credentials.find("r.io"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(find)
    assert results == [Credential("u", "1")] * 5
    assert await credentials.find("r.io", rejected=Credential("u", "1")) == Credential("u", "2")
    assert await credentials.find("r.io", rejected=Credential("u", "1")) == Credential("u", "2")


async def test_a_helper_token_is_an_identity_token(helpers: Path) -> None:
    write_helper(helpers, "tok", 'printf \'{"Username":"<token>","Secret":"IDT"}\'')
    assert await Credentials({"credsStore": "tok"}, environment(helpers)).find("r.io") == Credential(identity_token="IDT")


@pytest.mark.parametrize("script", ['echo "credentials not found in native keychain"; exit 1',
                                    'printf \'{"Username":"","Secret":""}\''])  # fmt: skip
async def test_a_helper_that_knows_nothing_is_no_error(helpers: Path, script: str) -> None:
    write_helper(helpers, "none", script)
    assert await Credentials({"credsStore": "none"}, environment(helpers)).find("r.io") is None


async def test_a_failing_helper_is_quoted_but_a_secret_never_is(helpers: Path) -> None:
    write_helper(helpers, "fail", 'echo "keychain is locked" >&2; exit 3')
    with pytest.raises(AuthError, match=r"docker-credential-fail failed for r\.io: keychain is locked"):
        await Credentials({"credsStore": "fail"}, environment(helpers)).find("r.io")
    write_helper(helpers, "odd", "echo SECRET")
    with pytest.raises(AuthError, match="something else") as raised:
        await Credentials({"credsStore": "odd"}, environment(helpers)).find("r.io")
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize("name", ["missing", "../evil", "a/b", ""])
async def test_a_missing_helper_is_named_and_a_path_is_none(helpers: Path, name: str) -> None:
    credentials = Credentials({"credHelpers": {"r.io": name}}, environment(helpers))
    if not name:
        assert await credentials.find("r.io") is None
        return
    with pytest.raises(AuthError, match="is not on the PATH") as raised:
        await credentials.find("r.io")
    assert "docker login r.io" in (raised.value.hint or "")


async def test_a_helper_that_hangs_is_killed_at_its_deadline(helpers: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    write_helper(helpers, "hang", f"echo $$ > {pid}; exec sleep 1000")
    with pytest.raises(AuthError, match=r"no answer for r\.io within 0\.3 s"):
        await Credentials({"credsStore": "hang"}, environment(helpers), deadline=0.3).find("r.io")
    assert not pid.exists() or not Path("/proc", pid.read_text().strip()).exists()
