"""How cost grows: each curve's builds at growing sizes, with the time and the memory they take; JSON, a picture and a table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from statistics import median
from typing import Any

from perf import inputs, measure, registry
from perf.builders import Aniko
from perf.curves import CURVES, Curve, Scene
from perf.picture import Panel, panels
from perf.results import machine

MOST_MEMORY = 300
"""MB that all processes together may have, whatever the size (a bound, drawn as a line)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is measured: the curves of these names (none: all), with more points if `full`, no size above `most`, so many timed
    runs besides the one that looks at memory, and for each curve no longer than `limit` seconds."""

    names: tuple[str, ...] = ()
    full: bool = False
    most: float | None = None
    runs: int = 1
    limit: float = 300.0


@dataclass(frozen=True, slots=True)
class Run:
    """One build and what it took; or why there is nothing to tell. `number`: of the round."""

    line: str
    size: int
    number: int
    taken: measure.Taken | None
    error: str = ""


def main(wanted: Wanted, place: Path, results: Path, kind: str) -> None:
    """Measures the curves, and writes after each growth-NAME.json, growth-NAME.svg and growth.md."""
    results.mkdir(parents=True, exist_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    pool, version = inputs.Pool(), Aniko(place).version()
    for curve in CURVES:
        if (wanted.names and curve.name not in wanted.names) or not curve.points(wanted.full, wanted.most):
            continue
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        runs = list(_measure(curve, wanted, place / "growth", pool, kind))
        about = {"curve": curve.name, "when": when, "aniko": version, "place": str(place), "machine": machine(),
                 **{name: value for name, value in asdict(wanted).items() if name != "names"}}  # fmt: skip
        raw = {"about": about, "runs": [asdict(run) for run in runs]}
        (results / f"growth-{curve.name}.json").write_text(json.dumps(raw, indent=1) + "\n")
        (results / f"growth-{curve.name}.svg").write_text(draw(curve, runs))
        (results / "growth.md").write_text(table(results))


def _measure(curve: Curve, wanted: Wanted, place: Path, pool: inputs.Pool, kind: str) -> Iterator[Run]:
    """All sizes, smallest first. Nothing of one is there any more when the next begins."""
    until = time.monotonic() + wanted.limit
    for size in curve.points(wanted.full, wanted.most):
        reason = ""
        if time.monotonic() > until:
            reason = f"left out: the curve has had its {wanted.limit:.0f} s"
        elif (room := _room(place)) < curve.room(size):
            reason = f"left out: it needs {curve.room(size) / 1e9:.1f} GB, and there are {room / 1e9:.1f}"
        for run in [Run("", size, 0, None, reason)] if reason else _size(curve, size, wanted.runs, until, place, pool, kind):
            print(json.dumps({"curve": curve.name, **_brief(run)}), file=sys.stderr, flush=True)
            yield run


def _size(curve: Curve, size: int, runs: int, until: float, place: Path, pool: inputs.Pool, kind: str) -> Iterator[Run]:
    """The rounds of one size; the last is for memory only, since looking at it costs time."""
    _remove(place)
    tiny = inputs.make_tiny(place.parent)
    try:
        with registry.serving(place / "registry", kind) as (address, _):
            scene = Scene(place / "contexts", place / "state", address, registry.push_base(address, "base/tiny", tiny))
            curve.prepare(scene, pool, size)
            for number in range(runs + 1):
                for run in _round(curve, scene, size, number, number == runs, until):
                    yield run
                    if run.error:
                        return
    finally:
        _remove(place)


def _round(curve: Curve, scene: Scene, size: int, number: int, memory: bool, until: float) -> Iterator[Run]:
    environment = {**os.environ, "HOME": str(scene.directory)}
    for line in curve.lines:
        if line.fresh:
            _remove(scene.state)
        try:
            taken = measure.run(line.command(scene, size), environment, memory=memory, log=scene.directory / "log",
                                limit=max(0.0, until - time.monotonic()))  # fmt: skip
        except measure.Failed as error:
            yield Run(line.name, size, number, None, str(error))
            return
        yield Run(line.name, size, number, taken)
    _remove(scene.state)


def _remove(directory: Path) -> None:
    subprocess.run(["rm", "-rf", "--one-file-system", str(directory)], check=True)


def _room(place: Path) -> int:
    """Bytes that can be written at a place: of a file system in memory no more than there is memory."""
    free = shutil.disk_usage(place.parent).free
    if place.is_relative_to("/dev/shm"):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = min(free, next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")))
    return free


def _brief(run: Run) -> dict[str, Any]:
    out: dict[str, Any] = {"size": run.size, "line": run.line}
    if run.taken is None:
        return out | {"error": run.error}
    taken = run.taken
    return out | ({"memory_mb": round(taken.memory / 1e6)} if taken.memory else {"seconds": round(taken.seconds, 2)})


def _seconds(runs: Sequence[Run], line: str) -> dict[int, float]:
    """Size → median of the timed runs."""
    out: dict[int, list[float]] = {}
    for run in runs:
        if run.line == line and run.taken and not run.taken.memory:
            out.setdefault(run.size, []).append(run.taken.seconds)
    return {size: median(values) for size, values in out.items()}


def _memory(runs: Sequence[Run], line: str) -> dict[int, float]:
    """Size → MB at the peak."""
    return {run.size: run.taken.memory / 1e6 for run in runs if run.line == line and run.taken and run.taken.memory}


def exponent(values: dict[int, float]) -> float | None:
    """The power of the size with which values grow at the end: 1 is proportional, 0 is constant; None when there are not two."""
    points = sorted(values.items())[-2:]
    if len(points) < 2 or min(points[0][1], points[1][1]) <= 0:
        return None
    (size, value), (last_size, last) = points
    return log(last / value) / log(last_size / size)


def draw(curve: Curve, runs: Sequence[Run]) -> str:
    """The picture of one curve."""
    names = [line.name for line in curve.lines]
    return panels(curve.title, names, [
        Panel("seconds", curve.unit, {name: _seconds(runs, name) for name in names}, proportional=True, low=0.1),
        Panel("MB of memory, all processes", curve.unit, {name: _memory(runs, name) for name in names}, bound=MOST_MEMORY, low=20,
              high=500),
    ])  # fmt: skip


def table(results: Path) -> str:
    """The table of all curves whose JSON is there."""
    out = ["# How cost grows", "", "Medians of the timed runs, and the peak of the PSS of all processes in a run of its own. The "
           "power is that of the size with which values grow between the last two sizes: 1 is proportional, 0 is constant.", ""]
    for curve in CURVES:
        path = results / f"growth-{curve.name}.json"
        if path.exists():
            raw = json.loads(path.read_text())
            runs = [Run(**(run | {"taken": run["taken"] and measure.Taken(**run["taken"])})) for run in raw["runs"]]
            out += _section(curve, raw["about"], runs)
    return "\n".join(out)


def _section(curve: Curve, about: dict[str, Any], runs: Sequence[Run]) -> list[str]:
    names = [line.name for line in curve.lines]
    seconds, memory = [_seconds(runs, name) for name in names], [_memory(runs, name) for name in names]
    sizes = sorted({size for values in (*seconds, *memory) for size in values})

    def row(first: str, cells: Sequence[str]) -> str:
        return f"| {first} | {' | '.join(cells)} |"

    def cells(size: int) -> list[str]:
        return [_cell(values.get(size), 2) for values in seconds] + [_cell(values.get(size), 0) for values in memory]

    loads = [run.taken.load for run in runs if run.taken]
    return [f"## {curve.title}", "", f"{about['when']}, aniko {about['aniko']}, {about['machine']['cores']} cores, load "
            f"{min(loads, default=0):.1f} to {max(loads, default=0):.1f}, timed runs: {about['runs']}", "",
            row(curve.unit, [f"{name}: s" for name in names] + [f"{name}: MB" for name in names]),
            "|---|" + "---|" * 2 * len(names),
            *(row(f"{size:,}".replace(",", " "), cells(size)) for size in sizes),
            row("power at the end", [_cell(exponent(values), 2) for values in (*seconds, *memory)]), "",
            *(f"- {run.size} {curve.unit}{', ' * bool(run.line)}{run.line}: {run.error[:300]}" for run in runs if run.error),
            *([""] if any(run.error for run in runs) else [])]  # fmt: skip


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
