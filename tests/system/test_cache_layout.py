"""Caches in a directory and in an image: what a machine that has nothing else need not run, and what happens when they are spoilt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from engine import Engine, Settings
from engine.cache import inline
from engine.cache.layouts import CacheLayouts
from engine.image.digest import Digest
from engine.image.platform import Platform
from engine.image.reference import Reference, cache_layout
from engine.progress.events import Event, StepExplained, Warned
from engine.registry.server.faults import Fault
from engine.registry.server.server import RegistryServer
from engine.request import BuildRequest, BuildResult, CacheLocation, OutputRequest

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

STAGES = """\
FROM {base} AS build
COPY src /src
RUN cp /src /app && cat /proc/sys/kernel/random/uuid > /unique
RUN echo two >> /app
FROM {base}
WORKDIR /work
COPY --from=build /app /app
RUN cat /proc/sys/kernel/random/uuid > /made
COPY --from=build /unique /unique
LABEL a=b
"""
ALL, FINAL = 7, 4
"""Steps of both stages, and of the last one."""


async def build_on(machine: Path, wanted: BuildRequest, events: list[Event] | None = None) -> BuildResult:
    """Builds on a machine, which is a state directory."""
    async with Engine(Settings(machine)) as engine:
        return await engine.build(wanted, sink=events.append if events is not None else None)


def cached_in(context: Path, directory: Path, name: str = "", *, write: bool = True, mode: str = "max",
              **fields: object) -> BuildRequest:
    location = CacheLocation(cache_layout(str(directory)), mode)  # type: ignore[arg-type]  # min or max
    return request(context, *([name] if name else []), cache_from=(location,), cache_to=location if write else None, **fields)


def warnings(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


def tiers(events: list[Event]) -> set[str]:
    return {event.tier for event in events if isinstance(event, StepExplained)}


def listed(directory: Path) -> list[dict[str, object]]:
    found = json.loads((directory / "index.json").read_bytes())["manifests"]
    assert isinstance(found, list)
    return found


def document(directory: Path, entry: dict[str, object]) -> dict[str, Any]:
    """A blob that is JSON."""
    value = json.loads((directory / "blobs/sha256" / str(entry["digest"]).removeprefix("sha256:")).read_bytes())
    assert isinstance(value, dict)
    return value


def check_whole(directory: Path) -> None:
    """Every entry of a layout, and all that it points to, is there and is what its digest says; and nothing is left over."""
    assert json.loads((directory / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    for entry in listed(directory):
        manifest = json.loads((directory / "blobs/sha256" / str(entry["digest"]).removeprefix("sha256:")).read_bytes())
        for blob in (entry, manifest["config"], *manifest["layers"]):
            data = (directory / "blobs/sha256" / str(blob["digest"]).removeprefix("sha256:")).read_bytes()
            assert str(Digest.of(data)) == blob["digest"] and len(data) == blob["size"]
    assert os.listdir(directory / "ingest") == []


async def test_a_fresh_machine_with_nothing_but_the_directory_runs_no_step(base: str, registry: RegistryServer, memory: Path) -> None:
    context, name = write_context(memory / "app", STAGES.format(base=base), src="source\n"), f"{registry.address}/app:1"
    events: list[Event] = []
    first = await build_on(memory / "one", cached_in(context, memory / "cache", name), events)
    assert (first.ran, warnings(events)) == (ALL, [])
    check_whole(memory / "cache")
    events.clear()
    again = await build_on(memory / "two", cached_in(context, memory / "cache", name, explain=True), events)
    assert (again.digest, again.ran, again.cached) == (first.digest, 0, FINAL)
    assert tiers(events) == {"layout"}
    assert warnings(events) == []
    assert not (memory / "two/layers").exists()


async def test_layers_are_read_when_their_bytes_are_wanted(base: str, registry: RegistryServer, memory: Path) -> None:
    dockerfile = f"FROM {base}\nRUN head -c 300000 /dev/urandom > /big\n"
    context, name = write_context(memory / "app", dockerfile), f"{registry.address}/app:1"
    first = await build_on(memory / "one", cached_in(context, memory / "cache", name))
    layer = json.loads(first.manifest)["layers"][-1]["digest"].removeprefix("sha256:")
    await build_on(memory / "two", cached_in(context, memory / "cache", write=False))
    assert not (memory / "two/blobs/sha256" / layer).exists()
    (memory / "out.tar").unlink(missing_ok=True)
    output = OutputRequest("oci", memory / "out.tar")
    await build_on(memory / "two", BuildRequest(context=str(context), outputs=(output,)))
    assert (memory / "two/blobs/sha256" / layer).exists()
    write_context(context, dockerfile + "RUN test $(stat -c %s /big) = 300000\n")
    changed = await build_on(memory / "three", cached_in(context, memory / "cache", name))
    assert (changed.ran, changed.cached) == (1, 1)


async def test_mode_min_has_the_last_stage_and_max_all(base: str, registry: RegistryServer, memory: Path) -> None:
    dockerfile = STAGES.format(base=base)
    context = write_context(memory / "app", dockerfile, src="source\n")
    for mode, ran in (("min", 1 + 3 + 1), ("max", 2)):
        write_context(context, dockerfile)
        await build_on(memory / f"one-{mode}", cached_in(context, memory / mode, mode=mode))
        write_context(context, dockerfile.replace("RUN echo two", "RUN echo three"))
        changed = await build_on(memory / f"two-{mode}", cached_in(context, memory / mode, write=False))
        assert changed.ran >= ran if mode == "min" else changed.ran < 1 + 3 + 1, mode


async def test_what_is_found_in_one_directory_is_copied_to_another(base: str, registry: RegistryServer, memory: Path) -> None:
    """The way to keep a directory from growing: write to a new one, and put it in the place of the old one."""
    context, name = write_context(memory / "app", STAGES.format(base=base), src="source\n"), f"{registry.address}/app:1"
    first = await build_on(memory / "one", cached_in(context, memory / "old", name))
    old, new = (CacheLocation(cache_layout(str(memory / n)), "max") for n in ("old", "new"))
    await build_on(memory / "two", request(context, name, cache_from=(old,), cache_to=new))
    check_whole(memory / "new")
    again = await build_on(memory / "three", cached_in(context, memory / "new", name, write=False))
    assert (again.digest, again.ran) == (first.digest, 0)


async def test_a_registrys_cache_is_carried_to_a_directory(base: str, registry: RegistryServer, memory: Path) -> None:
    context, name = write_context(memory / "app", STAGES.format(base=base), src="source\n"), f"{registry.address}/app:1"
    far, near = CacheLocation(Reference.parse(f"{registry.address}/cache"), "max"), CacheLocation(cache_layout(str(memory / "new")), "max")
    first = await build_on(memory / "one", request(context, name, cache_from=(far,), cache_to=far))
    await build_on(memory / "two", request(context, name, cache_from=(far,), cache_to=near))
    registry.add_fault(Fault(path="/v2/cache/.*", kind="status", status=500, times=None))
    again = await build_on(memory / "three", cached_in(context, memory / "new", name, write=False))
    assert (again.digest, again.ran) == (first.digest, 0)


async def test_a_directory_that_is_not_there_is_worth_a_warning_if_it_is_only_read(base: str, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN true\n")
    events: list[Event] = []
    assert (await build_on(memory / "one", cached_in(context, memory / "none", write=False), events)).ran == 1
    assert warnings(events) == [f"cannot read cache {memory}/none: there is none"]
    events.clear()
    assert (await build_on(memory / "two", cached_in(context, memory / "none"), events)).ran == 1
    assert warnings(events) == []


@pytest.mark.parametrize("spoil", ["not-json", "empty", "huge", "link", "pipe", "folder"])
async def test_an_index_that_is_no_index_costs_a_warning(spoil: str, base: str, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN true\n")
    await build_on(memory / "one", cached_in(context, memory / "cache"))
    index = memory / "cache/index.json"
    good = index.rename(memory / "good.json")
    if spoil == "link":
        index.symlink_to(good)
    elif spoil == "pipe":
        os.mkfifo(index)
    elif spoil == "folder":
        index.mkdir()
    elif spoil == "huge":
        with index.open("wb") as file:
            file.truncate(20 << 30)
    else:
        index.write_bytes(b"" if spoil == "empty" else b"[1]")
    events: list[Event] = []
    assert (await build_on(memory / "two", cached_in(context, memory / "cache"), events)).ran == 1
    read, wrote = warnings(events)
    assert read.startswith(f"cannot read cache {memory}/cache: ") and wrote.startswith(f"cannot write cache {memory}/cache: ")
    assert index.is_symlink() == (spoil == "link")


@pytest.mark.parametrize("spoil", ["bytes", "short", "link", "gone", "endless"])
async def test_a_layer_that_is_not_what_it_should_be_is_built_anew_and_healed(
        spoil: str, base: str, registry: RegistryServer, memory: Path) -> None:  # fmt: skip
    dockerfile = f"FROM {base}\nCOPY a /a\nRUN echo b > /b\n"
    context = write_context(memory / "app", dockerfile, a="a" * 5000)
    first = await build_on(memory / "one", cached_in(context, memory / "cache"))
    layer = memory / "cache/blobs/sha256" / json.loads(first.manifest)["layers"][-2]["digest"].removeprefix("sha256:")
    data = layer.read_bytes()
    layer.unlink()
    if spoil == "bytes":
        layer.write_bytes(data[:-1] + b"!")
    elif spoil == "short":
        layer.write_bytes(data[:-1])
    elif spoil == "link":
        (memory / "elsewhere").write_bytes(data)
        layer.symlink_to(memory / "elsewhere")
    elif spoil == "endless":
        layer.symlink_to("/dev/zero")
    write_context(context, dockerfile + "RUN cat /a /b > /c\n")
    events: list[Event] = []
    changed = await build_on(memory / "two", cached_in(context, memory / "cache"), events)
    assert changed.ran >= 2
    assert warnings(events), "what is lost is told"
    check_whole(memory / "cache")
    events.clear()
    assert (await build_on(memory / "three", cached_in(context, memory / "cache"), events)).ran == 0
    assert warnings(events) == []


async def test_an_entry_that_lies_about_its_layer_is_built_anew_and_replaced(base: str, memory: Path) -> None:
    dockerfile = f"FROM {base}\nRUN echo a > /a\n"
    context = write_context(memory / "app", dockerfile)
    await build_on(memory / "one", cached_in(context, memory / "cache"))
    layouts, reference, lie = CacheLayouts(), cache_layout(str(memory / "cache")), str(Digest.of(b"another"))
    for entry in listed(memory / "cache"):
        value = document(memory / "cache", entry)
        value["annotations"]["dev.aniko.cache.diff-id"] = lie
        tag = json.loads(json.dumps(entry))["annotations"]["org.opencontainers.image.ref.name"]
        await layouts.push_manifest(reference.with_tag(tag), json.dumps(value).encode(), str(entry["mediaType"]))
    write_context(context, dockerfile + "RUN test $(cat /a) = a\n")
    events: list[Event] = []
    assert (await build_on(memory / "two", cached_in(context, memory / "cache"), events)).ran == 2
    assert len(warnings(events)) == 1 and "is built anew" in warnings(events)[0]
    assert not [e for e in listed(memory / "cache") if lie in json.dumps(document(memory / "cache", e))]
    for machine in ("two", "three"):
        events.clear()
        assert (await build_on(memory / machine, cached_in(context, memory / "cache"), events)).ran == 0
        assert warnings(events) == []


async def test_a_directory_that_cannot_be_written_costs_a_warning(base: str, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN true\n")
    await build_on(memory / "one", cached_in(context, memory / "cache"))
    (memory / "file").write_text("")
    events: list[Event] = []
    target = CacheLocation(cache_layout(str(memory / "file/below")), "max")
    assert (await build_on(memory / "two", request(context, cache_to=target), events)).ran == 1
    assert len(warnings(events)) == 1 and warnings(events)[0].startswith(f"cannot write cache {memory}/file/below: ")


async def test_links_in_the_directory_are_not_written_through(base: str, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN true\n")
    (memory / "victim").mkdir()
    for name in ("blobs", "ingest"):
        cache = memory / f"cache-{name}"
        cache.mkdir()
        (cache / name).symlink_to(memory / "victim")
        events: list[Event] = []
        assert (await build_on(memory / f"state-{name}", cached_in(context, cache), events)).ran == 1
        assert len(warnings(events)) == 1, name
        assert os.listdir(memory / "victim") == []


async def test_two_processes_that_write_one_directory_at_once_both_survive(base: str, memory: Path) -> None:
    async def build(name: str) -> None:
        dockerfile = f"FROM {base}\n" + "".join(f"RUN echo {name} {n}\n" for n in range(6)) + "RUN echo shared\n"
        context = write_context(memory / name, dockerfile)
        command = [sys.executable, "-m", "engine.cli", "build", "--state-dir", str(memory / f"state-{name}"), "-q",
                   "--cache-to", f"type=local,dest={memory}/cache,mode=max", str(context)]  # fmt: skip
        await anyio.run_process(command)

    async with anyio.create_task_group() as tasks:
        for name in ("one", "two", "three"):
            tasks.start_soon(build, name)
    check_whole(memory / "cache")
    for name in ("one", "two", "three"):
        assert (await build_on(memory / "fresh", cached_in(memory / name, memory / "cache", write=False))).ran == 0


async def test_a_machine_with_nothing_but_the_image_runs_no_step(base: str, registry: RegistryServer, memory: Path) -> None:
    context, name = write_context(memory / "app", STAGES.format(base=base), src="source\n"), f"{registry.address}/app:1"
    first = await build_on(memory / "one", request(context, name, build_args={"BUILDKIT_INLINE_CACHE": "1"}))
    assert first.ran == ALL
    source = CacheLocation(Reference.parse(name), image=True)
    registry.log.clear()
    events: list[Event] = []
    again = await build_on(memory / "two", request(context, f"{registry.address}/other:1", cache_from=(source,), cache_inline=True,
                                                   explain=True), events)  # fmt: skip
    assert (again.digest, again.ran, again.cached) == (first.digest, 0, FINAL)
    assert tiers(events) == {"inline"}
    assert warnings(events) == []
    assert not [e for e in registry.requests if "/blobs/" in e.path and e.received > 0 and "app" in e.path], "layers are mounted"


async def test_a_change_in_the_last_stage_uses_the_image_up_to_it(base: str, registry: RegistryServer, memory: Path) -> None:
    dockerfile = STAGES.format(base=base)
    context, name = write_context(memory / "app", dockerfile, src="source\n"), f"{registry.address}/app:1"
    await build_on(memory / "one", request(context, name, cache_inline=True))
    write_context(context, dockerfile + "RUN cat /made /unique > /both\n")
    source = CacheLocation(Reference.parse(name), image=True)
    changed = await build_on(memory / "two", request(context, name, cache_from=(source,)))
    assert (changed.ran, changed.cached) == (1, FINAL)


async def test_the_image_with_a_cache_is_the_same_each_time_and_differs_in_nothing_else(
        base: str, registry: RegistryServer, memory: Path) -> None:  # fmt: skip
    dockerfile = f"FROM {base} AS build\nRUN echo a > /a\nFROM {base}\nWORKDIR /work\nCOPY --from=build /a /a\nRUN true\nCOPY src /\n"
    context = write_context(memory / "app", dockerfile, src="source\n")
    fields = {"source_date_epoch": 1_700_000_000, "rewrite_timestamp": True}
    name = f"{registry.address}/app"
    plain = await build_on(memory / "one", request(context, f"{name}:plain", **fields))
    found, made, again = [await build_on(memory / machine, request(context, f"{name}:{machine}", cache_inline=True, **fields))
                          for machine in ("one", "two", "three")]  # fmt: skip
    assert (found.ran, made.ran, again.ran) == (0, 5, 5)
    assert found.digest == made.digest == again.digest
    config = await _config(registry, made)
    assert len(config.pop(inline.FIELD)["steps"]) == 4
    assert config == await _config(registry, plain)
    write_context(context, f"FROM {name}:two\nRUN echo more\n")
    assert inline.FIELD not in await _config(registry, await build_on(memory / "one", request(context, f"{name}:child")))


async def test_the_cache_is_in_a_file_too_and_outlives_a_copy_to_another_format(base: str, registry: RegistryServer, memory: Path) -> None:
    context, output = write_context(memory / "app", f"FROM {base}\nRUN true\n"), memory / "out"
    await build_on(memory / "one", BuildRequest(context=str(context), cache_inline=True,
                                                outputs=(OutputRequest("oci", output, archive=False),)))  # fmt: skip
    name = f"docker://{registry.address}/copied:1"
    await anyio.run_process(["skopeo", "copy", "--dest-tls-verify=false", "--format", "v2s2", f"oci:{output}", name])
    source = CacheLocation(Reference.parse(name.removeprefix("docker://")), image=True)
    assert (await build_on(memory / "two", request(context, cache_from=(source,)))).ran == 0


async def test_each_platforms_image_has_its_own_cache(registry: RegistryServer, memory: Path) -> None:
    context = write_context(memory / "app", "FROM scratch\nARG TARGETARCH\nCOPY a-$TARGETARCH /a\n", **{"a-amd64": "1", "a-arm64": "2"})
    name = f"{registry.address}/app:1"
    both = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))
    first = await build_on(memory / "one", request(context, name, cache_inline=True, platforms=both))
    source = CacheLocation(Reference.parse(name), image=True)
    again = await build_on(memory / "two", request(context, name, cache_inline=True, cache_from=(source,), platforms=both))
    assert (again.digest, again.ran, again.cached) == (first.digest, 0, 2)


async def test_looking_for_a_cache_in_an_image_is_one_request_where_there_is_none(
        base: str, registry: RegistryServer, memory: Path) -> None:  # fmt: skip
    context = write_context(memory / "app", f"FROM {base}\n" + "".join(f"RUN true {n}\n" for n in range(5)))
    events: list[Event] = []
    for name, status in (("absent", 404), ("base", 200)):
        registry.log.clear()
        source = CacheLocation(Reference.parse(f"{registry.address}/{name}:1"), image=True)
        await build_on(memory / name, request(context, cache_from=(source,)), events)
        asked = [e.status for e in registry.requests if e.path == f"/v2/{name}/manifests/1" and e.method == "GET"]
        assert asked.count(status) in (1, 2) and warnings(events) == [], "2: base is what the build starts from, too"


async def test_a_registry_that_is_down_costs_one_warning_for_image_and_entries(base: str, registry: RegistryServer, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN true\n")
    registry.add_fault(Fault(path="/v2/cache/.*", kind="status", status=403, times=None))
    events: list[Event] = []
    source = CacheLocation(Reference.parse(f"{registry.address}/cache:1"), image=True)
    assert (await build_on(memory / "one", request(context, cache_from=(source,)), events)).ran == 1
    assert len(warnings(events)) == 1


@pytest.mark.parametrize("spoil", ["layers", "place", "keys", "type"])
async def test_a_cache_in_an_image_that_cannot_be_read_costs_a_warning(
        spoil: str, base: str, registry: RegistryServer, memory: Path) -> None:  # fmt: skip
    context, name = write_context(memory / "app", f"FROM {base}\nRUN true\n"), f"{registry.address}/app:1"
    made = await build_on(memory / "one", request(context, name, cache_inline=True))
    config, manifest = await _config(registry, made), json.loads(made.manifest)
    if spoil == "layers":
        config["rootfs"]["diff_ids"].pop()
    elif spoil == "place":
        config[inline.FIELD]["steps"][0]["layer"] = 2
    elif spoil == "keys":
        config[inline.FIELD]["steps"][0]["keys"] = ["sha256:0"]
    else:
        config[inline.FIELD] = [["steps"]]
    await _push(memory, registry, manifest, config, name)
    events: list[Event] = []
    source = CacheLocation(Reference.parse(name), image=True)
    assert (await build_on(memory / "two", request(context, cache_from=(source,)), events)).ran == 1
    assert len(warnings(events)) == 1 and warnings(events)[0].startswith(f"cannot read cache {registry.address}/app: ")


async def test_a_layer_of_the_image_that_is_lost_or_wrong_is_built_anew(base: str, registry: RegistryServer, memory: Path) -> None:
    dockerfile = f"FROM {base}\nRUN echo a > /a\n"
    context, name = write_context(memory / "app", dockerfile), f"{registry.address}/app:1"
    await build_on(memory / "one", request(context, name, cache_inline=True))
    write_context(context, dockerfile + "RUN cat /a\n")
    source = CacheLocation(Reference.parse(name), image=True)
    layer = json.loads((await build_on(memory / "one", request(context, push=False))).manifest)["layers"][1]["digest"]
    for machine, fault in (("lost", Fault(path=f".*/blobs/{layer}", kind="status", status=404, times=None)),
                           ("wrong", Fault(path=f".*/blobs/{layer}", kind="corrupt", times=None))):  # fmt: skip
        registry.add_fault(fault)
        events: list[Event] = []
        assert (await build_on(memory / machine, request(context, cache_from=(source,)), events)).ran == 2
        assert len(warnings(events)) == 1 and "is built anew" in warnings(events)[0], machine


async def test_the_command_line_writes_and_reads_both(base: str, registry: RegistryServer, memory: Path) -> None:
    context, name = write_context(memory / "app", STAGES.format(base=base), src="source\n"), f"{registry.address}/app:1"

    async def aniko(state: str, *flags: str) -> str:
        command = [sys.executable, "-m", "engine.cli", "build", "--state-dir", str(memory / state), "--progress", "plain", "--explain"]
        done = await anyio.run_process([*command, *flags, str(context)], stderr=subprocess.STDOUT, cwd=memory, check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout.decode()

    await aniko("one", "-t", name, "--push", "--cache-to", "type=local,dest=cache,mode=max", "--cache-to", "type=inline")
    from_directory = await aniko("two", "--cache-from", "type=local,src=cache")
    assert from_directory.count("hit in the layout cache") == FINAL and "miss of" not in from_directory
    from_image = await aniko("three", "--cache-from", name)
    assert from_image.count("hit in the inline cache") == FINAL and "miss of" not in from_image


async def _config(registry: RegistryServer, made: BuildResult) -> dict[str, object]:
    from engine.image.descriptor import Descriptor
    from tests.contract.registry_fixtures.clients import connected, pull

    async with connected() as client:
        raw = await pull(client, Reference.parse(made.names[0]), Descriptor.from_json(json.loads(made.manifest)["config"]))
    config: dict[str, object] = json.loads(raw)
    return config


async def _push(memory: Path, registry: RegistryServer, manifest: dict[str, object], config: dict[str, object], name: str) -> None:
    """Puts an image with another config under a name."""
    from engine.image.descriptor import OCI_CONFIG, Descriptor
    from tests.contract.registry_fixtures.clients import connected

    raw = json.dumps(config).encode()
    (memory / "config.json").write_bytes(raw)
    descriptor = Descriptor(OCI_CONFIG, Digest.of(raw), len(raw))
    async with connected() as client:
        await client.push_blob(Reference.parse(name), descriptor, memory / "config.json")
        await client.push_manifest(Reference.parse(name), json.dumps(manifest | {"config": descriptor.to_json()}).encode(),
                                   str(manifest["mediaType"]))  # fmt: skip
