"""Cache mounts carried from one machine to another: what a RUN there sees, and how little moves when little has changed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from engine import Engine, Settings
from engine.image.reference import Reference
from engine.progress.events import Event, MountCarried, Warned
from engine.registry.server.faults import Fault
from engine.registry.server.server import RegistryServer
from engine.request import BuildRequest, BuildResult

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

FILL = "mkdir -p /cache/deep && head -c 6000000 /dev/urandom > /cache/deep/big && for i in $(seq 200); do echo $i > /cache/$i; done"


def step(base: str, *commands: str, options: str = "") -> str:
    """A Dockerfile of one RUN with a cache mount, for each command."""
    return f"FROM {base}\n" + "".join(f"RUN --mount=type=cache,target=/cache{options} {command}\n" for command in commands)


def carrying(context: Path, registry: RegistryServer, *, source: bool = True, target: bool = True) -> BuildRequest:
    place = Reference.parse(f"{registry.address}/mounts:main")
    return request(context, f"{registry.address}/app:1", cache_mounts_from=(place,) if source else (),
                   cache_mounts_to=place if target else None)


async def build_on(machine: Path, wanted: BuildRequest, events: list[Event] | None = None) -> BuildResult:
    """Builds on a machine, which is a state directory."""
    async with Engine(Settings(machine)) as engine:
        return await engine.build(wanted, sink=events.append if events is not None else None)


def moved(registry: RegistryServer) -> tuple[int, int]:
    """Bytes that went to the repository of the mounts, and came from there, since the log was cleared."""
    there = [entry for entry in registry.requests if entry.path.startswith("/v2/mounts/")]
    return sum(entry.received for entry in there), sum(entry.sent for entry in there if entry.method == "GET")


def carried(events: list[Event]) -> list[tuple[str, str, int]]:
    return [(event.what, event.id, event.files) for event in events if isinstance(event, MountCarried)]


def warnings(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


async def test_a_fresh_machine_has_what_another_saved_and_little_moves_when_little_changed(
        base: str, registry: RegistryServer, memory: Path) -> None:  # fmt: skip
    events: list[Event] = []
    await build_on(memory / "a", carrying(write_context(memory / "one", step(base, FILL)), registry), events)
    assert carried(events) == [("saved", "/cache", 201)]
    sent, _ = moved(registry)
    assert sent > 6_000_000

    registry.log.clear()
    events.clear()
    check = "test $(ls /cache | wc -l) = 201 && test $(cat /cache/77) = 77 && test $(stat -c %s /cache/deep/big) = 6000000"
    await build_on(memory / "b", carrying(write_context(memory / "two", step(base, check)), registry), events)
    assert carried(events) == [("restored", "/cache", 201)]
    sent, received = moved(registry)
    assert sent == 0, "a step that only looked has changed nothing"
    assert received > 6_000_000

    registry.log.clear()
    events.clear()
    await build_on(memory / "b", carrying(write_context(memory / "three", step(base, "echo other > /cache/77")), registry), events)
    sent, received = moved(registry)
    assert carried(events) == [("saved", "/cache", 201)]
    assert 0 < sent < 25_000
    assert received < 25_000
    assert warnings(events) == []

    await build_on(memory / "c", carrying(write_context(memory / "four", step(base, "grep other /cache/77")), registry))


async def test_two_steps_with_one_mount_and_another_mount(base: str, registry: RegistryServer, memory: Path) -> None:
    dockerfile = step(base, "echo one > /cache/one", "echo two > /cache/two") + \
        "RUN --mount=type=cache,id=private,target=/p,sharing=private,uid=1000,mode=700 echo x > /p/x\n"
    await build_on(memory / "a", carrying(write_context(memory / "one", dockerfile), registry))
    events: list[Event] = []
    dockerfile = step(base, "cat /cache/one /cache/two") + \
        "RUN --mount=type=cache,id=private,target=/p,sharing=private,uid=1000,mode=700 test $(stat -c %u%a /p) = 1000700 && cat /p/x\n"
    await build_on(memory / "b", carrying(write_context(memory / "two", dockerfile), registry, target=False), events)
    assert sorted(carried(events)) == [("restored", "/cache", 2), ("restored", "private", 1)]


async def test_a_mount_that_begins_as_an_image_is_the_same_on_every_machine(base: str, registry: RegistryServer,
                                                                           memory: Path) -> None:  # fmt: skip
    options = f",from={base},source=/etc"
    await build_on(memory / "a", carrying(write_context(memory / "one", step(base, "echo x >> /cache/group", options=options)), registry))
    events: list[Event] = []
    dockerfile = step(base, "grep x /cache/group && grep app /cache/passwd", options=options)
    await build_on(memory / "b", carrying(write_context(memory / "two", dockerfile), registry), events)
    assert carried(events) == [("restored", "/cache", 2)]


async def test_a_build_that_fails_saves_nothing(base: str, registry: RegistryServer, memory: Path) -> None:
    with pytest.raises(Exception, match="did not complete"):
        await build_on(memory / "a", carrying(write_context(memory / "one", step(base, "touch /cache/x && false")), registry))
    assert moved(registry)[0] == 0


async def test_a_registry_that_is_down_costs_warnings(base: str, registry: RegistryServer, memory: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = Reference.parse(f"127.0.0.1:{probe.getsockname()[1]}/mounts")
        context = write_context(memory / "one", step(base, "touch /cache/x"))
        events: list[Event] = []
        wanted = request(context, f"{registry.address}/app:1", cache_mounts_from=(place,), cache_mounts_to=place)
        assert (await build_on(memory / "a", wanted, events)).ran == 1
    assert [text.split(" of ")[0].split(" was ")[0] for text in warnings(events)] == ["cannot read cache mounts", "cache mount /cache"]


async def test_a_registry_that_takes_nothing_costs_a_warning(base: str, registry: RegistryServer, memory: Path) -> None:
    registry.add_fault(Fault(method="PUT|POST|PATCH", path="/v2/mounts/.*", kind="read-only", times=None))
    events: list[Event] = []
    context = write_context(memory / "one", step(base, "touch /cache/x && echo x > /cache/y"))
    assert (await build_on(memory / "a", carrying(context, registry), events)).ran == 1
    assert len(warnings(events)) == 1
