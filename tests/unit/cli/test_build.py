"""`aniko build` from its command line to the request, and from what the engine says to output and exit code. The engine is a
small one that builds nothing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engine.cli.main import main
from engine.errors import Location, RunError
from engine.image.descriptor import OCI_INDEX, OCI_MANIFEST
from engine.image.digest import Digest
from engine.image.platform import Platform
from engine.image.reference import Reference
from engine.progress.events import BuildFinished, BuildStarted, Event, StepFinished, StepOutput, StepStarted
from engine.request import BuildRequest, BuildResult, OutputRequest, SecretSource
from engine.settings import Settings
from engine.workers.spawn import Spawned

DIGEST, CONFIG = Digest.of(b"{}"), Digest.of(b"config")


@dataclass
class Engine:
    """What the last build was asked for, and what it is to do."""

    requests: list[BuildRequest] = field(default_factory=list)
    settings: list[Settings] = field(default_factory=list)
    stdin: list[bytes] = field(default_factory=list)
    closed: int = 0
    warnings: int = 0
    media_type: str = OCI_MANIFEST
    behave: Callable[[Callable[[Event], None]], Awaitable[None]] | None = None

    spawned: list[Spawned | None] = field(default_factory=list)

    def __call__(self, settings: Settings, spawned: Spawned | None = None) -> Engine:
        self.settings.append(settings)
        self.spawned.append(spawned)
        return self

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed += 1

    async def build(self, request: BuildRequest, *, sink: Callable[[Event], None], stdin: Any = None) -> BuildResult:
        self.requests.append(request)
        if stdin is not None:
            self.stdin.append(stdin.read())
        sink(BuildStarted(0.0, 1))
        sink(StepStarted(0.0, "a", "[1/1] FROM scratch"))
        if self.behave:
            await self.behave(sink)
        sink(StepFinished(0.0, "a", "done"))
        sink(BuildFinished(1.0, ok=True, digest=str(DIGEST)))
        names = tuple(str(tag) for tag in request.tags)
        return BuildResult(DIGEST, CONFIG, self.media_type, 2, b"{}", names, cached=2, ran=1)

    async def check(self, request: BuildRequest, *, sink: Callable[[Event], None], stdin: Any = None) -> int:
        return self.warnings

    @property
    def request(self) -> BuildRequest:
        return self.requests[-1]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Engine]:
    fake, module = Engine(), ModuleType("engine.api")
    module.Engine = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "engine.api", module)
    for name in ("ANIKO_DEBUG", "SOURCE_DATE_EPOCH", "DOCKER_AUTH_CONFIG", "NO_COLOR", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANIKO_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "state/cache").mkdir(parents=True)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.chdir(tmp_path)
    yield fake


def stdin_of(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_the_least(engine: Engine, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["build", "."]) == 0
    assert engine.request == BuildRequest(context=".")
    assert engine.settings[0].state_dir == tmp_path / "state"
    assert engine.closed == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"#1 [1/1] FROM scratch\n#1 DONE 0.0s\nbuilt {DIGEST} (1 step run, 2 cached)\n"
        "kept in the state directory only: use --push to push it to a registry, or -o to write it to a file\n"
    )


def test_every_flag(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_ENV", "env")
    (tmp_path / "s").write_text("x")
    line = (
        "build -f sub/Dockerfile -t a/b:1 --tag=localhost:5000/c --build-arg X=1 --build-arg FROM_ENV --build-arg NOT_THERE "
        "--target run --platform linux/amd64,linux/arm64 --label l=1 --annotation a=2 --secret id=s --network none "
        "--no-cache --pull --push -o type=oci,dest=o,tar=false --isolation chroot --snapshots walk "
        "--insecure-registry reg:5000 --insecure-registry other --compression zstd --compression-level 7 "
        "--build-context base=docker-image://debian --state-dir st --progress plain ctx"
    )
    assert main(line.split()) == 0
    assert engine.request == BuildRequest(
        context="ctx", dockerfile="sub/Dockerfile", tags=(Reference.parse("a/b:1"), Reference.parse("localhost:5000/c")),
        build_args={"X": "1", "FROM_ENV": "env"}, target="run",
        platforms=(Platform("linux", "amd64"), Platform("linux", "arm64")), labels={"l": "1"}, annotations={"a": "2"},
        secrets={"s": SecretSource("s", file=tmp_path / "s")}, contexts={"base": "docker-image://debian"}, network="none",
        no_cache=True, pull=True, outputs=(OutputRequest("oci", tmp_path / "o", archive=False), OutputRequest("registry")),
        compression="zstd", compression_level=7,
    )  # fmt: skip
    settings = engine.settings[0]
    assert (settings.state_dir, settings.isolation, settings.snapshots) == (tmp_path / "st", "chroot", "walk")
    assert settings.insecure_registries == {"reg:5000", "other"}
    assert settings.environment["FROM_ENV"] == "env"


@pytest.mark.parametrize(
    ("words", "value"),
    [(["--push=false"], False), (["--push=true"], True), (["--push=0", "--push"], True), (["--push", "--push=F"], False)],
)
def test_switches_take_values_as_docker_s_do(words: list[str], value: bool, engine: Engine) -> None:
    assert main(["build", "-t", "a", *words, "."]) == 0
    assert (OutputRequest("registry") in engine.request.outputs) is value


def test_flags_may_follow_the_context(engine: Engine) -> None:
    assert main(["build", "ctx", "-t", "a", "--push"]) == 0
    assert engine.request.context == "ctx" and engine.request.outputs


def test_a_dockerfile_on_standard_input(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_of(monkeypatch, "\ufeffFROM scratch\nLABEL a=é\n".encode())
    assert main(["build", "-f", "-", "ctx"]) == 0
    assert (engine.request.dockerfile, engine.request.dockerfile_text) == (None, "FROM scratch\nLABEL a=é\n")
    assert engine.stdin == []


def test_a_context_on_standard_input(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_of(monkeypatch, b"tar")
    assert main(["build", "-"]) == 0
    assert engine.stdin == [b"tar"]


def test_the_epoch_is_a_build_argument(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "100")
    assert main(["build", "."]) == 0
    assert engine.request.source_date_epoch == 100 and engine.request.build_args == {"SOURCE_DATE_EPOCH": "100"}
    assert main(["build", "--build-arg", "SOURCE_DATE_EPOCH=0", "."]) == 0
    assert engine.request.source_date_epoch == 0 and engine.request.build_args == {"SOURCE_DATE_EPOCH": "0"}
    assert main(["build", "--build-arg", "SOURCE_DATE_EPOCH=", "."]) == 0
    assert engine.request.source_date_epoch is None
    assert main(["build", "--build-arg", "SOURCE_DATE_EPOCH=now", "."]) == 2


def test_the_proxies_of_docker_s_configuration_are_build_arguments(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").write_text('{"proxies": {"default": {"httpProxy": "http://p"}}, "auths": {"h": {}}}')
    assert main(["build", "--build-arg", "http_proxy=mine", "."]) == 0
    assert engine.request.build_args == {"HTTP_PROXY": "http://p", "http_proxy": "mine"}
    assert engine.settings[0].auth["auths"] == {"h": {}}


def test_no_attestations_is_what_everybody_gets(engine: Engine) -> None:
    assert main(["build", "--provenance=false", "--sbom=false", "."]) == 0
    assert main(["build", "--provenance=true", "."]) == 2


def test_an_index_has_no_config(engine: Engine, tmp_path: Path) -> None:
    engine.media_type = OCI_INDEX
    assert main(["build", "--iidfile", "iid", "--metadata-file", "meta", "."]) == 0
    assert (tmp_path / "iid").read_text() == str(DIGEST)
    assert "containerimage.config.digest" not in json.loads((tmp_path / "meta").read_text())


def test_an_output_can_name_and_compress_the_image(engine: Engine) -> None:
    assert main(["build", "-o", "type=image,name=a/b,push=true,compression=uncompressed,annotation.x=y", "."]) == 0
    request = engine.request
    assert request.tags == (Reference.parse("a/b"),) and request.outputs == (OutputRequest("registry"),)
    assert request.compression == "none" and request.annotations == {"x": "y"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "the following arguments are required: CONTEXT"),
        ([""], "the context is empty"),
        ([".", "more"], "too many arguments: more"),
        (["--psuh", "."], "hint: did you mean --push?\nERROR: unknown flag: --psuh"),
        (["--load", "."], "hint: there is no daemon to load into: write -o type=docker,dest=image.tar, and load that\n"
                          "ERROR: unsupported flag: --load"),
        (["--push", "."], "hint: name the image: -t REGISTRY/NAME:TAG\nERROR: a tag is needed to push"),
        (["-t", "UPPER", "."], "repository name must be lowercase"),
        (["-t", f"a@{DIGEST}", "."], "cannot have a digest"),
        (["-f", "-", "-"], "standard input cannot be both"),
        (["-q", "--progress", "plain", "."], "--progress plain and --quiet cannot be used together"),
        (["--progress", "tty", "."], "--progress tty needs a terminal"),
        (["--progress", "fancy", "."], "invalid choice: 'fancy'"),
        (["--compression-level", "10", "."], "hint: 0 to 9\nERROR: invalid compression level 10 for gzip"),
        (["--compression", "none", "--compression-level", "1", "."], "invalid compression level 1 for none"),
        (["--compression", "gzip", "-o", "type=oci,dest=o,compression=zstd", "."], "contradicts"),
        (["-o", "type=oci,dest=o,compression=estargz", "."], "unsupported compression 'estargz'"),
        (["-o", "type=oci,dest=o,compression-level=x", "."], "invalid compression-level 'x'"),
        (["--build-context", "a=", "."], "build context a has no source"),
        (["--tag"], "expected one argument"),
        (["-q", "-o", "-", "."], "standard output cannot take both"),
    ],
)
def test_usage_errors(words: list[str], text: str, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", *words]) == 2
    assert text in capsys.readouterr().err
    assert engine.requests == []


def test_quiet_prints_the_digest_and_nothing_else(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in (["-q"], ["--progress", "quiet"]):
        assert main(["build", *flag, "."]) == 0
        assert capsys.readouterr() == (f"{DIGEST}\n", "")


def test_files_for_scripts(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "iid").write_text("old")
    assert main(["build", "-t", "h:5/a:1", "-t", "h:5/a:2", "--push", "--iidfile", "iid", "--metadata-file", "meta", "."]) == 0
    assert (tmp_path / "iid").read_text() == str(CONFIG)
    assert json.loads((tmp_path / "meta").read_text()) == {
        "containerimage.config.digest": str(CONFIG),
        "containerimage.descriptor": {"mediaType": OCI_MANIFEST, "digest": str(DIGEST), "size": 2},
        "containerimage.digest": str(DIGEST),
        "image.name": "h:5/a:1,h:5/a:2",
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iid", "meta", "state"]
    assert capsys.readouterr().err.endswith(f"built {DIGEST} (1 step run, 2 cached)\npushed h:5/a:1\npushed h:5/a:2\n")


def test_a_file_that_cannot_be_written(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--iidfile", "no/such/iid", "."]) == 11
    assert capsys.readouterr().err.endswith("ERROR: cannot write no/such/iid: No such file or directory\n")


async def fail(sink: Callable[[Event], None]) -> None:
    sink(StepOutput(0.5, "a", 2, b"oh no\n"))
    sink(StepFinished(0.5, "a", "failed", error="exit code: 7"))
    sink(BuildFinished(0.5, ok=False))
    raise RunError("exit code: 7", status=7, output=("oh no",)).at(Location(1, 1), "RUN x\n")


def test_a_failure_does_not_repeat_what_was_shown(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.behave = fail
    assert main(["build", "."]) == 5
    err = capsys.readouterr().err
    assert err.count("oh no") == 1
    assert err.endswith("--------------------\n   1 | >>> RUN x\n--------------------\nERROR: exit code: 7\n")
    assert engine.closed == 1


def test_a_quiet_failure_shows_the_output(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.behave = fail
    assert main(["build", "-q", "."]) == 5
    assert capsys.readouterr() == ("", "------\n > last lines of output:\noh no\n------\nDockerfile:1\n--------------------\n"
                                       "   1 | >>> RUN x\n--------------------\nERROR: exit code: 7\n")


def test_json_progress_is_json_to_its_last_line(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.behave = fail
    assert main(["build", "--progress", "json", "."]) == 5
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [e["event"] for e in events] == ["build_started", "step_started", "step_output", "step_finished",
                                            "build_finished", "error"]
    assert events[-1] == {"event": "error", "code": "run", "exit_code": 5, "message": "exit code: 7", "hint": "",
                          "file": "Dockerfile", "line": 1, "last_line": 1, "status": 7}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_the_build(number: int, code: int, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    async def wait(sink: Callable[[Event], None]) -> None:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    engine.behave = wait
    assert main(["build", "--push", "-t", "a", "."]) == code
    assert capsys.readouterr().err == "#1 [1/1] FROM scratch\nERROR: canceled\n"
    assert engine.closed == 1


def test_a_second_signal_ends_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)

    async def hang(sink: Callable[[Event], None]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(10_000):  # stubborn cleanup, until the signal has arrived
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
                if ended:
                    break

    engine.behave = hang
    assert main(["build", "."]) == 130
    assert ended == [130]


def test_a_bug_in_the_engine(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    async def crash(sink: Callable[[Event], None]) -> None:
        raise KeyError("x")

    engine.behave = crash
    assert main(["build", "."]) == 1
    err = capsys.readouterr().err
    assert "This is a bug in aniko" in err and err.endswith("ERROR: KeyError: 'x'\n")


def test_times_of_files_are_rewritten_when_an_output_says_so(engine: Engine) -> None:
    for value, wanted in (("type=oci,dest=x,rewrite-timestamp=true", True), ("type=oci,dest=x", False)):
        assert main(["build", "-o", value, "."]) == 0
        assert engine.request.rewrite_timestamp is wanted


@pytest.mark.parametrize(("found", "code", "said"), [(0, 0, "no warnings found"), (1, 1, "1 warning found"), (2, 1, "2 warnings")])
def test_a_check_builds_nothing_and_its_code_says_what_it_found(engine: Engine, capsys: pytest.CaptureFixture[str], found: int,
                                                                code: int, said: str) -> None:  # fmt: skip
    engine.warnings = found
    assert main(["build", "--check", "--progress=plain", "."]) == code
    assert said in capsys.readouterr().err
    assert engine.requests == []


@pytest.mark.parametrize(("state", "more", "early"), [
    ("new", [], True), ("empty", [], True), ("state", [], False), ("new", ["--cache-from", "type=registry,ref=reg/cache"], False),
])
def test_the_process_for_workers_is_started_early_where_nothing_can_be_known(engine: Engine, tmp_path: Path, state: str,
                                                                            more: list[str], early: bool) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    assert main(["build", "--state-dir", state, *more, "."]) == 0
    (spawned,) = engine.spawned
    assert (spawned is not None) == early
    assert spawned is None or spawned.process.returncode is not None, "nobody has used it, so it must have been ended"
