"""Who builds: root, an ordinary user with subordinate ids and without, and root with no more than a container's capabilities."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from engine.registry.server.server import RegistryServer

from .conftest import write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

CONTAINER = ["chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "net_bind_service", "net_raw",
             "sys_chroot", "mknod", "audit_write", "setfcap"]  # fmt: skip
"""The capabilities that docker gives a container."""

ONE_ID = """\
FROM {base} AS build
RUN mkdir /out && echo hello > /out/app
FROM {base}
COPY --from=build --chown=app:app /out/app /app
RUN test "$(cat /app)" = hello && touch /made
"""
TWO_IDS = ONE_ID + "USER app\nRUN id -u > /tmp/id\n"


def everyones_python() -> str:
    """A Python that every user may run, with the project and what it needs: the one that runs the tests, or Debian's."""
    return sys.executable if _public(Path(sys.executable)) else "/usr/bin/python3"


def _public(path: Path) -> bool:
    real = path.resolve()
    return all(p.stat().st_mode & 0o001 for p in (real, *real.parents, *path.parents))


@pytest.fixture
def project(memory: Path) -> Path:
    """The engine and its dependencies where every user can read them."""
    site = memory / "site"
    import aiohttp

    packages = Path(aiohttp.__file__).parents[1]
    shutil.copytree(packages, site, ignore=shutil.ignore_patterns("__editable__*", "*.pth", "mypy*", "ruff*", "hypothesis*"))
    shutil.copytree(Path(__file__).resolve().parents[2] / "engine", site / "engine")
    subprocess.run(["chmod", "-R", "a+rX", str(site)], check=True)
    return site


@pytest.fixture
def plain_user() -> Iterator[str]:
    """An ordinary user without subordinate ids, made for the test."""
    name = f"plain{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", "--home-dir=/nonexistent", name], check=True)
    for file in (Path("/etc/subuid"), Path("/etc/subgid")):
        if file.exists():
            kept = [line for line in file.read_text().splitlines(True) if not line.startswith(f"{name}:")]
            file.write_text("".join(kept))
    yield name
    subprocess.run(["userdel", name], check=False, capture_output=True)


async def aniko(project: Path, prefix: list[str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(project), "HOME": "/nonexistent"}
    return await anyio.run_process([*prefix, everyones_python(), "-m", "engine.cli", "build", "--progress=plain", *arguments],
                                   env=env, cwd="/", check=False)  # fmt: skip


def as_user(name: str) -> list[str]:
    user = pwd.getpwnam(name)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]


def own(folder: Path, name: str) -> Path:
    folder.mkdir()
    os.chown(folder, pwd.getpwnam(name).pw_uid, pwd.getpwnam(name).pw_gid)
    return folder


async def labels_of(name: str) -> dict[str, object]:
    done = await anyio.run_process(["skopeo", "inspect", "--config", "--tls-verify=false", f"docker://{name}"])
    return dict(json.loads(done.stdout))


async def test_an_ordinary_user_with_subordinate_ids(base: str, registry: RegistryServer, project: Path, memory: Path) -> None:
    context = write_context(memory / "app", TWO_IDS.format(base=base))
    state = own(memory / "st", "tester")
    done = await aniko(project, as_user("tester"), f"--state-dir={state}", "-t", f"{registry.address}/u:1", "--push", str(context))
    assert done.returncode == 0, done.stderr.decode()
    assert b"newuidmap" in done.stderr
    assert (await labels_of(f"{registry.address}/u:1"))["os"] == "linux"


async def test_an_ordinary_user_without_subordinate_ids(base: str, registry: RegistryServer, project: Path, memory: Path,
                                                         plain_user: str) -> None:  # fmt: skip
    context = write_context(memory / "app", ONE_ID.format(base=base))
    state = own(memory / "st", plain_user)
    done = await aniko(project, as_user(plain_user), f"--state-dir={state}", "-t", f"{registry.address}/u:1", "--push", str(context))
    assert done.returncode == 0, done.stderr.decode()
    second = write_context(memory / "two", TWO_IDS.format(base=base))
    refused = await aniko(project, as_user(plain_user), f"--state-dir={state}", str(second))
    assert refused.returncode == 10, refused.stderr.decode()
    assert b"needs uid 1000" in refused.stderr
    assert b"/etc/subuid" in refused.stderr


async def test_root_with_a_containers_capabilities(base: str, registry: RegistryServer, project: Path, memory: Path) -> None:
    context = write_context(memory / "app", TWO_IDS.format(base=base))
    prefix = ["setpriv", "--bounding-set=-all,+" + ",+".join(CONTAINER), "--inh-caps=-all", "--"]
    done = await aniko(project, prefix, f"--state-dir={memory}/st", "--isolation=chroot", "-t", f"{registry.address}/u:1", "--push",
                       str(context))  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert b"isolation: chroot" in done.stderr


async def test_all_of_them_make_the_same_layers(base: str, registry: RegistryServer, project: Path, memory: Path) -> None:
    text = f"FROM {base}\nCOPY f /etc/f\nRUN touch -d @1600000000 /x && mkdir -m 700 /d && touch -d @1600000000 /d\n"
    context = write_context(memory / "app", text, f="f\n")
    os.utime(context / "f", (1_600_000_000, 1_600_000_000))
    layers = {}
    capabilities = ["setpriv", "--bounding-set=-all,+" + ",+".join(CONTAINER), "--inh-caps=-all", "--"]
    for name, prefix, user in (("auto", [], "root"), ("userns", as_user("tester"), "tester"), ("chroot", capabilities, "root")):
        state = own(memory / f"st-{name}", user)
        done = await aniko(project, list(prefix), f"--state-dir={state}", f"--isolation={name}", "-t",
                           f"{registry.address}/{name}:1", "--push", str(context))  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        config = await labels_of(f"{registry.address}/{name}:1")
        layers[name] = config["rootfs"]
    assert layers["auto"] == layers["userns"] == layers["chroot"]
