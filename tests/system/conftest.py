"""Fixtures of the system tests: the embedded registry with a log of its requests, a small real base image in it, and an engine."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine import BuildRequest, Engine, Settings
from engine.image.reference import Reference
from engine.registry.server.server import RegistryServer
from engine.request import OutputRequest

PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"
GROUP = "root:x:0:\napp:x:1000:\n"


def busybox_rootfs() -> bytes:
    """A root filesystem as a tar: busybox-static with all its applets."""
    program = shutil.which("busybox")
    assert program, "busybox-static is not installed: run scripts/install --tests"
    applets = subprocess.run([program, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(path: str, data: bytes | None = None, *, mode: int = 0o755, link: str = "", uid: int = 0) -> None:
            info = tarfile.TarInfo(path)
            info.mode, info.uid, info.gid, info.mtime = mode, uid, uid, 1_600_000_000
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            elif data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data or b""))

        for directory in ("bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "var"):
            add(directory)
        add("tmp", mode=0o1777)
        add("home/app", uid=1000)
        add("bin/busybox", Path(program).read_bytes())
        for applet in applets:
            if applet != "busybox":
                add(f"bin/{applet}", link="busybox")
        add("etc/passwd", PASSWD.encode(), mode=0o644)
        add("etc/group", GROUP.encode(), mode=0o644)
    return out.getvalue()


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder of the test's own, in memory where there is some, that every user can look into."""
    shm = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="aniko-system-", dir=shm if shm.is_dir() else None))
    path.chmod(0o755)
    yield path
    subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=False)


@pytest.fixture
async def registry(memory: Path) -> AsyncIterator[RegistryServer]:
    """The embedded registry, empty."""
    async with RegistryServer(memory / "registry") as server:
        yield server


@pytest.fixture
async def engine(memory: Path) -> AsyncIterator[Engine]:
    """An engine with an empty state directory."""
    async with Engine(Settings(memory / "state")) as opened:
        yield opened


@pytest.fixture
async def base(memory: Path, registry: RegistryServer) -> str:
    """A busybox image in the registry, built by an engine of its own: its reference."""
    context = memory / "base"
    context.mkdir()
    (context / "rootfs.tar").write_bytes(busybox_rootfs())
    (context / "Dockerfile").write_text('FROM scratch\nADD rootfs.tar /\nCMD ["sh"]\n')
    name = f"{registry.address}/base:1"
    async with Engine(Settings(memory / "base-state")) as builder:
        await builder.build(request(context, name))
    registry.log.clear()
    return name


def request(context: Path, *tags: str, push: bool = True, **fields: object) -> BuildRequest:
    """A build request for a context directory, pushed under its tags."""
    outputs = (OutputRequest("registry"),) if push and tags else ()
    return BuildRequest(context=str(context), tags=tuple(Reference.parse(t) for t in tags), outputs=outputs,
                        **fields)  # type: ignore[arg-type]  # the fields are those of BuildRequest


def write_context(folder: Path, dockerfile: str, **files: str) -> Path:
    """A context directory with a Dockerfile and some files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder
