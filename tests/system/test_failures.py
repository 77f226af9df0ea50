"""Bad input ends in one clear error with its documented exit code, and the state directory serves the next build."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from engine.registry.server.access import BasicAuth
from engine.registry.server.server import RegistryServer

from .conftest import write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]


async def aniko(state: Path, context: Path, *arguments: str, config: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """`aniko build`, as a user runs it."""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DOCKER_CONFIG": str(config or "/nonexistent")}
    command = [sys.executable, "-m", "engine.cli", "build", "--progress=plain", f"--state-dir={state}", *arguments, str(context)]
    return await anyio.run_process(command, env=env, check=False)


def last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode().strip().splitlines()[-1]


async def works_still(state: Path, base: str, memory: Path) -> None:
    """A good build in the same state directory, and no half-written blob under a final name."""
    good = write_context(memory / "good", f"FROM {base}\nRUN echo ok > /ok\n")
    done = await aniko(state, good)
    assert done.returncode == 0, done.stderr.decode()
    check_blobs(state)


def check_blobs(state: Path) -> None:
    import hashlib

    for blob in (state / "blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


@pytest.mark.parametrize(("dockerfile", "code", "message"), [
    ("FROM {base}\nRUM x\n", 3, "unknown instruction: RUM (did you mean RUN?)"),
    ("FROM {base}\nCOPY --from=0 /x /\n", 3, 'cannot copy from stage "0"'),
    ("FROM {base}\nCOPY missing.txt /\n", 4, '"/missing.txt": not found'),
    ("FROM {base}\nADD evil.tar /\n", 4, "evil"),
    ("FROM {base}\nRUN exit 7\n", 5, "did not complete successfully: exit code: 7"),
    ("FROM 127.0.0.1:1/none\n", 6, "127.0.0.1:1"),
    ("FROM {host}/none:1\n", 6, "not found"),
    ("FROM --platform=linux/s390x {base}\nRUN x\n", 9, "linux/s390x"),
    ("FROM {base}\nRUN --mount=type=secret,id=s,required x\n", 12, "secret s: not found"),
])
async def test_a_mistake_has_its_exit_code(dockerfile: str, code: int, message: str, base: str, registry: RegistryServer,
                                           memory: Path) -> None:  # fmt: skip
    context = write_context(memory / "app", dockerfile.format(base=base, host=registry.address))
    (memory / "tree").mkdir()
    (memory / "tree/x").write_text("x")
    subprocess.run(["tar", "-C", memory / "tree", "-P", "--transform=s,^x,../../evil,", "-cf", context / "evil.tar", "x"], check=True)
    done = await aniko(memory / "state", context, "-t", f"{registry.address}/app:1", "--push")
    assert (done.returncode, done.stdout) == (code, b""), done.stderr.decode()
    assert message in last_line(done)
    assert b"Traceback" not in done.stderr
    assert not (memory.parent / "evil").exists()
    assert not [e for e in registry.requests if e.method == "PUT" and "/manifests/" in e.path]
    await works_still(memory / "state", base, memory)


async def test_an_unknown_target_or_flag(base: str, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base} AS build\n")
    unknown = await aniko(memory / "state", context, "--target=biuld")
    assert (unknown.returncode, "did you mean build" in last_line(unknown)) == (3, True)
    flag = await aniko(memory / "state", context, "--no-such-flag")
    assert flag.returncode == 2


async def test_a_wrong_password(base: str, memory: Path) -> None:
    context = write_context(memory / "app", "FROM scratch\nCOPY Dockerfile /\n")
    async with RegistryServer(memory / "closed", auth=BasicAuth({"anna": "right"})) as closed:
        config = memory / "docker"
        config.mkdir()
        for password, code in (("wrong", 7), ("right", 0)):
            auth = base64.b64encode(f"anna:{password}".encode()).decode()
            (config / "config.json").write_text(json.dumps({"auths": {closed.address: {"auth": auth}}}))
            done = await aniko(memory / "state", context, "-t", f"{closed.address}/app:1", "--push", config=config)
            assert done.returncode == code, done.stderr.decode()
            assert b"wrong" not in done.stderr or password != "wrong" or b"anna:wrong" not in done.stderr
        none = await aniko(memory / "state", context, "-t", f"{closed.address}/app:2", "--push")
        assert none.returncode == 7
        assert "login" in none.stderr.decode()


@pytest.mark.parametrize("instruction", ["RUN true", "COPY Dockerfile /usr/"])
async def test_a_corrupt_blob(base: str, registry: RegistryServer, memory: Path, instruction: str) -> None:
    blobs = memory / "registry/blobs/sha256"
    layer = max(blobs.iterdir(), key=lambda p: p.stat().st_size)
    good = layer.read_bytes()
    layer.write_bytes(good[:1000] + b"\0\1\2\3" + good[1004:])
    context = write_context(memory / "app", f"FROM {base}\n{instruction}\n")
    done = await aniko(memory / "state", context)
    assert done.returncode == 8, done.stderr.decode()
    assert layer.name[:12] in done.stderr.decode()
    layer.write_bytes(good)
    await works_still(memory / "state", base, memory)


@pytest.fixture
def small_disk(memory: Path) -> Iterator[Path]:
    """A filesystem that is soon full."""
    disk = memory / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.root
@pytest.mark.parametrize("dockerfile", [
    "FROM {base}\nCOPY big /big\n",
    "FROM {base}\nRUN dd if=/dev/urandom of=/big bs=1M count=8\n",
    "FROM {base}\nRUN dd if=/dev/urandom of=/a bs=1k count=2500; true\nRUN dd if=/dev/urandom of=/b bs=1k count=900; true\n",
])
async def test_a_full_disk(dockerfile: str, base: str, small_disk: Path, memory: Path) -> None:
    context = write_context(memory / "app", dockerfile.format(base=base))
    (context / "big").write_bytes(os.urandom(8 << 20))
    done = await aniko(small_disk / "state", context)
    assert done.returncode in (5, 11), done.stderr.decode()
    assert "No space left" in done.stderr.decode() or "disk is full" in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    await works_still(small_disk / "state", base, memory)


async def test_an_output_that_cannot_be_written(base: str, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\n")
    done = await aniko(memory / "state", context, "-o", f"type=oci,dest={context}/Dockerfile/x.tar")
    assert done.returncode == 11, done.stderr.decode()
    assert (context / "Dockerfile").read_text() == f"FROM {base}\n"
