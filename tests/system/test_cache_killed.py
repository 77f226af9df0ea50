"""Builds, prunes, their workers and their RUNs are killed at random moments, again and again over one state directory. After every one
of them the next build gives the image that a fresh state directory gives, and nothing is left: no process, no mount, no wrong byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from engine.registry.server.server import RegistryServer

from .conftest import write_context
from .killer import Plan

pytestmark = [pytest.mark.anyio, pytest.mark.system]

ROUNDS = int(os.environ.get("ANIKO_KILL_ROUNDS", "300"))
"""How often something is killed."""

STEPS = """FROM scratch AS base
COPY busybox /bin/busybox
FROM base AS one
WORKDIR /made
RUN --mount=type=cache,target=/c ["/bin/busybox", "sh", "-ec", "busybox head -c 300000 /bin/busybox > /c/x; \
busybox cp /c/x /made/b; busybox rm /c/x; busybox touch -h -d @1 /made/b /made /c /"]
FROM base AS two
RUN ["/bin/busybox", "sh", "-ec", "echo NUMBER > /two; busybox touch -h -d @1 /two /"]
FROM scratch
COPY --from=one /made /made
COPY --from=two /two /
COPY <<E /own
NUMBER
E
"""


def context(folder: Path, number: int) -> Path:
    """A context that gives the same image whenever and wherever it is built."""
    made = write_context(folder, STEPS.replace("NUMBER", str(number)))
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is not installed: run scripts/install --tests"
    shutil.copy(busybox, made / "busybox")
    for path in (made / "busybox", made):
        os.utime(path, (1, 1))
    return made


@pytest.mark.parametrize("tier", ["local", "registry"])
async def test_whatever_is_killed_the_next_build_is_right(tier: str, registry: RegistryServer, memory: Path) -> None:
    contexts = [str(context(memory / f"app{n}", n)) for n in range(3)]
    flags = ["--build-arg", "SOURCE_DATE_EPOCH=1"]
    if tier == "registry":
        flags += ["--cache-repo", f"{registry.address}/cache", "--push", "-t", f"{registry.address}/image:1"]
    (memory / "scratch").mkdir()
    plan = Plan(str(memory / "state"), contexts, flags, ROUNDS // 2, len(tier), 10, str(memory / "scratch"))
    (memory / "plan.json").write_text(json.dumps(plan.__dict__))
    done = await anyio.run_process([sys.executable, str(Path(__file__).with_name("killer.py")), str(memory / "plan.json")],
                                   check=False, stdin=subprocess.DEVNULL)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    counts = json.loads(done.stdout)
    print(json.dumps(counts, indent=1))
    assert sum(count for name, count in counts.items() if name.endswith(": killed")) >= ROUNDS // 8
    left = [p for name in ("tmp", "roots", "ingest", "leases") for p in (memory / "state" / name).glob("*") if p.name != "gate"]
    assert left == []
