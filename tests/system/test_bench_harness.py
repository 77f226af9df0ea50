"""The benchmarks run as a user runs them, with the smallest of everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]


def bench(place: Path, *words: str) -> Path:
    results = place / "results"
    command = [sys.executable, "-m", "perf", *words, "--registry", "embedded", "--dir", str(place), "--results", str(results)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return results


def test_growth_measures_builds_one_after_the_other_and_together_in_one_process(tmp_path: Path) -> None:
    results = bench(tmp_path, "growth", "steps", "parallel", "--most", "3")
    for name, sizes in (("steps", {1}), ("parallel", {1, 3})):
        raw = json.loads((results / f"growth-{name}.json").read_text())
        assert not [run["error"] for run in raw["runs"] if run["error"]]
        assert {run["size"] for run in raw["runs"]} == sizes
        assert all(run["taken"]["seconds"] > 0 for run in raw["runs"])
        # The last round looks at memory: no build does with less than an interpreter, or with more than the bound.
        peaks = [run["taken"]["memory"] for run in raw["runs"] if run["number"] == raw["about"]["runs"]]
        assert len(peaks) == 2 * len(sizes) and all(10_000_000 < peak < 300_000_000 for peak in peaks)
        ElementTree.fromstring((results / f"growth-{name}.svg").read_text())
    assert "power at the end" in (results / "growth.md").read_text()
    assert not (tmp_path / "aniko-bench/growth").exists()


def test_builds_are_measured_in_all_modes_with_what_they_moved_and_made(tmp_path: Path) -> None:
    results = bench(tmp_path, "--works", "hello,edit", "--builders", "plain,aniko", "--runs", "1", "--scale", "0.01")
    every = json.loads((results / "builds.json").read_text())["runs"]
    assert [(run["mode"], run["error"]) for run in every if run["builder"] == "plain"] == [("cold", "")] * 4
    runs = [run for run in every if run["builder"] == "aniko" and run["work"] == "edit"]
    assert [(run["mode"], run["number"], run["error"]) for run in runs] == [
        (mode, number, "") for number in (0, 1) for mode in ("cold", "edited")]  # fmt: skip
    assert runs[1]["taken"]["moved"] < runs[0]["taken"]["moved"]
    runs = [run for run in every if run["builder"] == "aniko" and run["work"] == "hello"]
    assert [(run["mode"], run["number"], run["error"]) for run in runs] == [
        (mode, number, "") for number in (0, 1) for mode in ("cold", "repeated", "cached")]  # fmt: skip
    cold, repeated, _ = (run["taken"] for run in runs[:3])
    assert cold["moved"] > 10 * repeated["moved"]
    assert all(run["blobs"] > 0 for run in runs)
    assert "| hello | aniko |" in (results / "builds.md").read_text()
    assert not (tmp_path / "aniko-bench").exists()


def test_who_is_told_to_end_leaves_nothing_running(tmp_path: Path) -> None:
    """The registry, the build and its RUN end with the harness, which is ended while it builds."""
    command = [sys.executable, "-m", "perf", "growth", "steps", "--registry", "embedded", "--dir", str(tmp_path),
               "--results", str(tmp_path / "results")]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert '"everything cold"' in process.stderr.readline()  # so the next build is being made
        process.terminate()
        process.stderr.read()  # to its end: nobody holds it any more
        assert process.wait() == 128 + 15
    place = str(tmp_path).encode()
    assert not [line for line in map(_read, Path("/proc").glob("[0-9]*/cmdline")) if place in line]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has just ended
