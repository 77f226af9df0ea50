"""Agents that a step has for the keys it is given: OpenSSH's own tools ask them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import anyio
import pytest

from engine.errors import SecretError
from engine.solve.agents import running_agent

pytestmark = pytest.mark.skipif(shutil.which("ssh-agent") is None or shutil.which("ssh-keygen") is None, reason="needs OpenSSH")


def key(path: Path, passphrase: str = "") -> str:
    """Makes a key; returns its fingerprint."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path], check=True)
    return subprocess.run(["ssh-keygen", "-lf", path], check=True, capture_output=True, text=True).stdout.split()[1]


async def fingerprints(socket: Path) -> list[str]:
    done = await anyio.run_process(["ssh-add", "-l"], env={"SSH_AUTH_SOCK": str(socket), "PATH": "/usr/bin:/bin"})
    return [line.split()[1] for line in done.stdout.decode().splitlines()]


async def test_an_agent_has_the_keys_and_ends_with_the_step(tmp_path: Path) -> None:
    wanted = [key(tmp_path / "a"), key(tmp_path / "b")]
    (tmp_path / "b").chmod(0o644)
    async with running_agent([tmp_path / "a", tmp_path / "b"], {}) as socket:
        assert await fingerprints(socket) == wanted
    assert not socket.parent.exists()


async def test_a_step_that_is_cancelled_leaves_no_agent(tmp_path: Path) -> None:
    key(tmp_path / "a")
    with anyio.CancelScope() as scope:
        async with running_agent([tmp_path / "a"], {}) as socket:
            scope.cancel()
            await anyio.sleep_forever()
    assert not socket.parent.exists()
    assert subprocess.run(["pgrep", "-f", str(socket)], check=False, capture_output=True).returncode == 1


@pytest.mark.parametrize("content", ["passphrase", "no key", None])
async def test_a_key_that_cannot_be_used_is_an_error_and_asks_nobody(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "k"
    if content == "passphrase":
        key(path, "secret")
    elif content:
        path.write_text(content)
    with pytest.raises(SecretError, match=str(path)):
        async with running_agent([path], {}):
            pass


async def test_without_openssh_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="OpenSSH") as caught:
        async with running_agent([tmp_path / "k"], {"PATH": str(tmp_path)}):
            pass
    assert "openssh-client" in str(caught.value.hint)
