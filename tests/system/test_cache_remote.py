"""A cache in a registry: what other machines need not run and not move, and what happens when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import Engine, Settings
from engine.image.reference import Reference
from engine.progress.events import Event, StepExplained, Warned
from engine.registry.server.faults import Fault
from engine.registry.server.server import RegistryServer
from engine.request import BuildRequest, BuildResult, CacheLocation

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]


def with_cache(context: Path, name: str, cache: str, *, write: bool = True, mode: str = "max", **fields: object) -> BuildRequest:
    location = CacheLocation(Reference.parse(cache), mode)  # type: ignore[arg-type]  # min or max
    return request(context, name, cache_from=(location,), cache_to=location if write else None, **fields)


async def build_on(machine: Path, wanted: BuildRequest, events: list[Event] | None = None) -> BuildResult:
    """Builds on a machine, which is a state directory."""
    async with Engine(Settings(machine)) as engine:
        return await engine.build(wanted, sink=events.append if events is not None else None)


def layer_traffic(registry: RegistryServer, *configs: str) -> list[str]:
    """Bytes of blobs that moved, but for configs: downloads, and uploads that were more than a mount."""
    found = []
    for entry in registry.requests:
        moved = entry.received > 0 or (entry.method == "GET" and entry.status == 200)
        if "/blobs/" in entry.path and moved and entry.sent + entry.received > 4096:
            found.append(f"{entry.method} {entry.path}")
    return found


def big(base: str) -> str:
    """Thirty steps in three stages."""
    makes = "".join(f"RUN head -c 100000 /dev/urandom > /made{n} && echo {n} >> /log\n" for n in range(10))
    uses = "".join(f"COPY --from=one /made{n} /one{n}\nCOPY --from=two /made{n} /two{n}\n" for n in range(4))
    return (f"FROM {base} AS one\n{makes}FROM {base} AS two\nCOPY src /src\n{makes.replace('/log', '/two')}"
            f"FROM {base}\n{uses}RUN cat /one0 /two0 > /both\n")  # fmt: skip


async def test_a_fresh_machine_rebuilds_thirty_steps_without_running_one_or_moving_a_layer(
        base: str, registry: RegistryServer, memory: Path) -> None:  # fmt: skip
    context = write_context(memory / "app", big(base), src="source\n")
    name, cache = f"{registry.address}/app:1", f"{registry.address}/cache"
    first = await build_on(memory / "one", with_cache(context, name, cache))
    assert first.ran == 30
    registry.log.clear()
    other = f"{registry.address}/elsewhere:1"
    second = await build_on(memory / "two", with_cache(context, other, cache))
    assert (second.digest, second.ran, second.cached) == (first.digest, 0, 9)
    assert layer_traffic(registry) == []
    mounts = [e for e in registry.requests if e.method == "POST" and "mount=" in e.query]
    assert {e.status for e in mounts} == {201}
    assert not (memory / "two/layers").exists()


async def test_a_changed_source_reruns_only_what_depends_on_it(base: str, registry: RegistryServer, memory: Path) -> None:
    context = write_context(memory / "app", big(base), src="source\n")
    name, cache = f"{registry.address}/app:1", f"{registry.address}/cache"
    await build_on(memory / "one", with_cache(context, name, cache))
    (context / "src").write_text("another\n")
    second = await build_on(memory / "two", with_cache(context, name, cache))
    # The copy and the ten steps on it; in the last stage all from the first copy of what those made: seven copies and a RUN
    assert second.ran == 1 + 10 + 7 + 1


async def test_layers_go_to_the_image_by_mounts(base: str, registry: RegistryServer, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN head -c 3000000 /dev/urandom > /big\n")
    await build_on(memory / "one", with_cache(context, f"{registry.address}/app:1", f"{registry.address}/cache"))
    uploads = [e for e in registry.requests if "/blobs/uploads/" in e.path and e.received > 1_000_000]
    assert len(uploads) == 1
    assert uploads[0].path.startswith("/v2/cache/")


async def test_mode_min_keeps_what_is_in_the_image(base: str, registry: RegistryServer, memory: Path) -> None:
    dockerfile = f"FROM {base} AS build\nRUN echo a > /a\nRUN echo b > /b\nFROM {base}\nCOPY --from=build /b /b\n"
    context = write_context(memory / "app", dockerfile)
    await build_on(memory / "one", with_cache(context, f"{registry.address}/app:1", f"{registry.address}/cache", mode="min"))
    again = await build_on(memory / "two", with_cache(context, f"{registry.address}/app:1", f"{registry.address}/cache"))
    assert (again.ran, again.cached) == (0, 1)
    context = write_context(memory / "app", dockerfile.replace("COPY", "RUN true\nCOPY"))
    changed = await build_on(memory / "three", with_cache(context, f"{registry.address}/app:1", f"{registry.address}/cache"))
    assert changed.ran == 4, "the stage's steps are not in the cache, but its copy is found by what it copies"


async def test_what_this_machine_has_is_written_to_a_new_cache(base: str, registry: RegistryServer, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN echo a > /a\n")
    await build_on(memory / "one", request(context, push=False))
    hit = await build_on(memory / "one", with_cache(context, f"{registry.address}/app:1", f"{registry.address}/cache"))
    assert hit.ran == 0
    assert (await build_on(memory / "two", with_cache(context, f"{registry.address}/app:2", f"{registry.address}/cache"))).ran == 0


async def test_a_branch_reads_the_trunk_and_writes_its_own(base: str, registry: RegistryServer, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nCOPY f /f\nRUN echo a > /a\n", f="1")
    name, cache = f"{registry.address}/app:1", f"{registry.address}/cache"
    await build_on(memory / "one", with_cache(context, name, cache, cache_scopes=("trunk",)))
    (context / "f").write_text("2")
    branch = await build_on(memory / "two", with_cache(context, name, cache, cache_scopes=("branch", "trunk")))
    assert branch.ran == 2
    assert (await build_on(memory / "three", with_cache(context, name, cache, cache_scopes=("trunk",), write=False))).ran == 2
    assert (await build_on(memory / "four", with_cache(context, name, cache, cache_scopes=("branch",), write=False))).ran == 0
    (context / "f").write_text("1")
    assert (await build_on(memory / "five", with_cache(context, name, cache, cache_scopes=("other", "trunk")))).ran == 0


@pytest.mark.parametrize("kind", ["status", "read-only"])
async def test_a_cache_that_fails_costs_one_warning(kind: str, base: str, registry: RegistryServer, memory: Path) -> None:
    methods = "PUT|POST|PATCH" if kind == "read-only" else ".*"
    status = 403 if kind == "status" else 0
    registry.add_fault(Fault(method=methods, path="/v2/cache/.*", kind=kind, status=status, times=None))  # type: ignore[arg-type]
    context = write_context(memory / "app", f"FROM {base}\nRUN echo a > /a\nRUN echo b > /b\n")
    events: list[Event] = []
    wanted = with_cache(context, f"{registry.address}/app:1", f"{registry.address}/cache")
    assert (await build_on(memory / "one", wanted, events)).ran == 2
    warnings = [event.message for event in events if isinstance(event, Warned)]
    assert {text.split(":")[0].split(" cache")[0] for text in warnings} <= {"cannot read", "cannot write"}
    assert 1 <= len(warnings) <= 2


async def test_no_cache_replaces_what_others_find(base: str, registry: RegistryServer, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN cat /proc/sys/kernel/random/uuid > /a\n")
    name, cache = f"{registry.address}/app:1", f"{registry.address}/cache"
    first = await build_on(memory / "one", with_cache(context, name, cache))
    second = await build_on(memory / "one", with_cache(context, name, cache, no_cache=True))
    third = await build_on(memory / "one", with_cache(context, name, cache))
    fourth = await build_on(memory / "two", with_cache(context, name, cache))
    assert first.digest != second.digest == third.digest == fourth.digest
    assert (second.ran, third.ran, fourth.ran) == (1, 0, 0)


async def test_layers_that_a_registry_has_lost_are_built_anew(base: str, registry: RegistryServer, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN echo a > /a\nRUN echo b > /b\n")
    name, cache = f"{registry.address}/app:1", f"{registry.address}/cache"
    first = await build_on(memory / "one", with_cache(context, name, cache))
    registry.add_fault(Fault(method="GET|HEAD", path="/v2/(cache|elsewhere)/blobs/.*", kind="status", status=404, times=None))
    registry.add_fault(Fault(method="POST", path="/v2/elsewhere/.*", kind="no-mount", times=None))
    write_context(context, f"FROM {base}\nRUN echo a > /a\nRUN echo b > /b\nRUN echo c > /c\n")
    events: list[Event] = []
    wanted = with_cache(context, f"{registry.address}/elsewhere:1", cache, write=False)
    again = await build_on(memory / "two", wanted, events)
    assert again.ran >= 2, "the second and third step in the last attempt; the first one in that or in the one before"
    assert again.digest != first.digest
    assert sum("is built anew" in event.message for event in events if isinstance(event, Warned)) == 2


async def test_explain_names_the_tier_and_the_file(base: str, registry: RegistryServer, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nARG V=1\nCOPY a b /\nRUN echo $V > /v\n", a="1", b="1")
    name, cache = f"{registry.address}/app:1", f"{registry.address}/cache"

    async def explained(machine: str, **fields: object) -> dict[str, StepExplained]:
        events: list[Event] = []
        await build_on(memory / machine, with_cache(context, name, cache, explain=True, **fields), events)
        return {e.name.partition("] ")[2].split()[0]: e for e in events if isinstance(e, StepExplained)}

    first = await explained("one")
    assert [(e.tier, e.reasons) for e in first.values()] == [
        ("", ("there is no earlier result of an instruction like this one",))] * 2
    assert {e.tier for e in (await explained("one")).values()} == {"local"}
    there = await explained("two")
    assert {e.tier for e in there.values()} == {"registry"}
    assert all(e.key.startswith("sha256:") and e.age >= 0 for e in there.values())
    (context / "b").write_text("2")
    changed = await explained("one")
    assert changed["COPY"].reasons == ("b changed",)
    assert changed["RUN"].reasons == ("the result of COPY a b / changed",)
    varied = await explained("one", build_args={"V": "2"})
    assert varied["COPY"].tier == "local"
    assert varied["RUN"].reasons == ("variable V has another value",)
