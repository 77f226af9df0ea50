"""Where the state and the credentials are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import paths
from engine.errors import UsageError


@pytest.mark.parametrize(
    ("given", "environ", "path"),
    [
        ("/flag", {"ANIKO_STATE_DIR": "/env"}, "/flag"),
        (None, {"ANIKO_STATE_DIR": "/env", "XDG_STATE_HOME": "/xdg"}, "/env"),
        (None, {"XDG_STATE_HOME": "/xdg", "HOME": "/home/u"}, "/xdg/aniko"),
        (None, {"XDG_STATE_HOME": "relative", "HOME": "/home/u"}, "/home/u/.local/state/aniko"),
        (None, {"HOME": "/home/u"}, "/home/u/.local/state/aniko"),
    ],
)
def test_the_state_directory(given: str | None, environ: dict[str, str], path: str) -> None:
    assert paths.state_dir(given, environ) == Path(path)


def test_a_relative_state_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.state_dir("s", {}) == tmp_path / "s"


def test_no_credentials(tmp_path: Path) -> None:
    assert paths.docker_config({"HOME": str(tmp_path)}) == {}
    (tmp_path / "config.json").write_text("")
    assert paths.docker_config({"DOCKER_CONFIG": str(tmp_path)}) == {}


def test_credentials_of_the_environment_come_first(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    own = {"auths": {"a": {"auth": "file"}, "b": {"auth": "file"}}, "credHelpers": {"a": "x", "c": "y"}, "credsStore": "s"}
    (tmp_path / ".docker/config.json").write_text(json.dumps(own))
    environ = {"HOME": str(tmp_path), "DOCKER_AUTH_CONFIG": json.dumps({"auths": {"a": {"auth": "env"}}})}
    assert paths.docker_config({"HOME": str(tmp_path)}) == own
    assert paths.docker_config(environ) == {
        "auths": {"a": {"auth": "env"}, "b": {"auth": "file"}}, "credHelpers": {"c": "y"}, "credsStore": "s"}


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": 1}', '{"auths": ["a"]}', '"x"'])
def test_credentials_that_are_not_docker_s(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json"):
        paths.docker_config({"DOCKER_CONFIG": str(tmp_path)})
    with pytest.raises(UsageError, match="DOCKER_AUTH_CONFIG"):
        paths.docker_config({"DOCKER_CONFIG": str(tmp_path / "none"), "DOCKER_AUTH_CONFIG": text})


def test_credentials_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UsageError, match="cannot read"):
        paths.docker_config({"DOCKER_CONFIG": str(tmp_path)})


def test_proxies_are_build_arguments_in_both_spellings() -> None:
    config = {"proxies": {"default": {"httpProxy": "http://p:1", "noProxy": "x", "ftpProxy": ""}, "tcp://other": {}}}
    assert paths.proxies(config) == {"HTTP_PROXY": "http://p:1", "http_proxy": "http://p:1", "NO_PROXY": "x", "no_proxy": "x"}
    for odd in ({}, {"proxies": None}, {"proxies": {"default": None}}, {"proxies": []}):
        assert paths.proxies(odd) == {}
