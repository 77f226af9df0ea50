"""Real roots for the tests of isolation and snapshots: a small base image of busybox-static, and steps run on it."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest

from engine.content.store import DirectoryStore
from engine.image.descriptor import OCI_LAYER, Descriptor
from engine.image.digest import Digest
from engine.isolate.base import Environment, RunSpec
from engine.layer import columns
from engine.layer.apply import scan
from engine.layer.base import Chain, Layer
from engine.layer.entries import Change, Entry
from engine.layer.index import IndexStore
from engine.layer.pack import pack
from engine.layer.tree import Tree
from engine.settings import Settings
from engine.snapshot.base import Active, Snapshotter
from engine.snapshot.overlay import OverlaySnapshotter
from engine.snapshot.walk import WalkSnapshotter
from engine.workers.pool import WorkerPool

TIME = 1577836800
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service, effective
ENV = (("PATH", "/bin:/usr/bin"),)
MODES = ("userns overlay", "userns walk", "chroot walk")


class Tar:
    """A layer's tar, with nothing in it that varies."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, path: str, data: bytes | str = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "",
            owner: tuple[int, int] = (0, 0), xattrs: Mapping[str, bytes] | None = None) -> Tar:
        """A file or whatever `kind` says."""
        info = tarfile.TarInfo(path)
        content = data.encode() if isinstance(data, str) else data
        info.type, info.mode, info.linkname, info.mtime, info.size = kind, mode, link, TIME, len(content)
        info.uid, info.gid = owner
        info.pax_headers = {f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
                            for name, value in (xattrs or {}).items()}
        self._tar.addfile(info, io.BytesIO(content))
        return self

    def dirs(self, *paths: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> Tar:
        """Directories."""
        for path in paths:
            self.add(path, kind=tarfile.DIRTYPE, mode=mode, owner=owner)
        return self

    def symlink(self, path: str, to: str) -> Tar:
        """A symbolic link."""
        return self.add(path, kind=tarfile.SYMTYPE, link=to, mode=0o777)

    def bytes(self) -> bytes:
        """The whole tar."""
        self._tar.close()
        return self._file.getvalue()


@cache
def busybox() -> bytes:
    """The tar of a base image."""
    program = shutil.which("busybox")
    if program is None:
        pytest.skip("needs busybox-static")
    tar = Tar().dirs("bin", "data", "data/deep", "data/deep/er", "data/sub", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin")
    tar.dirs("tmp", mode=0o1777).dirs("home/app", owner=(1000, 1000)).dirs("data/ro", mode=0o555)
    tar.add("bin/busybox", Path(program).read_bytes(), mode=0o755)
    for name in subprocess.run([program, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split():
        if name != "busybox":
            tar.symlink(f"bin/{name}", "busybox")
    tar.add("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n").add("etc/motd", "welcome\n")
    tar.add("etc/group", "root:x:0:\napp:x:1000:\n")
    tar.add("data/a", "a\n").add("data/b", "b\n", mode=0o600, owner=(1000, 1000)).add("data/sub/c", "c\n").add("data/sub/d", "d\n")
    tar.add("data/deep/er/f", "f\n").add("data/ro/r", "r\n", mode=0o444).add("data/suid", "s\n", mode=0o4755)
    tar.add("data/h1", "hard\n").add("data/h2", kind=tarfile.LNKTYPE, link="data/h1")
    tar.add("data/cap", "cap\n", mode=0o755, xattrs={"security.capability": CAPABILITY})
    return tar.symlink("data/link", "sub").symlink("var", "data").bytes()


@dataclass(frozen=True)
class State:
    """A root filesystem state."""

    chain: Chain
    tree: Tree


@dataclass
class Ran:
    """What a step did."""

    status: int
    stdout: bytes
    stderr: bytes
    changes: Sequence[Change] = ()
    after: State | None = None

    @property
    def kinds(self) -> dict[str, str]:
        """The kinds of what has changed by path, but for directories that are only there as parents or by runtimes."""
        return {change.entry.path.decode(errors="surrogateescape"): change.entry.kind for change in self.changes}

    def entry(self, path: str) -> Entry:
        """The entry for a changed path."""
        return next(change.entry for change in self.changes if change.entry.path == path.encode(errors="surrogateescape"))


@dataclass
class Rig:
    """A state directory, the workers and the snapshotter over it."""

    state_dir: Path
    pool: WorkerPool
    environment: Environment
    content: DirectoryStore
    indexes: IndexStore
    snapshots: Snapshotter
    blobs: list[Path] = field(default_factory=list)

    async def extend(self, state: State, tar: bytes) -> State:
        """A state with one more layer, from a tar."""
        digest = self.content.put(tar)
        layer = Layer(digest, Descriptor(OCI_LAYER, digest, len(tar)))
        index = scan(str(self.content.path(digest))).index
        self.indexes.put(digest, index)
        return State((*state.chain, layer), state.tree.extended(layer, index))

    async def base(self, *tars: bytes) -> State:
        """The state of a base image: busybox, and more layers on it."""
        state = State((), Tree.empty())
        for tar in (busybox(), *tars):
            state = await self.extend(state, tar)
        return state

    async def execute(self, active: Active, *argv: str, **options: Any) -> Ran:
        """Runs a command in a root."""
        written: dict[int, list[bytes]] = {1: [], 2: []}
        spec = RunSpec(**{"root": active.root, "argv": argv, "env": ENV, "cwd": "/", **options})
        async with self.pool.run(spec, lambda stream, data: written[stream].append(data)) as outcome:
            pass
        return Ran(outcome.status, b"".join(written[1]), b"".join(written[2]))

    async def changes(self, active: Active, tree: Tree) -> list[Change]:
        """What was done in a root, one by one."""
        changed = await self.snapshots.changes(active, tree)
        rows, _ = columns.decode(changed.entries)
        sources = list(changed.places(rows.paths)) if len(rows) else []
        assert not changed.offsets
        return [Change(entry, (source or None) if entry.kind == "file" else None)
                for entry, source in zip(rows.entries(), sources, strict=True)]  # fmt: skip

    async def step(self, state: State, script: str, **options: Any) -> Ran:
        """Runs a shell script in a root, makes a layer of what it changed and commits it."""
        active = await self.snapshots.prepare(state.chain, state.tree)
        ran = await self.execute(active, "sh", "-c", script, **options)
        ran.changes = await self.changes(active, state.tree)
        with self.content.writer(written_elsewhere=True) as writer:
            packed = await self.pool.call(pack, tuple(ran.changes), str(writer.path), "none")
            digest = writer.commit(Digest("sha256", packed.digest), packed.size)
        layer = Layer(Digest("sha256", packed.diff_id), Descriptor(OCI_LAYER, digest, packed.size))
        self.indexes.put(layer.diff_id, packed.index)
        ran.after = State((*state.chain, layer), state.tree.extended(layer, packed.index))
        await self.snapshots.commit(active, ran.after.chain)
        return ran


@asynccontextmanager
async def rig(state_dir: Path, mode: str) -> AsyncIterator[Rig]:
    """A rig in one of `MODES`; skips the test where this user cannot have it."""
    isolation, snapshots = mode.split()
    settings = Settings(state_dir=state_dir, isolation=isolation, snapshots=snapshots)  # type: ignore[arg-type]  # from MODES
    if reason := unavailable(settings):
        pytest.skip(reason)
    async with WorkerPool(settings, anyio.CapacityLimiter(2), state_dir / "tmp" / "run") as pool:
        content, indexes = DirectoryStore(state_dir / "content"), IndexStore(state_dir / "indexes")
        kind = OverlaySnapshotter if snapshots == "overlay" else WalkSnapshotter
        snapshotter = kind(state_dir, content, pool, indexes)
        yield Rig(state_dir, pool, await pool.environment(), content, indexes, snapshotter)
        await snapshotter.aclose()


def unavailable(settings: Settings) -> str:
    """Why this user cannot have what the settings ask for, as far as one can tell without trying; empty if nothing is known."""
    import os

    if settings.isolation == "chroot" and os.geteuid() != 0:
        return "chroot needs root"
    return ""


def children_of(pid: int) -> list[int]:
    """The children that a process has now."""
    found = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    return sorted(found)
