"""One state directory and many processes: equal steps run once, every image is right, and a killed build costs nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import pytest

from engine import Settings
from engine.registry.server.server import RegistryServer
from engine.upkeep import opened

from .conftest import write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

ROUNDS = int(os.environ.get("ANIKO_KILL_ROUNDS", "300")) // 5
"""Builds that are killed: as whole commands, which takes longer than what `test_cache_killed` does."""


def command(memory: Path, context: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "engine.cli", "build", "--state-dir", str(memory / "state"), "--progress", "plain", *flags,
            str(context)]  # fmt: skip


async def build(memory: Path, context: Path, *flags: str) -> str:
    """One build in a process of its own; returns what it said."""
    done = await anyio.run_process(command(memory, context, *flags), check=False, stdin=subprocess.DEVNULL)
    text = done.stderr.decode()
    assert done.returncode == 0, text
    return text


def ran(texts: Sequence[str]) -> int:
    return sum(int(text.rpartition("(")[2].split()[0]) for text in texts for text in text.splitlines() if text.startswith("built "))


async def test_equal_steps_of_many_processes_run_once_and_all_images_are_right(base: str, registry: RegistryServer,
                                                                                memory: Path) -> None:  # fmt: skip
    mount = "--mount=type=cache,target=/count,id=count"
    dockerfile = f"FROM {base}\nRUN {mount} echo x >> /count/runs && cp /count/runs /runs\nCOPY own /own\n"
    contexts = [write_context(memory / f"app{n}", dockerfile, own=f"{n}\n") for n in range(20)]
    texts: list[str] = []

    async def one(n: int) -> None:
        texts.append(await build(memory, contexts[n], "-o", str(memory / f"out{n}")))

    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(one, n)
    for n in range(20):
        assert (memory / f"out{n}/runs").read_text() == "x\n"
        assert (memory / f"out{n}/own").read_text() == f"{n}\n"
    assert ran(texts) == 1 + 20


BUILDS = """
import json, sys
from pathlib import Path
import anyio
from engine import BuildRequest, Engine, Settings

async def main():
    state, context, count = sys.argv[1:]
    results = []
    async with Engine(Settings(Path(state))) as engine:
        async def one():
            done = await engine.build(BuildRequest(context=context))
            results.append([str(done.digest), done.ran, done.cached])
        print("ready", flush=True)
        sys.stdin.readline()
        async with anyio.create_task_group() as tasks:
            for _ in range(int(count)):
                tasks.start_soon(one)
    print(json.dumps(results))

anyio.run(main)
"""


async def test_twenty_equal_builds_of_several_processes_run_every_step_once(base: str, memory: Path) -> None:
    """Five processes with four builds each, that begin at the same time; steps of two stages, one of which copies from the other."""
    count = "--mount=type=cache,target=/count,id=count"
    stage = "".join(f"RUN {count} echo {n} >> /count/runs; echo {n} > /{n}\n" for n in range(3))
    last = f"FROM {base}\nCOPY own /own\nWORKDIR /w\nRUN {count} echo last >> /count/runs; date > /date\nCOPY --from=one /2 /two\n"
    context = write_context(memory / "app", f"FROM {base} AS one\n{stage}{last}", own="mine\n")
    line = [sys.executable, "-c", BUILDS, str(memory / "state"), str(context), "4"]
    processes = [subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: ASYNC220
                 for _ in range(5)]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout and process.stdout.readline() == b"ready\n"
        said = await anyio.to_thread.run_sync(_all_at_once, processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    results = [tuple(result) for text in said for result in json.loads(text)]
    assert len(results) == 20
    assert len({digest for digest, _, _ in results}) == 1, "a date is in it, so no step was run twice for another build"
    assert sum(ran for _, ran, _ in results) == 7
    assert {ran + cached for _, ran, cached in results} <= {7, 4}, "who finds the result asks for no more"
    runs = next((memory / "state/mounts").glob("*/*/runs")).read_text().split()
    assert sorted(runs) == ["0", "1", "2", "last"]
    async with opened(Settings(memory / "state")) as upkeep:
        assert (await upkeep.verify())[1] == []


def _all_at_once(processes: Sequence[subprocess.Popen[bytes]]) -> list[bytes]:
    for process in processes:
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
    done = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), b"".join(err for _, err in done).decode()
    return [out for out, _ in done]


async def test_who_waits_takes_over_when_the_runner_is_killed(base: str, memory: Path) -> None:
    mount = "--mount=type=cache,target=/shared,id=shared"
    line = f"RUN {mount} echo $$ >> /shared/starts; until test -e /shared/go; do usleep 10000; done; cp /shared/starts /starts\n"
    context = write_context(memory / "app", f"FROM {base}\n{line}")
    first = await anyio.open_process(command(memory, context), stdin=subprocess.DEVNULL)
    shared = await _appears(memory / "state/mounts", "starts")
    second = await anyio.open_process(command(memory, context, "-o", str(memory / "out")), stdin=subprocess.DEVNULL)
    await _waits(second, memory / "state/locks")
    assert shared.read_text().count("\n") == 1
    first.send_signal(signal.SIGKILL)
    await first.wait()
    (shared.parent / "go").touch()
    assert await second.wait() == 0
    assert (memory / "out/starts").read_text().count("\n") == 2
    for process in (first, second):
        await process.aclose()


async def _appears(below: Path, name: str) -> Path:
    with anyio.fail_after(180):
        while True:
            found = list(below.glob(f"*/*/{name}"))
            if found:
                return found[0]
            await anyio.sleep(0.01)


async def _waits(process: anyio.abc.Process, locks: Path) -> None:
    """Until a process has a lock file open that another one holds."""
    with anyio.fail_after(180):
        while True:
            held = [os.readlink(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir() if fd.is_symlink()]
            if any(Path(path).parent == locks for path in held):
                return
            await anyio.sleep(0.01)


async def test_a_build_killed_at_any_moment_leaves_a_state_that_serves_the_next(base: str, memory: Path) -> None:
    chance = random.Random(7)
    dockerfile = (f"FROM {base} AS one\nRUN cp /bin/busybox /b\nFROM {base}\nCOPY own /own\nRUN cat /own /own > /twice && rm -rf /home\n"
                  "COPY --from=one /b /b\n")  # fmt: skip
    duration = await _measure(memory, dockerfile)
    right = 0
    for n in range(ROUNDS):
        context = write_context(memory / "app", dockerfile, own=f"{n}\n")
        process = await anyio.open_process(command(memory, context), stdin=subprocess.DEVNULL, start_new_session=True)
        with anyio.move_on_after(chance.uniform(0, duration * 1.1)):
            await process.wait()
        with suppress(ProcessLookupError):  # it may have ended by itself just now
            if process.returncode is None and n % 2:
                process.send_signal(signal.SIGKILL)
            elif process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await process.aclose()
        if n % 4 == 3:
            await _is_right(memory, context, n)
            right += 1
    assert right == ROUNDS // 4
    await _is_right(memory, write_context(memory / "app", dockerfile, own="last\n"), "last")
    left = [p for name in ("tmp", "roots", "ingest", "leases") for p in (memory / "state" / name).glob("*") if p.name != "gate"]
    assert left == []


async def _measure(memory: Path, dockerfile: str) -> float:
    context = write_context(memory / "app", dockerfile, own="first\n")
    begun = anyio.current_time()
    await build(memory, context)
    return anyio.current_time() - begun


async def _is_right(memory: Path, context: Path, own: object) -> None:
    out = memory / "out"
    await build(memory, context, "-o", f"type=local,dest={out}")
    assert (out / "twice").read_text() == f"{own}\n{own}\n"
    assert (out / "own").read_text() == f"{own}\n"
    assert not (out / "home").exists()
    assert (out / "b").stat().st_size == (out / "bin/busybox").stat().st_size
    await anyio.run_process(["rm", "-rf", str(out)])
