"""What is made larger and larger, to see how cost grows with it: files, a layer, steps, stages, builds at the same time.

Every curve has lines: builds that are measured at each size, in this order. The base has busybox only, so that it is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perf import inputs

_MB = 1_000_000
_FILE = 2_000
"""Bytes of the average file of the curve of files."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where one size is built: `directory` for contexts, the engine's `state`, the registry's address and the base in it."""

    directory: Path
    state: Path
    address: str
    base: str

    def context(self, name: str, dockerfile: str) -> Path:
        """A new directory with a Dockerfile in which `{base}` is the base."""
        place = self.directory / name
        place.mkdir(parents=True)
        (place / "Dockerfile").write_text(dockerfile.replace("{base}", self.base).replace("{address}", self.address))
        return place

    def build(self, context: str, tag: str) -> list[str]:
        """The command that builds and pushes."""
        return [sys.executable, "-m", "engine.cli", "build", "--state-dir", str(self.state), "-t", f"{self.address}/{tag}:1",
                "--push", "--progress", "plain", str(self.directory / context)]


@dataclass(frozen=True, slots=True)
class Line:
    """One build at every size. `fresh`: it starts with an empty state directory."""

    name: str
    fresh: bool
    command: Callable[[Scene, int], list[str]]


@dataclass(frozen=True, slots=True)
class Curve:
    """`sizes` are measured always, `more` only when asked for. `room`: about how many bytes of state a size takes."""

    name: str
    title: str
    unit: str
    sizes: tuple[int, ...]
    more: tuple[int, ...]
    lines: tuple[Line, ...]
    prepare: Callable[[Scene, inputs.Pool, int], None]
    room: Callable[[int], int] = lambda size: 500 * _MB

    def points(self, full: bool, most: float | None) -> list[int]:
        """The sizes to be measured, smallest first."""
        return sorted(size for size in {*self.sizes, *(self.more if full else ())} if most is None or size <= most)


def _files(scene: Scene, pool: inputs.Pool, size: int) -> None:
    inputs.make_tree(pool, scene.context("grown", "FROM {base}\nCOPY tree /tree\n") / "tree", size, size * _FILE)
    _reader(scene)


def _layer(scene: Scene, pool: inputs.Pool, size: int) -> None:
    inputs.make_file(pool, scene.context("grown", "FROM {base}\nCOPY file /file\n") / "file", size * _MB)
    _reader(scene)


def _reader(scene: Scene) -> None:
    scene.context("reader", "FROM {address}/grown:1\nRUN echo read > /said\n")


def _steps(scene: Scene, pool: inputs.Pool, size: int) -> None:
    scene.context("grown", "FROM {base}\n" + "".join(f"RUN echo {n} > /run-{n}\n" for n in range(size)))


def _stages(scene: Scene, pool: inputs.Pool, size: int) -> None:
    stages = "".join(f"FROM {{base}} AS s{n}\nRUN echo {n} > /made-{n}\n" for n in range(size))
    scene.context("grown", stages + "FROM {base}\n" + "".join(f"COPY --from=s{n} /made-{n} /\n" for n in range(size)))


def _parallel(scene: Scene, pool: inputs.Pool, size: int) -> None:
    for n in range(size):
        place = scene.context(f"together/{n}", f"FROM {{base}}\nCOPY greeting /\nRUN cat /greeting > /said-{n}\n")
        (place / "greeting").write_text(f"hello {n}\n")


def _together(scene: Scene, size: int) -> list[str]:
    program = str(Path(__file__).with_name("together.py"))
    return [sys.executable, "-P", program, str(scene.state), str(scene.directory / "together"), str(size), scene.address]


_MADE = Line("everything cold", True, lambda scene, _: scene.build("grown", "grown"))
_AGAIN = Line("nothing changed", False, lambda scene, _: scene.build("grown", "grown"))
_READ = Line("pulled, one RUN", True, lambda scene, _: scene.build("reader", "reader"))

CURVES = (
    Curve("files", "COPY of many files, of 2 kB on average", "files", (1_000, 5_000, 20_000, 60_000, 200_000),
          (2_000, 10_000, 40_000, 100_000), (_MADE, _AGAIN, _READ), _files, lambda size: size * 15_000 + 200 * _MB),
    Curve("layer", "COPY of one large file", "MB", (10, 50, 250, 1_000, 4_000), (25, 100, 500, 2_000),
          (_MADE, _AGAIN, _READ), _layer, lambda size: size * 3 * _MB + 500 * _MB),
    Curve("steps", "RUN steps, one after the other", "steps", (1, 5, 20, 70, 200), (2, 10, 40, 120), (_MADE, _AGAIN), _steps),
    Curve("stages", "stages of one RUN each, copied from by the last", "stages", (1, 3, 8, 20, 50), (2, 5, 13, 32),
          (_MADE, _AGAIN), _stages),
    Curve("parallel", "builds at the same time in one process", "builds", (1, 3, 8, 20, 50), (2, 5, 13, 32),
          (Line("everything cold", True, _together), Line("nothing changed", False, _together)), _parallel),
)  # fmt: skip
