"""Commands that begin before the layer below them is packed: what comes of them is what would come of them after it."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from engine import Engine, Settings
from engine.cache.flight import FileLocks
from engine.errors import RunError, StorageError
from engine.progress.events import Event, StepExplained, StepFinished, StepOutput, StepStarted
from engine.request import BuildRequest, OutputRequest
from engine.settings import Limits
from engine.snapshot.overlay import OverlaySnapshotter
from engine.solve.steps import run
from engine.solve.steps.early import EarlyCommand
from engine.solve.work import PlanWork

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

MakeLayer = Callable[..., Awaitable[Any]]


class Watch:
    """What a build has told, and how many commands it has begun early."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.early = 0
        self.told = anyio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.told.set()
        self.told = anyio.Event()

    def output(self) -> bytes:
        return b"".join(event.data for event in self.events if isinstance(event, StepOutput))

    async def says(self, text: bytes) -> None:
        """Waits until a command has written something."""
        with anyio.fail_after(30):
            while text not in self.output():
                await self.told.wait()

    def ended(self) -> list[str]:
        """What became of the commands, in the order of their beginnings."""
        begun = [event.step for event in self.events if isinstance(event, StepStarted) and " RUN " in event.name]
        ended = {event.step: event.status for event in self.events if isinstance(event, StepFinished)}
        return [ended[step] for step in begun]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Whatever a command has left takes time to pack."""
    seen, own = Watch(), EarlyCommand.run

    async def watched(self: EarlyCommand) -> None:
        seen.early += 1
        await own(self)

    monkeypatch.setattr(EarlyCommand, "run", watched)
    monkeypatch.setattr(run, "MANY", 0)
    return seen


def before_packing(monkeypatch: pytest.MonkeyPatch, *first: Callable[[], Awaitable[None]]) -> None:
    """Does something before the first layers of commands are packed: one thing for each."""
    left, make = list(first), run.make_layer

    async def make_layer(*arguments: Any, **options: Any) -> Any:
        if left:
            await left.pop(0)()
        return await make(*arguments, **options)

    monkeypatch.setattr(run, "make_layer", make_layer)


def actives(state: Path) -> list[Path]:
    """Roots that are still there."""
    return list((state / "roots").glob("*/overlay-*"))


def nothing_is_left(state: Path) -> bool:
    return not actives(state)


CHAIN = """\
FROM {base}
RUN mkdir /a /a/b && echo 1 > /a/b/f && echo old > /a/g && ln /a/g /a/h && echo same > /a/same && chmod 700 /a/b && chown 1000 /a/b/f && echo one
RUN rm -r /a/b && mkdir /a/b && echo 2 > /a/b/n && echo more >> /a/h && chmod 600 /a/same && chmod 644 /a/same \\
    && chmod 1777 / && echo two
RUN test "$(cat /a/h)" = "$(printf 'old\\nmore')" && mv /a /c && rm /etc/group && ln -s c /a && touch -d @9 /c/b \\
    && stat -c %a / && echo three
USER 1000
RUN --mount=type=cache,target=/cache,uid=1000 cp /a/b/n /cache/n && id -u && touch /tmp/four && echo four
RUN --mount=type=cache,target=/cache,uid=1000 cmp /a/b/n /cache/n && ! test -e /etc/group && stat -c %Y /c/b && rm /tmp/four && echo five
"""
LOOK = "RUN find / -xdev ! -path '/proc*' ! -path '/sys*' ! -path '/dev*' -exec stat -c '%n %F %a %u %g %h %s' {} + | sort\n"


def layers(image: Path) -> list[list[tuple[object, ...]]]:
    """What is in the layers of an image, but for times."""
    with tarfile.open(image) as opened:

        def read(name: str) -> bytes:
            file = opened.extractfile(name)
            assert file
            return file.read()

        (manifest,) = json.loads(read("manifest.json"))
        return [members(read(name)) for name in manifest["Layers"]]


def members(layer: bytes) -> list[tuple[object, ...]]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as opened:
        return [(each.name, each.type, each.mode, each.uid, each.gid, each.linkname,
                 file.read() if each.isreg() and (file := opened.extractfile(each)) else b"") for each in opened]  # fmt: skip


async def test_what_comes_of_them_is_the_same(engine: Engine, base: str, memory: Path, watch: Watch,
                                              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def asked(name: str) -> BuildRequest:
        return replace(request(context), outputs=(OutputRequest("docker", memory / name),))

    context = write_context(memory / "app", CHAIN.format(base=base) + "USER 0\n" + LOOK)
    early = await engine.build(asked("early"), sink=watch)
    assert watch.early == 4, "on the third, which has touched /etc/group, nothing is begun; nor is there anything after the last"
    seen, watch.events = watch.output(), []
    assert [line for line in seen.splitlines() if line in (b"one", b"two", b"three", b"four", b"five")] == [
        b"one", b"two", b"three", b"four", b"five"]
    monkeypatch.setattr(run, "MANY", 1 << 60)
    async with Engine(Settings(memory / "other")) as other:
        late = await other.build(asked("late"), sink=watch)
    assert watch.early == 4
    assert watch.output() == seen
    assert layers(memory / "early") == layers(memory / "late")
    assert early.ran == late.ran == 6
    again = await engine.build(request(context, push=False))
    assert (again.ran, again.digest) == (0, early.digest)
    assert nothing_is_left(memory / "state")
    assert engine._wiring and not engine._wiring.limiters.steps.borrowed_tokens
    assert len(list((memory / "state/layers").glob("*/chain/*"))) == 6, "each root has become that of a state"


async def test_they_run_while_the_layer_below_is_packed(engine: Engine, base: str, memory: Path, watch: Watch,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    context = write_context(memory / "app", f"FROM {base}\nRUN echo 1 > /x\nRUN echo seen $(cat /x) | tee /y\nRUN echo and then\n")
    before_packing(monkeypatch, lambda: watch.says(b"seen 1\n"), lambda: watch.says(b"and then\n"))
    result = await engine.build(request(context, push=False, explain=True), sink=watch)
    assert result.ran == 3
    assert watch.early == 2
    assert len([event for event in watch.events if isinstance(event, StepExplained)]) == 3
    assert watch.ended() == ["done", "done", "done"]


async def test_a_state_that_two_work_on_has_a_name_before(engine: Engine, base: str, memory: Path, watch: Watch) -> None:
    context = write_context(memory / "app", f"FROM {base} AS both\nRUN echo 1 > /x\nFROM both AS one\nRUN cp /x /one\n"
                                            "FROM both\nRUN cp /x /two\nCOPY --from=one /one /\nRUN ls /one /two\n")  # fmt: skip
    await engine.build(request(context, push=False), sink=watch)
    assert watch.early == 0


async def test_who_a_command_is_run_as_may_come_from_the_layer_below(engine: Engine, base: str, memory: Path, watch: Watch) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN echo 'new:x:77:88::/n:/bin/sh' >> /etc/passwd\nUSER new\n"
                                            "RUN echo $(id -u):$(id -g):$HOME\n")  # fmt: skip
    await engine.build(request(context, push=False), sink=watch)
    assert watch.output() == b"77:88:/n\n"
    assert watch.early == 0


async def test_one_that_fails_costs_nothing_of_the_step_before(engine: Engine, base: str, memory: Path, watch: Watch,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    context = write_context(memory / "app", f"FROM {base}\nRUN echo 1 > /x\nRUN echo so it goes; exit 7\n")
    before_packing(monkeypatch, lambda: watch.says(b"so it goes\n"))
    with pytest.raises(RunError, match="exit code: 7") as caught:
        await engine.build(request(context, push=False), sink=watch)
    assert caught.value.output == ("so it goes",)
    assert caught.value.location.first == 3  # type: ignore[union-attr]  # it has one
    assert watch.early == 1
    assert watch.ended() == ["done", "failed"]
    assert nothing_is_left(memory / "state")
    write_context(context, f"FROM {base}\nRUN echo 1 > /x\nRUN cat /x\n")
    assert (await engine.build(request(context, push=False))).ran == 1


async def test_if_the_layer_below_cannot_be_packed_they_are_given_up(engine: Engine, base: str, memory: Path, watch: Watch,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    context = write_context(memory / "app", f"FROM {base}\nRUN echo 1 > /x\nRUN echo for ever; sleep 1000\n")

    async def full() -> None:
        await watch.says(b"for ever\n")
        raise StorageError("the disk is full")

    before_packing(monkeypatch, full)
    with anyio.fail_after(25), pytest.raises(StorageError, match="the disk is full"):
        await engine.build(request(context, push=False), sink=watch)
    assert watch.ended() == ["failed", "canceled"]
    assert nothing_is_left(memory / "state")


async def test_a_build_that_is_cancelled_leaves_nothing(engine: Engine, base: str, memory: Path, watch: Watch,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    context = write_context(memory / "app", f"FROM {base}\nRUN echo 1 > /x\nRUN echo for ever; sleep 1000\n")
    before_packing(monkeypatch, anyio.sleep_forever)
    async with anyio.create_task_group() as tasks:

        async def build() -> None:
            await engine.build(request(context, push=False), sink=watch)

        tasks.start_soon(build)
        await watch.says(b"for ever\n")
        tasks.cancel_scope.cancel()
    assert watch.ended() == ["canceled", "canceled"]
    assert nothing_is_left(memory / "state")
    monkeypatch.undo()
    write_context(context, f"FROM {base}\nRUN echo 1 > /x\nRUN cat /x\n")
    assert (await engine.build(request(context, push=False))).ran == 2


async def test_one_whose_result_is_found_after_all_is_given_up(engine: Engine, base: str, memory: Path, watch: Watch,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    text = f"FROM {base}\nRUN touch -d @4000000000 /tmp/x; touch -d @4000000000 /tmp # {{0}}\nRUN cat /tmp/x > /y\nRUN echo {{0}}\n"
    context = write_context(memory / "app", text.format("first"))
    first = await engine.build(request(context, push=False), sink=watch)
    assert watch.early == 2
    write_context(context, text.format("second"))
    roots: list[int] = []

    async def look() -> None:
        roots.append(len(actives(memory / "state")))

    before_packing(monkeypatch, look, look)
    with anyio.fail_after(25):
        again = await engine.build(request(context, push=False), sink=watch)
    assert (again.ran, again.cached) == (2, 1)
    assert watch.early == 3
    assert roots == [2, 1], "the second command is begun while the first one's layer is packed, and gone when the third is over"
    assert first.digest != again.digest  # its history tells of the other comment
    assert nothing_is_left(memory / "state")


async def test_nothing_is_begun_on_what_may_have_been_there_before(engine: Engine, base: str, memory: Path, watch: Watch) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN touch -d @1600000000 /tmp/x; touch -d @1600000000 /tmp\nRUN ls /tmp\n")
    await engine.build(request(context, push=False), sink=watch)
    assert watch.early == 0


async def test_equal_builds_do_not_run_one_that_has_begun(engine: Engine, base: str, memory: Path, watch: Watch,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Also if the build that has begun it is overtaken by one that waits for the step before."""
    context = write_context(memory / "app", f"FROM {base}\nRUN echo 1 > /x\nRUN echo only once\n")
    held: list[str] = []
    hold, execute = FileLocks.hold, PlanWork.execute
    third = anyio.Event()

    def watched(self: FileLocks, name: str, *, shared: bool = False) -> Any:
        if name.startswith("step "):
            held.append(name)
            if len(held) == 3:
                third.set()
        return hold(self, name, shared=shared)

    async def late(self: PlanWork, node: Any, states: Any) -> Any:
        if node.id in self._following._begun:
            with anyio.fail_after(30):
                await third.wait()
        return await execute(self, node, states)

    monkeypatch.setattr(FileLocks, "hold", watched)
    monkeypatch.setattr(PlanWork, "execute", late)
    ran: list[int] = []

    async def build() -> None:
        ran.append((await engine.build(request(context, push=False), sink=watch)).ran)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(build)
        tasks.start_soon(build)
    assert sorted(ran) == [0, 2]
    assert watch.output() == b"only once\n"


async def test_a_root_that_cannot_be_committed_is_removed(engine: Engine, base: str, memory: Path, watch: Watch,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    context = write_context(memory / "app", f"FROM {base}\nRUN echo 1 > /x\nRUN cat /x\n")

    async def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched, pytest.raises(StorageError, match="the disk is full"):
        patched.setattr(OverlaySnapshotter, "commit", full)
        await engine.build(request(context, push=False), sink=watch)
    assert watch.early == 1
    assert watch.ended() == ["done", "failed"]
    assert nothing_is_left(memory / "state")
    assert (await engine.build(request(context, push=False))).ran == 1


@pytest.mark.parametrize("moment", range(8))
async def test_whenever_a_build_is_cancelled_every_step_ends_and_nothing_is_left(engine: Engine, base: str, memory: Path, watch: Watch,
                                                                                 moment: int) -> None:
    context = write_context(memory / "app", f"FROM {base}\n" + "".join(f"RUN echo {n} > /x{n}; echo {n}\n" for n in range(4)))
    scope = anyio.CancelScope()
    seen = 0

    def sink(event: Event) -> None:
        nonlocal seen
        watch(event)
        if isinstance(event, StepStarted | StepFinished) and " RUN " in names.setdefault(event.step, getattr(event, "name", "")):
            seen += 1
            if seen == moment:
                scope.cancel()

    names: dict[str, str] = {}
    with scope:
        await engine.build(request(context, push=False), sink=sink)
    started = [event.step for event in watch.events if isinstance(event, StepStarted)]
    assert sorted(started) == sorted(event.step for event in watch.events if isinstance(event, StepFinished))
    assert nothing_is_left(memory / "state")
    assert engine._wiring and not engine._wiring.limiters.steps.borrowed_tokens
    assert (await engine.build(request(context, push=False))).digest


async def test_mounts_are_free_while_a_layer_is_packed(engine: Engine, base: str, memory: Path, watch: Watch,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    mount = "--mount=type=cache,target=/cache,sharing=locked"
    context = write_context(memory / "app", f"FROM {base}\nRUN {mount} echo kept > /cache/x; touch /x\nRUN {mount} cat /cache/x\n")
    before_packing(monkeypatch, lambda: watch.says(b"kept\n"))
    assert (await engine.build(request(context, push=False), sink=watch)).ran == 2


async def test_there_are_no_more_commands_at_once_than_the_limit(base: str, memory: Path, watch: Watch) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN echo 1 > /x\nRUN cat /x\n")
    async with Engine(Settings(memory / "one", limits=Limits(steps=1))) as one:
        assert (await one.build(request(context, push=False), sink=watch)).ran == 2
    assert watch.early == 0


async def test_times_that_are_rewritten_are_those_of_the_layer(engine: Engine, base: str, memory: Path, watch: Watch) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN echo 1 > /x\nRUN stat -c 'at %Y' /x\n")
    await engine.build(request(context, push=False, build_args={"SOURCE_DATE_EPOCH": "1600000000"}, rewrite_timestamp=True), sink=watch)
    assert re.search(rb"at 1600000000\n", watch.output())
    assert watch.early == 0
