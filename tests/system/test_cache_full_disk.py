"""A disk that becomes full at any point: the build ends with one clear error, nothing wrong is left, a prune works, and with room the
next build in the same state directory is right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from engine import Engine, Settings
from engine.errors import RunError, StorageError
from engine.request import OutputRequest
from engine.upkeep import Finding, opened

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

PAGE = 4096
BUSYBOX = Path("/bin/busybox").read_bytes() if Path("/bin/busybox").exists() else b""
STEPS = ("FROM scratch AS one\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\n"
         "RUN --mount=type=cache,target=/c /bin/busybox head -c 1000000 /bin/busybox > /c/x\n"
         "RUN /bin/busybox cp /bin/busybox /again && /bin/busybox head -c 700000 /dev/urandom > /random\n"
         "FROM scratch\nCOPY --from=one /again /bin/\nCOPY <<E /own\nhello\nE\n")  # fmt: skip


class Disk:
    """A small filesystem with a state directory in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    @property
    def free(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Takes all the room but some bytes."""
        with (self.path / "fill").open("ab", buffering=0) as file:
            while (room := self.free - leave) >= PAGE:
                file.write(bytes(min(room, 1 << 20)))

    def empty(self) -> None:
        (self.path / "fill").unlink(missing_ok=True)


@pytest.fixture
def disk(memory: Path) -> Iterator[Callable[[int], Disk]]:
    """Makes disks of some bytes."""
    made: list[Path] = []

    def make(size: int) -> Disk:
        path = memory / f"disk{len(made)}"
        path.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=False, capture_output=True)
        if done.returncode:
            pytest.skip(f"a small filesystem cannot be mounted here: {done.stderr.decode().strip()}")
        made.append(path)
        return Disk(path)

    yield make
    for path in made:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def context(memory: Path) -> Path:
    if not BUSYBOX:
        pytest.skip("busybox-static is not installed: run scripts/install --tests")
    context = write_context(memory / "app", STEPS)
    (context / "busybox").write_bytes(BUSYBOX)
    (context / "busybox").chmod(0o755)
    return context


async def aniko(*words: str) -> tuple[int, str]:
    """Runs the command; returns its exit code and what it wrote."""
    done = await anyio.run_process([sys.executable, "-m", "engine.cli", *words], check=False, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL)  # fmt: skip
    return done.returncode, done.stdout.decode()


async def build(disk: Disk, context: Path, *flags: str) -> tuple[int, str]:
    return await aniko("build", "--state-dir", str(disk.state), "--progress", "plain", *flags, str(context))


async def cache(disk: Disk, *words: str) -> Any:
    code, text = await aniko("cache", words[0], "--json", "--state-dir", str(disk.state), *words[1:])
    assert code == 0, text
    return json.loads(text)


async def findings(disk: Disk) -> list[Finding]:
    """What is wrong in the state directory."""
    async with opened(Settings(disk.state)) as upkeep:
        return (await upkeep.verify())[1]


async def build_again(disk: Disk, context: Path, out: Path) -> None:
    async with Engine(Settings(disk.state)) as engine:
        await engine.build(replace(request(context, push=False), outputs=(OutputRequest("local", out),)))


async def is_right(disk: Disk, context: Path, out: Path) -> None:
    await build_again(disk, context, out)
    assert (out / "bin/again").read_bytes() == BUSYBOX
    assert (out / "own").read_text() == "hello\n"
    subprocess.run(["rm", "-rf", str(out)], check=True)


def is_clear(code: int, text: str) -> bool:
    """Whether a failure is told in one error that says that the disk is full."""
    return (code in (RunError.exit_code, StorageError.exit_code) and len([line for line in text.splitlines() if line.startswith("ERROR: ")]) == 1 and "the disk is full" in text
            and "bug" not in text)  # fmt: skip


async def test_wherever_the_disk_ends_the_build_fails_clearly_and_the_next_is_right(disk: Callable[[int], Disk], context: Path,
                                                                                   memory: Path) -> None:  # fmt: skip
    """Sizes at which a blob, an unpacked layer, what a RUN writes, a cache mount, and all that is small does not fit."""
    failed = 0
    for size in (60_000, 1_500_000, 2_600_000, 4_000_000, 5_500_000, 7_000_000, 9_000_000):
        small = disk(size)
        code, text = await build(small, context)
        assert code == 0 or is_clear(code, text), text
        failed += bool(code)
        assert await findings(small) == []
        left = [p for name in ("tmp", "roots", "ingest") for p in (small.state / name).glob("*")]
        assert left == [], "what was begun is gone, although the disk was full"
        small.resize(64 << 20)
        await is_right(small, context, memory / "out")
        assert await findings(small) == []
    assert failed >= 6


async def test_a_disk_with_room_for_little_more(disk: Callable[[int], Disk], context: Path, memory: Path) -> None:
    """From not a byte on, a page more each time: among others the commit of a record does not fit."""
    some = disk(64 << 20)
    await is_right(some, context, memory / "out")
    codes = set()
    for n, pages in enumerate((0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 32, 64)):
        more = write_context(memory / "more", f"{STEPS}COPY <<E /number\n{n}\nE\nWORKDIR /w/{n}\n")
        shutil.copy(context / "busybox", more)
        some.fill(pages * PAGE)
        code, text = await build(some, more)
        assert code == 0 or is_clear(code, text), text
        codes.add(code)
        assert await findings(some) == []
        some.empty()
        out = memory / "out"
        await build_again(some, more, out)
        assert (out / "number").read_text() == f"{n}\n" and (out / f"w/{n}").is_dir()
        subprocess.run(["rm", "-rf", str(out)], check=True)
    assert codes == {0, StorageError.exit_code}


async def test_a_prune_on_a_disk_that_is_full_to_the_last_byte(disk: Callable[[int], Disk], context: Path, memory: Path) -> None:
    some = disk(64 << 20)
    await is_right(some, context, memory / "out")
    before = await cache(some, "ls")
    some.fill()
    assert some.free < PAGE
    assert await cache(some, "ls") == before
    some.fill()
    assert (await cache(some, "verify"))["findings"] == []
    some.fill()
    removed = (await cache(some, "prune"))["removed"]
    assert not [item for item in removed if item["kind"] != "blob"], "without a policy nothing goes that a build would miss"
    some.fill()
    free = some.free
    gone = await cache(some, "prune", "--older-than", "0s", "--kind", "record")
    assert gone["freed"] > 4_000_000 and some.free - free > 4_000_000
    some.fill()
    gone = await cache(some, "prune", "--all")
    assert gone["kept"] == 0
    some.empty()
    await is_right(some, context, memory / "out")


async def test_records_that_cannot_be_read_are_no_reason_to_remove_what_they_need(disk: Callable[[int], Disk], context: Path,
                                                                                  memory: Path) -> None:  # fmt: skip
    """On a full disk without the room that is kept for that, an error is all that a prune can give."""
    some = disk(64 << 20)
    await is_right(some, context, memory / "out")
    for path in (some.state / "reserve").iterdir():
        path.unlink()
    some.fill()
    code, text = await aniko("cache", "prune", "--state-dir", str(some.state))
    assert (code, "ERROR: cannot read the cache" in text) == (StorageError.exit_code, True), text
    some.empty()
    code, text = await build(some, context)
    assert "0 steps run" in text
