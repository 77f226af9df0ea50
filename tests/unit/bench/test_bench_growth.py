"""How growth is measured: which sizes, what is built at each, and how results are told."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from perf import growth
from perf.curves import CURVES, Curve, Scene
from perf.growth import Run, Wanted
from perf.measure import Taken
from perf.picture import Panel, panels, ticks

SVG = "{http://www.w3.org/2000/svg}"
CURVE = {curve.name: curve for curve in CURVES}


class Letters:
    """A pool of letters: quicker than the real one."""

    def slice(self, number: int, size: int) -> bytes:
        return b"x" * size


def scene(path: Path) -> Scene:
    return Scene(path / "contexts", path / "state", "127.0.0.1:5", "127.0.0.1:5/base/tiny:1")


def run(line: str, size: int, seconds: float, memory: int = 0, number: int = 0) -> Run:
    return Run(line, size, number, Taken(seconds, seconds, memory, 0, 0.5))


def runs_of(curve: Curve) -> list[Run]:
    out = []
    for line in curve.lines:
        for size in curve.sizes:
            out += [run(line.name, size, size / 10), run(line.name, size, 99.0, 50_000_000, 1)]
    return out


def test_the_curves_reach_as_far_as_they_are_asked_to() -> None:
    reach = {curve.name: (curve.sizes[0], curve.sizes[-1]) for curve in CURVES}
    assert reach == {"files": (1_000, 200_000), "layer": (10, 4_000), "steps": (1, 200), "stages": (1, 50), "parallel": (1, 50)}


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_points_are_in_order_and_more_when_full(curve: Curve) -> None:
    assert curve.points(False, None) == list(curve.sizes)
    full = curve.points(True, None)
    assert full == sorted({*curve.sizes, *curve.more})
    assert (full[0], full[-1]) == (curve.sizes[0], curve.sizes[-1])
    assert curve.points(False, curve.sizes[1]) == list(curve.sizes[:2])


def test_files_are_as_many_as_the_size_and_have_what_it_says(tmp_path: Path) -> None:
    here = scene(tmp_path)
    CURVE["files"].prepare(here, Letters(), 300)  # type: ignore[arg-type]  # has what is used of a pool
    files = [path for path in (here.directory / "grown/tree").rglob("*") if path.is_file()]
    assert len(files) == 300
    assert sum(path.stat().st_size for path in files) == pytest.approx(600_000, rel=0.01)


def test_a_layer_is_as_large_as_the_size(tmp_path: Path) -> None:
    here = scene(tmp_path)
    CURVE["layer"].prepare(here, Letters(), 3)  # type: ignore[arg-type]  # has what is used of a pool
    assert (here.directory / "grown/file").stat().st_size == 3_000_000
    assert (here.directory / "reader/Dockerfile").read_text().startswith("FROM 127.0.0.1:5/grown:1\n")


def test_steps_and_stages_are_as_many_as_the_size(tmp_path: Path) -> None:
    for number, (name, pattern) in enumerate((("steps", r"^RUN "), ("stages", r"^FROM \S+ AS "), ("stages", r"^COPY --from="))):
        here = scene(tmp_path / str(number))
        CURVE[name].prepare(here, Letters(), 7)  # type: ignore[arg-type]  # is not used
        assert len(re.findall(pattern, (here.directory / "grown/Dockerfile").read_text(), re.M)) == 7


def test_builds_at_the_same_time_are_all_different(tmp_path: Path) -> None:
    here = scene(tmp_path)
    CURVE["parallel"].prepare(here, Letters(), 4)  # type: ignore[arg-type]  # is not used
    places = [here.directory / "together" / str(n) for n in range(4)]
    assert len({(place / "Dockerfile").read_text() for place in places}) == 4
    assert len({(place / "greeting").read_text() for place in places}) == 4
    assert CURVE["parallel"].lines[0].command(here, 4)[-2:] == ["4", "127.0.0.1:5"]


def test_the_first_line_of_every_curve_starts_with_nothing() -> None:
    assert all(curve.lines[0].fresh for curve in CURVES)


@pytest.mark.parametrize(
    ("values", "expected"),
    [({1: 1.0, 10: 10.0}, 1.0), ({1: 3.0, 10: 3.0}, 0.0), ({2: 1.0, 4: 1.0, 8: 4.0}, 2.0), ({1: 1.0}, None), ({}, None),
     ({1: 0.0, 2: 1.0}, None)],
)  # fmt: skip
def test_the_power_is_that_of_the_last_two_sizes(values: dict[int, float], expected: float | None) -> None:
    assert growth.exponent(values) == (None if expected is None else pytest.approx(expected))


def test_the_table_has_the_timed_runs_medians_and_the_memory_of_the_other(tmp_path: Path) -> None:
    curve = CURVE["steps"]
    runs = [run("everything cold", 1, 1.0), run("everything cold", 1, 3.0), run("everything cold", 1, 2.0),
            run("everything cold", 1, 77.0, 42_000_000), Run("everything cold", 5, 0, None, "stopped after 9 s")]  # fmt: skip
    about = {"when": "then", "aniko": "abc", "machine": {"cores": 2}, "runs": 3}
    (tmp_path / "growth-steps.json").write_text(json.dumps({"about": about, "runs": [asdict(r) for r in runs]}))
    text = growth.table(tmp_path)
    assert "| 1 | 2.00 | – | 42 | – |" in text
    assert "77" not in text
    assert "- 5 steps, everything cold: stopped after 9 s" in text
    assert curve.title in text
    assert CURVE["files"].title not in text


def test_a_curve_that_has_had_its_time_leaves_out_what_is_left(tmp_path: Path) -> None:
    out = list(growth._measure(CURVE["steps"], Wanted(limit=-1.0), tmp_path / "growth", Letters(), "auto"))  # type: ignore[arg-type]
    assert [r.size for r in out] == list(CURVE["steps"].sizes)
    assert all(r.taken is None and "left out" in r.error for r in out)


def test_a_size_for_which_there_is_no_room_is_left_out(tmp_path: Path) -> None:
    curve = replace(CURVE["steps"], room=lambda size: 1 << 60)
    out = list(growth._measure(curve, Wanted(most=1), tmp_path / "growth", Letters(), "auto"))  # type: ignore[arg-type]
    assert [(r.size, r.taken) for r in out] == [(1, None)]
    assert "GB" in out[0].error


def test_the_picture_has_every_line_with_every_point_in_both_panels() -> None:
    curve = CURVE["layer"]
    svg = ElementTree.fromstring(growth.draw(curve, runs_of(curve)))
    lines = svg.findall(f"{SVG}polyline")
    assert len(lines) == 2 * len(curve.lines)
    assert all(len(line.get("points", "").split()) == len(curve.sizes) for line in lines)
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert {"seconds", "MB of memory, all processes", "bound: 300", *(line.name for line in curve.lines)} <= set(texts)


def test_what_grows_as_the_size_does_lies_on_the_dotted_line() -> None:
    svg = ElementTree.fromstring(panels("t", ["a"], [Panel("s", "files", {"a": {1: 2.0, 10: 20.0, 100: 200.0}}, proportional=True)]))
    points = [tuple(map(float, point.split(","))) for point in svg.findall(f"{SVG}polyline")[0].get("points", "").split()]
    dotted = [line for line in svg.findall(f"{SVG}line") if line.get("stroke-dasharray")][-1]
    assert (float(dotted.get("x1", 0)), float(dotted.get("y1", 0))) == points[0]
    assert (float(dotted.get("x2", 0)), float(dotted.get("y2", 0))) == points[-1]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)


def test_a_picture_of_nothing_is_a_picture_still() -> None:
    ElementTree.fromstring(growth.draw(CURVE["files"], []))


def test_ticks_are_round_and_few() -> None:
    assert ticks(0.4, 3) == [0.5, 1, 2]
    assert ticks(0.01, 1000) == [0.01, 0.1, 1, 10, 100, 1000]
