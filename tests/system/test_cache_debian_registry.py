"""The cache's promises once more, with Debian's docker-registry in place of the embedded one: other machines have nothing but it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Engine, Settings
from engine.image.reference import Reference
from engine.progress.events import Event, MountCarried, StepExplained, Warned
from engine.request import BuildRequest, BuildResult, CacheLocation
from tests.contract.registries import RunningRegistry, missing_tools, running_registry

from .conftest import busybox_rootfs, request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system,
              pytest.mark.skipif(bool(missing_tools()), reason=f"needs {missing_tools()}")]  # fmt: skip

_LINE = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/1.1" (?P<status>\d+) (?P<size>\d+)')
DIGEST = re.compile(r"sha256(?::|%3A)([0-9a-f]{64})", re.IGNORECASE)


class Debian:
    """The registry, and what it was asked for since `forget`."""

    def __init__(self, running: RunningRegistry, log: Path) -> None:
        self.address, self._running, self._log = running.address, running, log
        self._start = 0

    def forget(self) -> None:
        self._start = self._log.stat().st_size

    def asked(self) -> list[tuple[str, str, int, int]]:
        """Method, path, status and bytes sent of each request."""
        text = self._log.read_bytes()[self._start :].decode()
        return [(m["method"], m["path"], int(m["status"]), int(m["size"])) for m in _LINE.finditer(text)]

    def moved(self) -> set[str]:
        """The digests of blobs that were downloaded, or uploaded otherwise than by a mount."""
        found = set()
        for method, path, status, _ in self.asked():
            if "/blobs/" in path and ((method == "GET" and status < 300) or method == "PUT"):
                found |= {digest.lower() for digest in DIGEST.findall(path)}
        return found

    def manifest(self, repository: str, tag: str) -> dict[str, object]:
        store = self._running.root / f"docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"
        value: dict[str, object] = json.loads(self._running.blob_file(store.read_text()).read_bytes())
        return value

    def layers(self, repository: str, tag: str) -> set[str]:
        layers = self.manifest(repository, tag)["layers"]
        assert isinstance(layers, list)
        return {layer["digest"].partition(":")[2] for layer in layers}


@pytest.fixture
def debian(memory: Path) -> Iterator[Debian]:
    log = memory / "access.log"
    with running_registry(memory / "debian", access_log=log) as running:
        yield Debian(running, log)


@pytest.fixture
async def image(memory: Path, debian: Debian) -> str:
    """A busybox image in the registry."""
    context = write_context(memory / "image", 'FROM scratch\nADD rootfs.tar /\nCMD ["sh"]\n')
    (context / "rootfs.tar").write_bytes(busybox_rootfs())
    await build_on(memory / "image-state", request(context, f"{debian.address}/base:1"))
    return f"{debian.address}/base:1"


async def build_on(machine: Path, wanted: BuildRequest, events: list[Event] | None = None) -> BuildResult:
    """Builds on a machine, which is a state directory."""
    async with Engine(Settings(machine)) as engine:
        return await engine.build(wanted, sink=events.append if events is not None else None)


def cached(context: Path, debian: Debian, name: str = "app:1", **fields: object) -> BuildRequest:
    location = CacheLocation(Reference.parse(f"{debian.address}/cache"), "max")
    return request(context, f"{debian.address}/{name}", **{"cache_from": (location,), "cache_to": location, **fields})


def builds_at_once(commands: list[list[str]]) -> list[str]:
    """Runs `aniko build` with each of these arguments, all at a time; what each has to say of mistakes."""
    builds = [subprocess.Popen([sys.executable, "-m", "engine.cli", "build", *arguments], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True) for arguments in commands]  # fmt: skip
    return [build.communicate()[1] for build in builds]


def warnings(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


def thirty_steps(base: str) -> str:
    """In three stages."""
    makes = "".join(f"RUN head -c 100000 /dev/urandom > /made{n} && echo {n} >> /log\n" for n in range(10))
    uses = "".join(f"COPY --from=one /made{n} /one{n}\nCOPY --from=two /made{n} /two{n}\n" for n in range(4))
    return (f"FROM {base} AS one\n{makes}FROM {base} AS two\nCOPY src /src\n{makes.replace('/log', '/two')}"
            f"FROM {base}\n{uses}RUN cat /one0 /two0 > /both\n")  # fmt: skip


async def test_a_fresh_machine_runs_nothing_and_moves_no_layer_and_a_change_runs_what_depends_on_it(
        image: str, debian: Debian, memory: Path) -> None:  # fmt: skip
    context = write_context(memory / "app", thirty_steps(image), src="source\n")
    first = await build_on(memory / "one", cached(context, debian))
    assert first.ran == 30
    debian.forget()
    events: list[Event] = []
    second = await build_on(memory / "two", cached(context, debian, "elsewhere:1", explain=True), events)
    assert (second.digest, second.ran, second.cached) == (first.digest, 0, 9)
    assert debian.layers("elsewhere", "1")
    assert not debian.moved() & debian.layers("elsewhere", "1")
    assert {status for method, path, status, _ in debian.asked() if method == "POST" and "mount=" in path} == {201}
    assert {event.tier for event in events if isinstance(event, StepExplained)} == {"registry"}
    assert warnings(events) == []
    (context / "src").write_text("another\n")
    assert (await build_on(memory / "three", cached(context, debian))).ran == 1 + 10 + 7 + 1


async def test_a_branch_reads_the_trunk_and_writes_its_own(image: str, debian: Debian, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {image}\nCOPY f /f\nRUN echo a > /a\n", f="1")
    await build_on(memory / "one", cached(context, debian, cache_scopes=("trunk",)))
    (context / "f").write_text("2")
    assert (await build_on(memory / "two", cached(context, debian, cache_scopes=("branch", "trunk")))).ran == 2
    assert (await build_on(memory / "three", cached(context, debian, cache_scopes=("trunk",), cache_to=None))).ran == 2
    assert (await build_on(memory / "four", cached(context, debian, cache_scopes=("branch",), cache_to=None))).ran == 0


async def test_the_image_alone_is_cache_enough(image: str, debian: Debian, memory: Path) -> None:
    dockerfile = f"FROM {image} AS a\nRUN head -c 9999 /dev/urandom > /a\nFROM {image}\nCOPY --from=a /a /a\nRUN echo b > /b\n"
    context = write_context(memory / "app", dockerfile)
    first = await build_on(memory / "one", request(context, f"{debian.address}/app:1", cache_inline=True))
    debian.forget()
    source = CacheLocation(Reference.parse(f"{debian.address}/app:1"), image=True)
    again = await build_on(memory / "two", request(context, f"{debian.address}/other:1", cache_from=(source,), cache_inline=True))
    assert (again.digest, again.ran) == (first.digest, 0)
    assert not debian.moved() & debian.layers("other", "1")


async def test_cache_mounts_come_along_and_what_did_not_change_stays(image: str, debian: Debian, memory: Path) -> None:
    place = Reference.parse(f"{debian.address}/mounts:main")

    def step(command: str) -> BuildRequest:
        context = write_context(memory / "app", f"FROM {image}\nRUN --mount=type=cache,target=/cache {command}\n")
        return request(context, f"{debian.address}/app:1", cache_mounts_from=(place,), cache_mounts_to=place)

    await build_on(memory / "a", step("head -c 6000000 /dev/urandom > /cache/big && echo 1 > /cache/small"))
    events: list[Event] = []
    await build_on(memory / "b", step("test $(stat -c %s /cache/big) = 6000000 && echo 2 > /cache/small"), events)
    assert [(e.what, e.id, e.files) for e in events if isinstance(e, MountCarried)] == [("restored", "/cache", 2), ("saved", "/cache", 2)]
    assert warnings(events) == []
    debian.forget()
    await build_on(memory / "b", step("test $(cat /cache/small) = 2 && echo 3 > /cache/small"))
    assert sum(size for method, path, _, size in debian.asked() if method == "GET" and "/mounts/blobs/" in path) < 100_000
    await build_on(memory / "c", step("test $(cat /cache/small) = 3"))


async def test_a_registry_that_is_gone_costs_a_warning(image: str, debian: Debian, memory: Path) -> None:
    context = write_context(memory / "app", "FROM scratch\nCOPY f /f\n", f="1")
    nowhere = CacheLocation(Reference.parse("127.0.0.1:1/cache"), "max")
    events: list[Event] = []
    made = await build_on(memory / "one", cached(context, debian, cache_from=(nowhere,), cache_to=nowhere), events)
    assert made.ran == 1
    assert 1 <= len(warnings(events)) <= 2


async def test_old_entries_are_collected_and_what_is_left_still_serves(image: str, debian: Debian, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {image}\nRUN echo a > /a\n")
    await build_on(memory / "one", cached(context, debian))

    def gc(age: str) -> dict[str, object]:
        command = [sys.executable, "-m", "engine.cli", "cache", "gc", f"{debian.address}/cache", "--older-than", age, "--json",
                   "--state-dir", str(memory / "gc")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        value: dict[str, object] = json.loads(done.stdout)
        return value

    kept = gc("1h")
    assert kept["removed"] == []
    assert kept["entries"]
    assert (await build_on(memory / "two", cached(context, debian))).ran == 0
    removed = gc("0s")["removed"]
    assert isinstance(removed, list)
    assert len(removed) == kept["entries"]
    assert (await build_on(memory / "three", cached(context, debian))).ran == 1


async def test_many_machines_at_once_spoil_nothing_for_each_other(image: str, debian: Debian, memory: Path) -> None:
    context = write_context(memory / "app", thirty_steps(image), src="source\n")
    assert builds_at_once([["--progress=quiet", f"--state-dir={memory / f'm{n}'}", f"--cache-repo={debian.address}/cache",
                            "-t", f"{debian.address}/app:{n}", "--push", str(context)] for n in range(4)]) == [""] * 4
    events: list[Event] = []
    after = await build_on(memory / "after", cached(context, debian, "after:1"), events)
    assert after.ran == 0
    assert warnings(events) == []
