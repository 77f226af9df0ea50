"""SSH agents of a step's own, for `--ssh ID=KEY`: OpenSSH's, with the keys that were given and no others."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio

from engine.errors import SecretError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STARTS_IN = 20
"""Seconds."""


@asynccontextmanager
async def running_agent(keys: Sequence[Path], environment: Mapping[str, str]) -> AsyncIterator[Path]:
    """The socket of an agent that has the keys and ends with the context. Raises `SecretError` when OpenSSH is not installed, or
    a key cannot be used: one that wants a passphrase needs an agent of the user's."""
    folder = Path(tempfile.mkdtemp(prefix="aniko-ssh-"))  # not in the state directory: the path of a socket must be short
    variables = {"PATH": environment.get("PATH", _PATH), "SSH_AUTH_SOCK": str(folder / "agent"), "SSH_ASKPASS": "/bin/false",
                 "SSH_ASKPASS_REQUIRE": "force", "LC_ALL": "C"}  # fmt: skip
    process = None
    try:
        process = await anyio.open_process(["ssh-agent", "-D", "-a", variables["SSH_AUTH_SOCK"]], stdin=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL, env=variables, start_new_session=True)
        with anyio.fail_after(_STARTS_IN):
            await _listening(process)
        for key in keys:
            await _add(key, variables)
        yield folder / "agent"
    except FileNotFoundError:
        raise SecretError("--ssh with a key needs OpenSSH, which is not installed",
                          hint="install openssh-client, or pass an agent's socket") from None
    finally:
        with anyio.CancelScope(shield=True):
            if process is not None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.aclose()
            shutil.rmtree(folder, ignore_errors=True)


async def _listening(process: anyio.abc.Process) -> None:
    """Waits until the agent says where it listens."""
    said = b""
    while b"SSH_AUTH_SOCK" not in said and process.stdout is not None:
        try:
            said += await process.stdout.receive()
        except anyio.EndOfStream:
            raise SecretError("ssh-agent ended before it listened") from None


async def _add(key: Path, variables: Mapping[str, str]) -> None:
    try:
        data = key.read_bytes()
    except OSError as error:
        raise SecretError(f"cannot read SSH key {key}: {error.strerror}") from error
    # From standard input, for there it does not matter to whom the file belongs and who else may read it
    done = await anyio.run_process(["ssh-add", "-q", "-"], input=data, check=False, env=variables, start_new_session=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SecretError(f"SSH key {key} cannot be used: {said[-1] if said else f'exit code {done.returncode}'}",
                          hint="for a key with a passphrase, load it into an agent and pass that one's socket")
