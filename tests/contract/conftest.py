"""Registries for the contract tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.registries import RunningRegistry, missing_tools, running_registry


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A real registry without logins, shared by the tests of one process: use repository names of your own."""
    if missing := missing_tools():
        pytest.skip(f"needs {missing}")
    with running_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def htpasswd_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A real registry that wants a user name and a password."""
    if missing := missing_tools(users=True):
        pytest.skip(f"needs {missing}")
    with running_registry(tmp_path_factory.mktemp("registry"), users={"anna": "pässword:1"}) as registry:
        yield registry


@pytest.fixture
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A repository name that no other test uses."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name.lower()).strip("-")
    return "-".join(filter(None, name.split("-")))[:80] + "/" + "".join(c for c in tmp_path.name.lower() if c.isalnum())[-12:]
