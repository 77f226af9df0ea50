"""The corpus as fixtures: base images in a registry, and a builder for each way of isolating and of taking snapshots."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.contract.registries import running_registry

HERE = Path(__file__).resolve().parent


def load(name: str, *, fresh: bool = False) -> ModuleType:
    """A module of the corpus, which is written to be run from its own folder; `fresh` ones can be changed."""
    known = sys.modules.get(name)
    if not fresh and known is not None and Path(str(known.__file__)).parent == HERE:
        return known
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    if not fresh:
        sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Zygote:
    """Runs commands by forks of one process that has everything imported: see `zygote.py`."""

    def __init__(self, prefix: list[str]) -> None:
        env = {"PATH": os.environ["PATH"], "HOME": "/root", "LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen([*prefix, sys.executable, str(HERE / "zygote.py")], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, env=env, text=True)

    def __call__(self, arguments: list[str], output: Path) -> tuple[int, str]:
        """The exit code and output of `aniko` with these arguments."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"argv": arguments, "output": str(output)}) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return code, output.read_text(errors="replace")

    def close(self) -> None:
        self._process.communicate()


class Corpus:
    """The cases, their bases in a registry, and what BuildKit made of them."""

    def __init__(self, work: Path, registry: str) -> None:
        self.bases, self.image, self.run = load("bases"), load("image"), load("run")
        self.bases.REG = self.run.REG = f"{registry}/conf"
        self.run.WORK = work
        self.work = work
        folders = self.bases.build(work / "bases")
        self.bases.push(work / "bases")
        known = {name: self.image.load(folder, platform) for name, (folder, platform) in folders.items()}
        self.known = {"scratch": self.image.Image({}, [])} | known

    def differences(self, name: str, aniko: Zygote, flags: list[str], state: Path) -> list[str]:
        """Builds a case and compares it with what BuildKit made of it; the lines say where they differ."""
        case = self.run.Case(name, json.loads((HERE / "cases" / name / "case.json").read_text()))
        want = json.loads(case.oracle.read_text())
        got = self._build(case, aniko, flags, state, want.get("base", "scratch"))
        lines: list[str] = self.run.judge(case, want, got)
        return lines if not lines or got["ok"] else [*lines, got["log"][-2000:]]

    def _build(self, case: Any, aniko: Zygote, flags: list[str], state: Path, base: str) -> dict[str, Any]:
        job = self.run.prepare(case)
        arguments = [
            "build", *flags, "--progress=plain", "--no-cache", f"--state-dir={state}", f"--file={job.dockerfile}",
            *(f"--build-arg={k}={v}" for k, v in job.args.items()), *(f"--secret=id={k},src={v}" for k, v in job.secrets.items()),
            *([f"--target={job.target}"] if job.target else []), *([f"--platform={job.platform}"] if job.platform else []),
            f"--output=type=oci,dest={job.out},tar=false", str(job.ctx),
        ]  # fmt: skip
        try:
            code, log = aniko(arguments, job.dir / "log")
            if code:
                return {"ok": False, "error": self.run.tidy(self.run.first_error(log), job), "log": log}
            image = self.image.load(job.out, job.platform)
            spec = case.spec
            described = self.image.describe(image, self.known[base], spec.get("mtime_paths", ()), spec.get("hardlinks", True))
            return {"ok": True, "base": base, **described, "log": log}
        finally:
            self.run.wipe(job.dir)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder in memory where there is some."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="aniko-conformance-", dir=memory if memory.is_dir() else None))
    path.chmod(0o755)
    yield path
    subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=False)


@pytest.fixture(scope="session")
def registry(scratch: Path) -> Iterator[str]:
    """A registry of Debian's on the loopback, on a port of its own."""
    with running_registry(scratch) as running:
        yield running.address


@pytest.fixture(scope="session")
def corpus(scratch: Path, registry: str) -> Corpus:
    """The corpus, ready to be built."""
    (scratch / "work").mkdir(exist_ok=True)
    return Corpus(scratch / "work", registry)
