"""What was measured, as JSON with every run, as a table, and as a picture."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from perf.picture import Bar, picture
from perf.series import Run
from perf.works import MODES, Work


def write(directory: Path, name: str, about: dict[str, Any], runs: Sequence[Run], works: Sequence[Work]) -> None:
    """Writes NAME.json, NAME.md and NAME.svg."""
    directory.mkdir(parents=True, exist_ok=True)
    about = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine(), **about}
    raw = {"about": about, "runs": [run.fields() for run in runs]}
    (directory / f"{name}.json").write_text(json.dumps(raw, indent=1) + "\n")
    builders = list(dict.fromkeys(run.builder for run in runs))
    (directory / f"{name}.md").write_text("\n".join(_table(about, runs, works, builders)) + "\n")
    (directory / f"{name}.svg").write_text(picture("Seconds, median", list(_bars(runs, works, builders)), builders))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next((line.partition(": ")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())  # fmt: skip
    return {"cores": len(os.sched_getaffinity(0)), "cpu": model, "kernel": platform.release(), "python": platform.python_version()}


def _of(runs: Sequence[Run], work: str, builder: str, mode: str) -> list[Run]:
    return [r for r in runs if (r.work, r.builder, r.mode) == (work, builder, mode) and r.taken is not None]


def _timed(runs: Sequence[Run]) -> list[float]:
    return [r.taken.seconds for r in runs if r.taken and not r.taken.memory]


def _table(about: dict[str, Any], runs: Sequence[Run], works: Sequence[Work], builders: Sequence[str]) -> list[str]:
    out = ["# Builds", "", *(f"- {key}: {value}" for key, value in about.items()), "",
           "Medians of the runs, lowest in brackets. CPU is the processor time of all processes; memory the peak of their PSS, "
           "summed up; moved what went over the loopback; blobs the layers that the build made. `plain` is no builder, but the "
           "work itself (perf/plain.py): the column has how many times as long others take.", ""]
    for mode, title in MODES.items():
        shown = [w for w in works if any(_of(runs, w.name, b, mode) for b in builders)]
        if not shown:
            continue
        out += [f"## {title}", "",
                "| work | builder | seconds | bound | × plain | CPU s | memory MB | moved MB | blobs MB | load |",
                "|---|---|---|---|---|---|---|---|---|---|"]
        for work in shown:
            bound = work.modes.get(mode)
            plain = _timed(_of(runs, work.name, "plain", mode))
            out += [_row(work.name, builder, _of(runs, work.name, builder, mode), bound, plain) for builder in builders
                    if builder != "plain" or plain]  # fmt: skip
        out.append("")
    failures = [r for r in runs if r.error]
    return out + [f"- failed: {r.work}, {r.builder}, {r.mode}: {r.error[:300]!r}" for r in failures]


def _row(work: str, builder: str, runs: Sequence[Run], bound: float | None, plain: Sequence[float]) -> str:
    if not _timed(runs):
        return f"| {work} | {builder} | – | {bound or '–'} | | | | | | |"
    timed = [r for r in runs if r.taken and not r.taken.memory]
    taken = [r.taken for r in timed if r.taken]
    memory = max((r.taken.memory for r in runs if r.taken), default=0)
    seconds = [t.seconds for t in taken]
    times = f"{median(seconds) / median(plain):.1f}" if plain and builder != "plain" else ""
    if builder == "plain":
        bound = None
    moved, blobs = median(t.moved for t in taken), median(r.blobs for r in timed)
    return (f"| {work} | {builder} | {median(seconds):.2f} ({min(seconds):.2f}) | {bound or '–'} | {times} "
            f"| {median(t.cpu for t in taken):.2f} | {memory / 1e6:.0f} | {moved / 1e6:.0f} | {blobs / 1e6:.1f} "
            f"| {median(t.load for t in taken):.1f} |")


def _bars(runs: Sequence[Run], works: Sequence[Work], builders: Sequence[str]) -> list[Bar]:
    out = []
    for mode in MODES:
        for work in works:
            values = {b: median(_timed(_of(runs, work.name, b, mode))) for b in builders if _timed(_of(runs, work.name, b, mode))}
            bound = work.modes.get(mode)
            if values:
                out.append(Bar(f"{work.name}, {mode}", values, bound))
    return out
