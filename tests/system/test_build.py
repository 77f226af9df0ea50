"""Whole builds in one process: what comes out, what is moved, and what is left behind."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from engine import Engine, Settings
from engine.errors import CopyError, DockerfileError, EngineError, NotFoundError, PlatformError, RegistryError, RunError
from engine.image.platform import Platform
from engine.progress.events import Event, StepFinished, StepOutput, StepStarted
from engine.registry.server.server import RegistryServer
from engine.request import OutputRequest

from .conftest import busybox_rootfs, request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

APP = """\
FROM {base} AS build
RUN mkdir /out && echo built > /out/app && chmod 4711 /out/app
FROM {base}
RUN echo svc:x:1234:1234::/:/bin/sh >> /etc/passwd && rm /etc/group
COPY --from=build --chown=svc /out/app /app
COPY f /f
WORKDIR /srv
USER svc
ENTRYPOINT ["/app"]
"""


def pull(name: str, folder: Path) -> Path:
    """An image unpacked by tools that are not ours: the bundle's root filesystem."""
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{folder}/layout:1"], check=True)
    subprocess.run(["umoci", "unpack", "--image", f"{folder}/layout:1", f"{folder}/bundle"], check=True, capture_output=True)
    return folder / "bundle" / "rootfs"


async def test_an_image_is_built_pushed_and_read_back(base: str, registry: RegistryServer, engine: Engine, memory: Path) -> None:
    context = write_context(memory / "app", APP.format(base=base), f="file\n")
    name = f"{registry.address}/app:1"
    result = await engine.build(request(context, name))
    root = await anyio.to_thread.run_sync(pull, name, memory)
    assert (root / "app").read_text() == "built\n"
    status = (root / "app").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 1234, 0o4711)
    assert not (root / "etc/group").exists()
    assert (root / "srv").is_dir()
    assert result.ran == 5
    inspected = await anyio.run_process(["skopeo", "inspect", "--tls-verify=false", f"docker://{name}"])
    assert json.loads(inspected.stdout)["Digest"] == str(result.digest)


async def test_a_rebuild_runs_nothing_and_uploads_nothing(base: str, registry: RegistryServer, engine: Engine,
                                                           memory: Path) -> None:  # fmt: skip
    context = write_context(memory / "app", APP.format(base=base), f="file\n")
    name = f"{registry.address}/app:1"
    first = await engine.build(request(context, name))
    registry.log.clear()
    async with Engine(Settings(memory / "state")) as again:
        second = await again.build(request(context, name))
    assert (second.digest, second.ran, second.cached) == (first.digest, 0, 4)
    assert {e.method for e in registry.requests} <= {"HEAD", "GET"}
    assert not [e for e in registry.requests if e.method == "GET" and "/blobs/" in e.path]


async def test_a_changed_file_reruns_only_what_depends_on_it(base: str, registry: RegistryServer, engine: Engine,
                                                              memory: Path) -> None:  # fmt: skip
    context = write_context(memory / "app", APP.format(base=base), f="file\n")
    await engine.build(request(context, f"{registry.address}/app:1"))
    (context / "f").write_text("other\n")
    result = await engine.build(request(context, f"{registry.address}/app:1"))
    assert (result.cached, result.ran) == (2, 2)


async def test_a_build_without_run_fetches_no_layer_it_knows(base: str, registry: RegistryServer, engine: Engine,
                                                              memory: Path) -> None:  # fmt: skip
    context = write_context(memory / "one", f"FROM {base}\nCOPY f /f\n", f="1")
    await engine.build(request(context, f"{registry.address}/one:1"))
    assert not (memory / "state/layers").exists(), "nothing had to be unpacked"
    registry.log.clear()
    (context / "f").write_text("2")
    await engine.build(request(context, f"{registry.address}/one:2"))
    assert not [e for e in registry.requests if e.method == "GET" and "/blobs/" in e.path]


async def test_equal_steps_of_parallel_builds_run_once(base: str, registry: RegistryServer, engine: Engine, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN echo x > /x; echo ran\n")
    outputs: list[bytes] = []

    def sink(event: Event) -> None:
        if isinstance(event, StepOutput):
            outputs.append(event.data)

    digests = []

    async def one(n: int) -> None:
        digests.append((await engine.build(request(context, f"{registry.address}/app:{n}"), sink=sink)).digest)

    async with anyio.create_task_group() as tasks:
        for n in range(6):
            tasks.start_soon(one, n)
    assert b"".join(outputs).count(b"ran") == 1
    assert len(set(digests)) == 1


async def test_independent_stages_run_side_by_side(base: str, engine: Engine, memory: Path) -> None:
    stages = "".join(f"FROM {base} AS s{n}\nRUN --mount=type=cache,target=/meet,id=meet touch /meet/{n} && "
                     f"until test -e /meet/{1 - n}; do usleep 10000; done; touch /{n}\n" for n in range(2))  # fmt: skip
    context = write_context(memory / "app", stages + "FROM scratch\nCOPY --from=s0 /0 /\nCOPY --from=s1 /1 /\n")
    with anyio.fail_after(60):
        await engine.build(request(context, push=False))


def processes(pattern: str) -> list[str]:
    done = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    return done.stdout.split()


async def test_processes_left_behind_by_a_run_are_gone(base: str, engine: Engine, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN (setsid sleep 98765 &) ; true\n")
    await engine.build(request(context, push=False))
    assert not processes("sleep 98765")


async def test_cancelling_leaves_nothing(base: str, engine: Engine, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN echo begun; sleep 87654\n")
    with anyio.CancelScope() as scope:

        def sink(event: Event) -> None:
            if isinstance(event, StepOutput):
                scope.cancel()

        await engine.build(request(context, push=False), sink=sink)
    assert scope.cancelled_caught
    assert not processes("sleep 87654")
    write_context(context, f"FROM {base}\nRUN true\n")
    assert (await engine.build(request(context, push=False))).ran == 1


async def test_a_failed_run_says_what_where_and_how(base: str, engine: Engine, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\n\nRUN echo why; exit 7\n")
    with pytest.raises(RunError, match=r'process "/bin/sh -c echo why; exit 7" did not complete successfully: exit code: 7') as caught:
        await engine.build(request(context, push=False))
    assert (caught.value.status, caught.value.output) == (7, ("why",))
    assert caught.value.location is not None
    assert caught.value.location.first == 3
    assert "RUN echo why" in str(caught.value.source)


@pytest.mark.parametrize(("dockerfile", "error", "message"), [
    ("FROM {base}\nRUM x\n", DockerfileError, "unknown instruction: RUM"),
    ("FROM {base}\nCOPY nosuch /\n", CopyError, '"/nosuch": not found'),
    ("FROM {base}\nCOPY --from=nostage /x /\n", EngineError, "nostage"),
    ("FROM {host}/nosuch:1\n", NotFoundError, "nosuch:1"),
    ("FROM 127.0.0.1:1/app\n", RegistryError, "127.0.0.1:1"),
    ("FROM --platform=linux/s390x {base}\nRUN x\n", PlatformError, "linux/s390x"),
    ("FROM {base}\nADD evil.tar /\n", EngineError, "evil|climb|outside|escape|breakout"),
    ("FROM {base}\nRUN --mount=type=secret,id=s,required true\n", EngineError, "secret s: not found"),
    ("FROM {base}\nUSER nosuch\nRUN true\n", EngineError, "unable to find user nosuch"),
])
async def test_bad_input_is_one_clear_error_and_loses_nothing(
    dockerfile: str, error: type[EngineError], message: str, base: str, registry: RegistryServer, engine: Engine, memory: Path,
) -> None:  # fmt: skip
    text = dockerfile.format(base=base, host=registry.address)
    context = write_context(memory / "app", text)
    evil = memory / "tree"
    evil.mkdir()
    (evil / "x").write_text("x")
    subprocess.run(["tar", "-C", evil, "-P", "--transform=s,^x,../../../../x,", "-cf", context / "evil.tar", "x"], check=True)
    with pytest.raises(error, match=message):
        await engine.build(request(context, f"{registry.address}/app:1"))
    assert not [e for e in registry.requests if e.method == "PUT" and "/manifests/" in e.path]
    good = write_context(memory / "good", f"FROM {base}\nRUN true\n")
    await engine.build(request(good, f"{registry.address}/good:1"))


async def test_several_platforms_make_an_index(base: str, registry: RegistryServer, engine: Engine, memory: Path) -> None:
    context = write_context(memory / "app", "FROM scratch\nARG TARGETARCH\nCOPY <<EOF /arch\n$TARGETARCH\nEOF\n")
    platforms = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))
    await engine.build(request(context, f"{registry.address}/app:1", platforms=platforms))
    raw = await anyio.run_process(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.address}/app:1"])
    manifests = json.loads(raw.stdout)["manifests"]
    assert [m["platform"]["architecture"] for m in manifests] == ["amd64", "arm64"]
    assert manifests[0]["digest"] != manifests[1]["digest"]


async def test_what_is_told_of_several_platforms_tells_which(engine: Engine, memory: Path) -> None:
    context = write_context(memory / "app", "FROM scratch\nADD rootfs.tar /\nARG TARGETARCH\nRUN echo on $TARGETARCH\n")
    (context / "rootfs.tar").write_bytes(busybox_rootfs())
    events: list[Event] = []
    platforms = (Platform.parse("linux/amd64"), Platform.parse("linux/riscv64"))
    await engine.build(request(context, platforms=platforms), sink=events.append)
    names = {event.step: event.name for event in events if isinstance(event, StepStarted)}
    assert {names[event.step].split()[0]: event.data for event in events if isinstance(event, StepOutput)} == {
        "linux/amd64": b"on amd64\n", "linux/riscv64": b"on riscv64\n"}
    assert {event.step for event in events if isinstance(event, StepFinished)} == names.keys()


async def test_two_outputs_are_the_same_image(base: str, registry: RegistryServer, engine: Engine, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN echo x > /x\n")
    outputs = (OutputRequest("registry"), OutputRequest("oci", memory / "layout", archive=False),
               OutputRequest("oci", memory / "image.tar"), OutputRequest("docker", memory / "docker.tar"))  # fmt: skip
    from msgspec.structs import replace

    made = await engine.build(replace(request(context, f"{registry.address}/app:1"), outputs=outputs))
    for source in (f"oci:{memory}/layout", f"oci-archive:{memory}/image.tar"):
        raw = await anyio.run_process(["skopeo", "inspect", "--raw", source])
        assert raw.stdout == made.manifest
    inspected = await anyio.run_process(["skopeo", "inspect", "--config", f"docker-archive:{memory}/docker.tar"])
    assert json.loads(inspected.stdout)["os"] == "linux"


async def test_secrets_are_nowhere_in_the_state_directory(base: str, engine: Engine, memory: Path) -> None:
    from engine.request import SecretSource

    context = write_context(memory / "app", f"FROM {base}\nRUN --mount=type=secret,id=s grep -q Hush /run/secrets/s && touch /ok\n")
    secrets = {"s": SecretSource("s", value=b"Hush-9f3a-xyzzy")}
    await engine.build(request(context, push=False, secrets=secrets))
    assert subprocess.run(["grep", "-rq", "Hush-9f3a", str(memory / "state")], check=False).returncode == 1


async def test_steps_are_told_in_order(base: str, engine: Engine, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nRUN true\nRUN false\n")
    events: list[Event] = []
    keep: Callable[[Event], None] = events.append
    with pytest.raises(RunError):
        await engine.build(request(context, push=False), sink=keep)
    finished = [(e.step, e.status) for e in events if isinstance(e, StepFinished) and not e.step.startswith("[")]
    assert finished == [("0.1", "done"), ("0.2", "failed")]
    assert [e.time for e in events] == sorted(e.time for e in events)


async def test_a_cold_build_pulls_and_pushes_without_aiohttp(base: str, registry: RegistryServer, memory: Path) -> None:
    """All ways of the client are gone: a base is pulled, a large layer is sent
    while it is packed, a small one after that."""
    context = write_context(memory / "app", f"FROM {base}\nCOPY big /\nRUN echo said > /said\n")
    (context / "big").write_bytes(random.Random(1).randbytes(20 << 20))
    code = "import sys; from engine.cli.main import main; status = main(sys.argv[1:]); print(status, 'aiohttp' in sys.modules)"
    done = await anyio.run_process([sys.executable, "-c", code, "build", "--progress=quiet", "--state-dir", str(memory / "state"),
                                    "-t", f"{registry.address}/app:1", "--push", str(context)])  # fmt: skip
    assert done.stdout.split()[-2:] == [b"0", b"False"]
    assert {r.method for r in registry.requests} >= {"HEAD", "GET", "POST", "PATCH", "PUT"}
