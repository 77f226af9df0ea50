"""The order of runs: builders take turns, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from perf import measure, registry
from perf.builders import Build, Builder
from perf.works import Work, edit


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run: against which registry, how often, and which of `works.MODES`."""

    address: str
    runs: int
    modes: list[str]


@dataclass(frozen=True, slots=True)
class Run:
    """One run and what it took. `blobs` are the bytes of the layers that the work made."""

    work: str
    builder: str
    mode: str
    number: int
    taken: measure.Taken | None
    blobs: int = 0
    error: str = ""

    def fields(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


_numbers = itertools.count()


def run(chosen: Sequence[Work], builders: Sequence[Builder], contexts: dict[str, Path], plan: Plan, place: Path) -> list[Run]:
    """All runs. The last round of each work is the one that looks at memory, and is not for times."""
    out: list[Run] = []
    for work in chosen:
        for number in range(plan.runs + 1):
            for builder in builders:
                try:
                    out += _round(work, builder, contexts[work.name], plan, place, number)
                finally:
                    builder.close()
    return out


def _round(work: Work, builder: Builder, context: Path, plan: Plan, place: Path, number: int) -> list[Run]:
    """One builder's runs of a work: cold, then repeated and edited (in the same place), then on a new machine."""
    out: list[Run] = []
    modes = [mode for mode in plan.modes if mode in work.modes and (builder.pushes or mode == "cold")]
    cached = "cached" in modes and builder.can_cache
    repository = f"bench/{work.name}-{next(_numbers)}"
    cache = f"{plan.address}/cache/{next(_numbers)}" if cached else ""

    def one(mode: str, build: Build) -> None:
        run = _run(work, builder, mode, build, place, number, number == plan.runs)
        out.append(run)
        print(json.dumps(_brief(run)), file=sys.stderr, flush=True)

    builder.forget()
    plain = Build(context, f"{plan.address}/{repository}:1")
    if set(modes) - {"cached"}:
        one("cold", plain)
        if "repeated" in modes:
            one("repeated", plain)
        if "edited" in modes:
            edit(context, next(_numbers))
            one("edited", plain)
    if cached:
        builder.forget()
        _quiet(builder, Build(context, f"{plan.address}/{repository}:2", cache), place)
        builder.forget()
        one("cached", Build(context, f"{plan.address}/{repository}-new:1", cache))
    return out


def _quiet(builder: Builder, build: Build, place: Path) -> None:
    try:
        measure.run(builder.command(build), builder.environment(), log=place / f"{builder.name}.log", daemons=builder.daemons())
    except measure.Failed as error:
        print(error, file=sys.stderr)


def _run(work: Work, builder: Builder, mode: str, build: Build, place: Path, number: int, memory: bool) -> Run:
    try:
        taken = measure.run(builder.command(build), builder.environment(), memory=memory, log=place / f"{builder.name}.log",
                            daemons=builder.daemons())  # fmt: skip
    except measure.Failed as error:
        return Run(work.name, builder.name, mode, number, None, error=str(error))
    return Run(work.name, builder.name, mode, number, taken, _made(build, work) if builder.pushes else 0)


def _made(build: Build, work: Work) -> int:
    """Bytes of the layers above the base."""
    address, _, rest = build.target.partition("/")
    repository, _, tag = rest.partition(":")
    layers = registry.manifest(address, repository, tag)["layers"]
    assert isinstance(layers, list)
    return sum(layer["size"] for layer in layers[4 if "FROM {big}" in work.dockerfile else 1 :])


def _brief(run: Run) -> dict[str, object]:
    brief: dict[str, object] = {"work": run.work, "builder": run.builder, "mode": run.mode}
    if run.taken is None:
        return brief | {"error": run.error}
    return brief | {"seconds": round(run.taken.seconds, 3), "cpu": round(run.taken.cpu, 2), "memory_mb": run.taken.memory >> 20,
                    "moved_mb": run.taken.moved >> 20, "blobs_mb": round(run.blobs / 1e6, 1), "load": round(run.taken.load, 1)}
