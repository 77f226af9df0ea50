"""Builds in one engine that need the same step at the same time: what one of them runs with is its own, and what becomes of it is
no matter of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from msgspec.structs import force_setattr, replace

from engine import Engine, Settings
from engine.cache.flight import Turns
from engine.errors import RunError, SecretError
from engine.progress.events import Event, StepOutput
from engine.request import OutputRequest, SecretSource

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]


class Watched(Turns):
    """Turns of which a test sees who waits."""

    async def waited_for(self, users: int) -> None:
        """Until so many builds hold or want the same turn."""
        with anyio.fail_after(120):
            while True:
                if any(turn.users == users for turn in self._turns.values()):
                    return
                await anyio.sleep(0.005)


def watch(engine: Engine) -> Watched:
    assert engine._wiring is not None
    turns = Watched()
    force_setattr(engine._wiring.mechanisms, "turns", turns)
    return turns


async def test_who_waits_for_a_build_that_is_cancelled_takes_over(base: str, memory: Path) -> None:
    """The script of a RUN, the file of a COPY and the bytes of a context that is a tar lie in the scratch of the build."""
    mount = "--mount=type=cache,target=/meet,id=meet"
    run = f"RUN {mount} <<E\necho x >> /meet/starts\necho begun\nuntil test -e /meet/go; do usleep 10000; done\ncp /meet/starts /starts\nE\n"
    copy = "COPY <<E /heredoc\nhello\nE\nCOPY f /f\n"
    context = write_context(memory / "app", f"FROM {base}\n{run}{copy}", f="file\n")
    begun, first, scope = anyio.Event(), anyio.Event(), anyio.CancelScope()

    def sink(event: Event) -> None:
        if isinstance(event, StepOutput):
            begun.set()

    out = OutputRequest("local", memory / "out")
    async with Engine(Settings(memory / "state")) as engine, anyio.create_task_group() as tasks:
        turns = watch(engine)

        async def cancelled() -> None:
            with scope:
                await engine.build(request(context, push=False), sink=sink)
            first.set()

        async def other() -> None:
            await engine.build(replace(request(context, push=False), outputs=(out,)))

        tasks.start_soon(cancelled)
        with anyio.fail_after(120):
            await begun.wait()
        tasks.start_soon(other)
        await turns.waited_for(2)
        scope.cancel()
        with anyio.fail_after(60):
            await first.wait()  # it need not stay for the other's sake
        next((memory / "state/mounts").glob("*/*/starts")).with_name("go").touch()
    assert (memory / "out/starts").read_text() == "x\nx\n"
    assert (memory / "out/heredoc").read_text() == "hello\n"
    assert (memory / "out/f").read_text() == "file\n"


@pytest.mark.parametrize("lines", [
    "COPY <<E /one\n1\nE\nCOPY <<E /two\n2\nE\n",
    "RUN <<E\necho 1 > /one\nE\nRUN <<E\necho 2 > /two\nE\n",
], ids=["copy", "run"])  # fmt: skip
async def test_a_build_cancelled_at_any_moment_spoils_no_other(lines: str, base: str, memory: Path) -> None:
    async with Engine(Settings(memory / "state")) as engine:
        await engine.build(request(write_context(memory / "warm", f"FROM {base}\nRUN true\n"), push=False))
        for n in range(12):
            context = write_context(memory / f"app{n}", f"FROM {base}\nENV N={n}\nWORKDIR /{n}\n{lines}")
            await _race(engine, context, memory / f"out{n}", steps=n)
            assert [(memory / f"out{n}" / name).read_text() for name in ("one", "two")] == ["1\n", "2\n"]


async def _race(engine: Engine, context: Path, out: Path, steps: int) -> None:
    """Two equal builds, of which the first is cancelled after so many events."""
    scope, seen = anyio.CancelScope(), list[Event]()

    def sink(event: Event) -> None:
        seen.append(event)
        if len(seen) == 3 + steps:
            scope.cancel()

    async def cancelled() -> None:
        with scope:
            await engine.build(request(context, push=False), sink=sink)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancelled)
        tasks.start_soon(lambda: engine.build(replace(request(context, push=False), outputs=(OutputRequest("local", out),))))


async def test_what_one_build_lacks_is_no_error_of_another(base: str, memory: Path) -> None:
    """The values of secrets are no part of a key."""
    mount = "--mount=type=secret,id=s,required=true"
    context = write_context(memory / "app", f"FROM {base}\nRUN {mount} grep -q right /run/secrets/s && echo ran\n")
    failed: list[type[Exception]] = []
    ran: list[bytes] = []

    def sink(event: Event) -> None:
        if isinstance(event, StepOutput):
            ran.append(event.data)

    async def one(engine: Engine, value: bytes | None) -> None:
        secrets = {"s": SecretSource("s", value=value)} if value is not None else {}
        try:
            await engine.build(request(context, push=False, secrets=secrets), sink=sink)
        except (SecretError, RunError) as error:
            failed.append(type(error))

    values: Sequence[bytes | None] = (None, b"wrong", b"right", b"right")
    async with Engine(Settings(memory / "state")) as engine, anyio.create_task_group() as tasks:
        for value in values:
            tasks.start_soon(one, engine, value)
    assert b"".join(ran) == b"ran\n", "the two that can run it run it once"
    assert set(failed) <= {SecretError, RunError} and len(failed) <= 2
