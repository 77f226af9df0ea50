"""`aniko cache` on real state directories: nothing that is needed goes, everything else can, and what is broken heals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from engine import Engine, Settings
from engine.content.gc import Policy
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.layer.index import Index
from engine.progress.events import Event, StepOutput
from engine.registry.server.server import RegistryServer
from engine.request import CacheLocation, OutputRequest
from engine.settings import Snapshots
from engine.upkeep import Upkeep
from engine.wiring import Wiring

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

STEPS = "FROM {base}\nRUN --mount=type=cache,target=/c,id=mine echo 1 > /c/1\nCOPY f /f\nRUN echo a > /a\n"


async def built(memory: Path, dockerfile: str, state: str = "state", **files: str) -> tuple[int, int]:
    """Builds in a state directory; returns how many steps ran, and how many were cached."""
    context = write_context(memory / "app", dockerfile, **files)
    async with Engine(Settings(memory / state)) as engine:
        result = await engine.build(request(context, push=False))
    return result.ran, result.cached


async def aniko(memory: Path, *words: str, code: int = 0) -> Any:
    """Runs `aniko cache` in a process of its own; returns the JSON that it writes."""
    line = [sys.executable, "-m", "engine.cli", "cache", words[0], "--json", "--state-dir", str(memory / "state"), *words[1:]]
    done = await anyio.run_process(line, check=False)
    assert done.returncode == code, done.stderr.decode()
    return json.loads(done.stdout) if done.stdout else done.stderr.decode()


def files_of(memory: Path) -> list[str]:
    """What takes space in a state directory."""
    kinds = ("blobs/sha256", "indexes/sha256", "layers/*/diff", "layers/*/chain", "layers/*/fix", "mounts/*", "layers/trash")
    paths = [p for kind in kinds for p in (memory / "state").glob(f"{kind}/*")]
    return sorted(str(p.relative_to(memory / "state")) for p in paths if p.name.isalnum() or "trash" in str(p))


async def test_a_prune_without_a_policy_takes_nothing_that_a_build_would_miss(base: str, memory: Path) -> None:
    assert await built(memory, STEPS.format(base=base), f="1") == (3, 0)
    before = files_of(memory)
    await aniko(memory, "prune")
    assert [p for p in before if p not in files_of(memory) and not p.startswith("blobs")] == []
    assert await built(memory, STEPS.format(base=base), f="1") == (0, 3)
    assert await built(memory, STEPS.format(base=base) + "RUN cat /a /f\n", f="1") == (1, 3)


async def test_everything_can_go_and_the_next_build_is_right(base: str, memory: Path) -> None:
    await built(memory, STEPS.format(base=base), f="1")
    usage = await aniko(memory, "du")
    assert {kind for kind, row in usage["kinds"].items() if row["count"]} == {"record", "base", "mount", "layer", "blob", "index"}
    assert usage["total"]["reclaimable"] == usage["total"]["size"] > 1_000_000
    dry = await aniko(memory, "prune", "--all", "--dry-run")
    assert files_of(memory)
    gone = await aniko(memory, "prune", "--all")
    assert (gone["removed"], gone["freed"], gone["kept"]) == (dry["removed"], dry["freed"], 0)
    assert [p for p in files_of(memory) if not p.endswith("about")] == []
    assert (await aniko(memory, "du"))["total"]["size"] == 0
    assert await built(memory, STEPS.format(base=base), f="1") == (3, 0)


@pytest.mark.parametrize("snapshots", ["overlay", "walk"])
async def test_what_killed_builds_have_left_is_counted_and_goes(snapshots: Snapshots, base: str, memory: Path) -> None:
    """Also when no build comes that would remove it; and not what a running build has."""
    line = "RUN --mount=type=cache,target=/c,id=c head -c 3000000 /dev/urandom > /big; touch /c/begun; until test -e /c/go; do usleep 9000; done\n"
    context = write_context(memory / "app", f"FROM {base}\n{line}")
    command = [sys.executable, "-m", "engine.cli", "build", "--state-dir", str(memory / "state"), "--snapshots", snapshots, str(context)]
    for round_ in range(2):
        async with await anyio.open_process(command, stdin=subprocess.DEVNULL, start_new_session=True) as process:
            with anyio.fail_after(120):
                while True:
                    if begun := list((memory / "state/mounts").glob("*/*/begun")):
                        break
                    await anyio.sleep(0.01)
            used = (await aniko(memory, "du"))["kinds"]["scratch"]
            assert used["count"] == 0, "it is a living build's"
            await aniko(memory, "prune")
            begun[0].unlink()
            if round_ == 0:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                begun[0].with_name("go").touch()
            assert (await process.wait() == 0) == bool(round_)
        if round_ == 0:
            scratch = (await aniko(memory, "du"))["kinds"]["scratch"]
            assert scratch["count"] >= 1 and scratch["reclaimable"] == scratch["size"] > 3_000_000
            gone = await aniko(memory, "prune")
            assert gone["freed"] >= scratch["size"]
            assert [p for name in ("roots", "ingest", "tmp") for p in (memory / "state" / name).glob("*")] == []


async def test_policies_choose_by_kind_and_age_and_size(base: str, memory: Path) -> None:
    await built(memory, STEPS.format(base=base), f="1")
    mounts = await aniko(memory, "prune", "--all", "--kind", "mount")
    assert [item["kind"] for item in mounts["removed"] if item["kind"] in ("record", "base", "mount")] == ["mount"]
    assert await built(memory, STEPS.format(base=base), f="1") == (0, 3)
    assert not [r for r in (await aniko(memory, "prune", "--older-than", "1h"))["removed"] if r["kind"] == "record"]
    small = await aniko(memory, "prune", "--keep-storage", "1kB")
    assert small["kept"] <= 1000 and small["freed"] > 1_000_000
    assert await built(memory, STEPS.format(base=base), f="1") == (3, 0)
    old = time.time() + 7200

    async with Wiring(Settings(memory / "state"), clock=lambda: old) as wiring:
        verdict = await Upkeep(wiring).prune(Policy(older_than=3600.0), old)
    assert verdict.kept == 0


async def test_what_was_used_lately_stays_however_old_it_is(base: str, memory: Path) -> None:
    """Records, bases and mounts alike: it is the last use that counts."""
    day, begun = 86400.0, time.time()
    plain = f"FROM {base}\nRUN echo plain > /plain\n"
    mounting = f"FROM {base}\nRUN --mount=type=cache,target=/c,id=mine echo 1 > /c/1\n"

    async def build_on(at: float, dockerfile: str) -> int:
        async with Engine(Settings(memory / "state"), clock=lambda: begun + at * day) as engine:
            return (await engine.build(request(write_context(memory / "app", dockerfile), push=False))).ran

    async def prune_on(at: float, **policy: Any) -> list[str]:
        async with Wiring(Settings(memory / "state"), clock=lambda: begun + at * day) as wiring:
            verdict = await Upkeep(wiring).prune(Policy(**policy), begun + at * day)
        return sorted(item.name[0] for item in verdict.remove if item.root)

    assert [await build_on(0, plain), await build_on(1, mounting), await build_on(8, plain)] == [1, 1, 0]
    assert await prune_on(8.1, older_than=10 * day) == []
    assert await prune_on(8.1, older_than=5 * day) == ["mount", "record"], "the base was used again, with the other"
    assert [await build_on(9, plain), await build_on(9, mounting)] == [0, 1]
    assert await prune_on(9.1, keep_storage=0, kinds=frozenset({"mount"})) == ["mount"]
    assert await prune_on(9.1, older_than=0.5 * day) == []
    assert await prune_on(10, older_than=0.5 * day) == ["base", "record", "record"]


async def test_a_layer_that_is_gone_is_made_again_where_it_is_needed(base: str, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN echo 1 > /one\nRUN echo 2 > /two\nRUN echo 3 > /three\n")

    async def build(*outputs: OutputRequest) -> tuple[int, int]:
        async with Engine(Settings(memory / "state")) as engine:
            result = await engine.build(replace(request(context, push=False), outputs=outputs))
        return result.ran, result.cached

    assert await build() == (3, 0)
    record = next(r for r in await aniko(memory, "ls") if "/two" in r["name"])
    blob = (await aniko(memory, "inspect", record["id"]))["layer"]["blob"]["digest"]
    (memory / "state/blobs/sha256" / blob.removeprefix("sha256:")).unlink()
    assert await build(OutputRequest("local", memory / "out")) == (1, 2)
    assert [(memory / "out" / name).read_text() for name in ("one", "two", "three")] == ["1\n", "2\n", "3\n"]
    assert await build() == (0, 3)
    assert (await aniko(memory, "verify"))["findings"] == []


async def test_a_prune_beside_a_running_build_leaves_it_alone(base: str, memory: Path) -> None:
    before = f"FROM {base}\nRUN head -c 100000 /dev/urandom > /early\n"
    await built(memory, before)
    line = "RUN --mount=type=cache,target=/meet,id=meet echo begun; until test -e /meet/go; do usleep 10000; done; cp /early /late\n"
    context = write_context(memory / "app", f"{before}{line}RUN cmp /early /late\n")
    begun = anyio.Event()

    def sink(event: Event) -> None:
        if isinstance(event, StepOutput):
            begun.set()

    async with Engine(Settings(memory / "state")) as engine, anyio.create_task_group() as tasks:

        async def build() -> None:
            assert (await engine.build(request(context, push=False), sink=sink)).cached == 1

        tasks.start_soon(build)
        with anyio.fail_after(120):
            await begun.wait()
        removed = (await aniko(memory, "prune", "--all"))["removed"]
        next((memory / "state/mounts").glob("*/0")).joinpath("go").touch()
    assert "mount" not in {item["kind"] for item in removed}
    assert await built(memory, before) == (0, 1)


async def test_what_is_broken_is_found_and_heals(base: str, memory: Path) -> None:
    await built(memory, STEPS.format(base=base), f="1")
    assert (await aniko(memory, "verify"))["findings"] == []
    record = next(r for r in await aniko(memory, "ls") if r["name"].startswith("COPY"))
    blob = Digest.parse((await aniko(memory, "inspect", record["id"]))["layer"]["blob"]["digest"])
    path = memory / "state/blobs/sha256" / blob.hex
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    [finding] = (await aniko(memory, "verify", code=8))["findings"]
    assert (finding["kind"], finding["id"]) == ("blob", str(blob))
    ran, cached = await built(memory, STEPS.format(base=base), f="1")
    assert (ran + cached, cached >= 1) == (3, True)
    assert (await aniko(memory, "verify"))["findings"] == []


async def test_a_record_of_another_layer_and_a_wrong_index_are_found_and_heal(base: str, memory: Path) -> None:
    """Blobs that are whole, but not what is said of them; the index of a base's layer, too."""
    await built(memory, STEPS.format(base=base), f="1")
    async with Wiring(Settings(memory / "state")) as wiring:
        records = [r for usage in wiring.records.usage() if (r := await wiring.records.get(usage.key)) and r.layer]
        one, other = (next(r for r in records if r.step.startswith(word)) for word in ("COPY", "RUN echo"))
        assert one.layer and other.layer
        await wiring.records.put(replace(one, layer=replace(one.layer, diff_id=other.layer.diff_id)), replace=True)
        bottom = next(name for name in wiring.records.catalog.bases()[0].needs if name[0] == "index")[1]
        wiring.indexes.put(Digest.parse(bottom), Index([]))
    findings = (await aniko(memory, "verify", code=8))["findings"]
    assert {(finding["kind"], finding["id"]) for finding in findings} == {("record", str(one.key)), ("index", bottom)}
    assert (await aniko(memory, "verify"))["findings"] == []
    ran, cached = await built(memory, STEPS.format(base=base) + "RUN cat /a /f\n", f="1")
    assert (ran + cached, ran <= 2) == (4, True)
    assert (await aniko(memory, "verify"))["findings"] == []


async def test_a_blob_that_was_cut_off_is_made_again(base: str, memory: Path) -> None:
    """As after a power failure: the file is there and too short."""
    await built(memory, STEPS.format(base=base), f="1")
    for path in (memory / "state/blobs/sha256").iterdir():
        path.chmod(0o644)
        os.truncate(path, 0)
    assert await built(memory, STEPS.format(base=base) + "RUN cat /a /f\n", f="1") == (4, 0)


async def test_a_record_tells_what_it_is_made_of(base: str, memory: Path) -> None:
    secret = write_context(memory / "app", f"FROM {base}\nRUN --mount=type=secret,id=s cat /run/secrets/s; echo $http_proxy\n")
    from engine.request import SecretSource

    async with Engine(Settings(memory / "state")) as engine:
        await engine.build(request(secret, push=False, secrets={"s": SecretSource("s", value=b"hush-hush")},
                                   build_args={"http_proxy": "http://user:word@proxy"}))  # fmt: skip
    records = [await aniko(memory, "inspect", r["id"]) for r in await aniko(memory, "ls", "--kind", "record")]
    assert len(records) == 1
    assert all("cat /run/secrets/s" in record["ingredients"]["command"] for record in records)
    for word in ("hush", "user:word"):
        assert word not in json.dumps(records)
    for path in (memory / "state").rglob("*"):
        if path.is_file() and "layers" not in path.parts:
            assert b"hush-hush" not in path.read_bytes() and b"user:word" not in path.read_bytes(), path


async def test_old_entries_of_a_registry_cache_are_collected(base: str, registry: RegistryServer, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN echo a > /a\nRUN echo b > /b\n")
    cache = f"{registry.address}/cache"
    location = CacheLocation(Reference.parse(cache), "max")
    async with Engine(Settings(memory / "state")) as engine:
        await engine.build(request(context, f"{cache}:image", cache_from=(location,), cache_to=location))
    # The first step's definition is its content: what it stands on is an image
    assert await aniko(memory, "gc", cache, "--older-than", "1h") == {"entries": 3, "removed": [], "dry_run": False}
    assert len((await aniko(memory, "gc", cache, "--older-than", "0s", "--dry-run"))["removed"]) == 3
    assert len((await aniko(memory, "gc", cache, "--older-than", "0s"))["removed"]) == 3
    assert (await aniko(memory, "gc", cache, "--older-than", "0s"))["entries"] == 0
    async with Engine(Settings(memory / "other")) as engine:
        result = await engine.build(request(context, cache_from=(location,), push=False))
    assert result.ran == 2, "and the image is still there"
    done = await anyio.run_process(["skopeo", "inspect", "--tls-verify=false", f"docker://{cache}:image"])
    assert done.returncode == 0


async def test_a_registry_that_removes_nothing_says_so(base: str, registry: RegistryServer, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN echo a > /a\n")
    location = CacheLocation(Reference.parse(f"{registry.address}/cache"), "max")
    async with Engine(Settings(memory / "state")) as engine:
        await engine.build(request(context, push=False, cache_to=location))
    async with RegistryServer(memory / "registry", read_only=True) as other:
        said = await aniko(memory, "gc", f"{other.address}/cache", "--older-than", "0s", code=6)
    assert "storage.delete.enabled" in said and "ERROR: " in said
    assert len((await aniko(memory, "gc", f"{registry.address}/cache", "--older-than", "0s"))["removed"]) > 0


@pytest.mark.parametrize(("words", "text"), [
    (("prune", "--kind", "mount"), "--kind alone lets go of nothing"),
    (("inspect",), "arguments are required: KEY"), (("du", "x"), "too many arguments: x"), (("du", "--all"), "unknown flag: --all"),
    (("prune", "--older-than", "soon"), "invalid time"), (("prune", "--keep-storage", "much"), "invalid size"),
    (("prune", "--kind", "blob"), "unknown kind"), (("inspect", "nothing"), "no record has"), (("gc", "a/b"), "--older-than"),
])  # fmt: skip
async def test_mistakes_are_told(words: tuple[str, ...], text: str, memory: Path) -> None:
    (memory / "state").mkdir()
    assert text in await aniko(memory, *words, code=2)
