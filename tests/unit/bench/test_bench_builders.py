"""Which peers are found, how they are called, and how what is measured is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from perf import builders, results, series
from perf.builders import Build, Builder, Docker
from perf.measure import Taken
from perf.picture import Bar, picture
from perf.series import Run
from perf.works import WORKS

ROOT = Path(__file__).resolve().parents[3]


def program(directory: Path, name: str, script: str) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def said(version: str, buildx: bool = False) -> str:
    return f'case "$1" in --version) echo "Docker version {version}, build 1";; buildx) exit {0 if buildx else 1};; esac'


def test_peers_that_are_not_here_are_named_with_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(builders.os, "geteuid", lambda: 1000)
    here, missing = builders.found(tmp_path / "state", tmp_path)
    assert [b.name for b in here] == ["plain", "aniko"]
    assert set(missing) == {"aniko-walk", "buildah", "docker", "buildkit", "kaniko"}
    assert all(missing.values())


def test_peers_that_are_here_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_ = tmp_path / "bin"
    for name in ("buildah", "dockerd", "buildctl", "buildkitd", "kaniko-executor"):
        program(bin_, name, "")
    program(bin_, "docker", said("27.0.1", buildx=True))
    monkeypatch.setenv("PATH", str(bin_))
    monkeypatch.setattr(builders.os, "geteuid", lambda: 0)
    here, missing = builders.found(tmp_path / "state", tmp_path)
    assert [b.name for b in here] == ["plain", "aniko", "aniko-walk", "buildah", "docker", "buildkit", "kaniko"]
    assert not missing


def test_docker_is_one_that_can_build_with_buildkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "new", "docker", said("28.2.2"))
    old = program(tmp_path / "old", "docker", said("20.10.24+dfsg1"))
    monkeypatch.setenv("PATH", f"{tmp_path}/new:{tmp_path}/old")
    assert builders._docker_client() == old
    monkeypatch.setenv("PATH", f"{tmp_path}/new")
    assert builders._docker_client() == ""
    plugin = program(tmp_path / "plugin", "docker", said("28.2.2", buildx=True))
    monkeypatch.setenv("PATH", f"{tmp_path}/new:{tmp_path}/plugin")
    assert builders._docker_client() == plugin


def test_docker_builds_and_pushes_with_its_own_daemon_and_shares_its_cache(tmp_path: Path) -> None:
    docker = Docker(tmp_path, "/bin/docker")
    plain = docker.command(Build(Path("/context"), "reg/a:1"))[-1]
    assert plain.splitlines() == [
        f"/bin/docker -H unix://{tmp_path}/docker/docker.sock build --network host --progress plain  -t reg/a:1 /context",
        f"/bin/docker -H unix://{tmp_path}/docker/docker.sock push --quiet reg/a:1"]  # fmt: skip
    cached = docker.command(Build(Path("/context"), "reg/a:1", "reg/cache"))[-1]
    assert "--build-arg BUILDKIT_INLINE_CACHE=1 --cache-from reg/cache " in cached
    assert cached.endswith("push --quiet reg/cache")
    assert docker.environment()["DOCKER_BUILDKIT"] == "1"
    assert docker.daemons() == ()


MEASURED = '''
import json, subprocess, sys
from pathlib import Path
from perf import measure

busy = """import sys, time
held = bytearray(60 << 20)
print(flush=True)
for line in sys.stdin:
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass
    print(flush=True)"""
daemon = subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
daemon.stdout.readline()
measure.own(daemon.pid)
log = Path(sys.argv[1])
command = [sys.executable, "-c", "import os, sys\\nos.write(%d, b'x\\\\n'); os.read(%d, 1)"
           % (daemon.stdin.fileno(), daemon.stdout.fileno())]
from functools import partial
measure.subprocess.Popen = partial(subprocess.Popen, pass_fds=(daemon.stdin.fileno(), daemon.stdout.fileno()))
taken = measure.run(command, {}, memory=True, log=log, daemons=[daemon.pid])
alone = measure.run([sys.executable, "-c", "import time; time.sleep(0.3)"], {}, memory=True, log=log)
try:
    measure.run(["sh", "-c", "sleep 600 & sleep 600"], {"PATH": "/bin:/usr/bin"}, log=log, limit=0.2)
    stopped = ""
except measure.Failed as error:
    stopped = str(error)
print(json.dumps([taken.cpu, taken.memory, alone.memory, stopped, daemon.poll(), sorted(measure._family(measure.os.getpid(), measure._OWN))
                  == [measure.os.getpid()]]))
daemon.kill()
'''


def test_what_a_daemon_does_and_holds_counts_and_a_limit_ends_all_processes(tmp_path: Path) -> None:
    """In a process of its own: `measure` ends what is left of its children."""
    ended = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path / "log")], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    cpu, memory, alone, stopped, daemon, nothing_left = json.loads(ended.stdout)
    assert cpu > 0.45
    assert memory > 60 << 20
    assert 1 << 20 < alone < 40 << 20
    assert "which was the limit" in stopped
    assert daemon is None  # it goes on
    assert nothing_left


def test_the_table_and_the_picture_have_medians_of_timed_runs(tmp_path: Path) -> None:
    runs = [Run("hello", "aniko", "cold", n, Taken(seconds, 0.5, memory, 2_000_000, 0.1), 3_000_000)
            for n, (seconds, memory) in enumerate(((1.0, 0), (9.0, 0), (2.0, 0), (50.0, 61_000_000)))]  # fmt: skip
    runs.append(Run("hello", "docker", "cold", 0, None, error="no"))
    runs.append(Run("hello", "plain", "cold", 0, Taken(0.5, 0.4, 0, 0, 0.1)))
    results.write(tmp_path, "builds", {}, runs, WORKS)
    table = (tmp_path / "builds.md").read_text()
    assert "| hello | aniko | 2.00 (1.00) | 1.0 | 4.0 | 0.50 | 61 | 2 | 3.0 | 0.1 |" in table
    assert "| hello | plain | 0.50 (0.50) | – |  | 0.40 | 0 | 0 | 0.0 | 0.1 |" in table
    assert "- failed: hello, docker, cold: 'no'" in table
    assert len(json.loads((tmp_path / "builds.json").read_text())["runs"]) == 6
    texts = [text.text for text in ElementTree.fromstring((tmp_path / "builds.svg").read_text()).iter("{http://www.w3.org/2000/svg}text")]
    assert "2.00" in texts and "black: the bound" in texts


def test_a_picture_without_bounds_does_not_speak_of_them() -> None:
    assert "bound" not in picture("t", [Bar("a", {"x": 1.0})], ["x"])


@pytest.mark.parametrize(("words", "complaint"), [(["walk"], "none of builds"), (["growth", "speed"], "none of files"),
                                                  (["micro", "files"], "takes no")])  # fmt: skip
def test_words_that_are_not_known_are_errors(words: list[str], complaint: str) -> None:
    ended = subprocess.run([sys.executable, "-m", "perf", *words], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert complaint in ended.stderr


def test_a_work_is_not_built_where_it_has_none_of_the_modes(tmp_path: Path) -> None:
    class Never(Builder):
        name = "never"

        def command(self, build: Build) -> list[str]:
            raise AssertionError("it is built")

    runs30 = next(work for work in WORKS if work.name == "runs30")
    plan = series.Plan("127.0.0.1:1", 1, ["edited"])
    assert series.run([runs30], [Never(tmp_path)], {"runs30": tmp_path}, plan, tmp_path) == []
