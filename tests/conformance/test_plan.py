"""What can be known of the corpus without running a step: configs and histories of all cases come from plans alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine.dockerfile.parser import parse
from engine.image.config import ImageConfig
from engine.image.platform import Platform
from engine.plan.base import Plan
from engine.plan.build import ImageKey, PlanInputs, images_wanted, make_plan
from engine.plan.stages import GraphInputs, build_graph

from .conftest import HERE, load

CASES = HERE / "cases"
AMD64 = Platform("linux", "amd64")
REGISTRY = "127.0.0.1:5000/conf"


def spec_of(name: str) -> dict[str, Any]:
    return dict(json.loads((CASES / name / "case.json").read_text()))


def oracle_of(name: str) -> dict[str, Any]:
    return dict(json.loads((HERE / "oracle" / f"{name}.json").read_text()))


def base_configs() -> dict[str, list[ImageConfig]]:
    """The configs of the corpus's bases, by name."""
    bases, out = load("bases", fresh=True), {}
    for name in bases.NAMES:
        for _, (system, arch, *_), layers, config, history in [(f, p, x, c, h) for f, p, x, c, h in describe(bases, name)]:
            out.setdefault(name, []).append(ImageConfig.parse(json.dumps({
                "os": system, "architecture": arch, "config": config, "rootfs": {"diff_ids": []},
                "history": [{"created_by": f"layer {i}"} for i in range(len(layers))]
                           + [{"created_by": h, "empty_layer": True} for h in history],
            }).encode()))  # fmt: skip
    return out


def describe(bases: Any, name: str) -> Any:
    """The bases as data, without their files (the module is this function's own)."""
    bases.busybox_tree = bases.bare_tree = bases.upper_tree = bases.net_tree = lambda: b""
    bases.files_tree = lambda mark: b""
    return bases.describe(name)


def plan_of(name: str, dockerfile: Path, configs: dict[str, list[ImageConfig]]) -> Plan:
    spec = spec_of(name)
    data = dockerfile.read_bytes().replace(b"@REG@", REGISTRY.encode())
    args = {"REG": REGISTRY, **spec.get("args", {})}
    target = Platform.parse(spec["platform"]) if spec.get("platform") else AMD64
    graph = build_graph(parse(data), GraphInputs(spec.get("target", ""), args, AMD64, target, {}))
    known: dict[ImageKey, ImageConfig] = {}
    while wanted := images_wanted(graph, known):
        for reference, platform in wanted:
            found = configs[reference.repository.rpartition("/")[2]]
            known[reference, platform] = next((c for c in found if c.platform == platform), found[0])
    return make_plan(graph, known, PlanInputs(args))


def good_cases() -> list[str]:
    return sorted(p.name for p in CASES.iterdir() if oracle_of(p.name)["ok"])


@pytest.fixture(scope="session")
def configs() -> dict[str, list[ImageConfig]]:
    return base_configs()


@pytest.mark.parametrize("name", good_cases())
def test_the_plan_has_buildkits_config_and_history(name: str, configs: dict[str, list[ImageConfig]], tmp_path: Path) -> None:
    spec, want = spec_of(name), oracle_of(name)
    dockerfile = tmp_path / spec.get("dockerfile", "Dockerfile")
    dockerfile.parent.mkdir(parents=True, exist_ok=True)
    if (CASES / name / "Dockerfile").exists():
        shutil.copy(CASES / name / "Dockerfile", dockerfile)
    setup = CASES / name / "setup.sh"
    if setup.exists() and re.search(r"Dockerfile", setup.read_text()):
        subprocess.run(["bash", "-euc", f"umask 022; . {setup}"], cwd=tmp_path, check=True, capture_output=True,
                       env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CTX": str(tmp_path), "REG": REGISTRY})  # fmt: skip
    plan = plan_of(name, dockerfile, configs)
    got = plan.config.config.to_json()
    wanted = {k: v for k, v in want["config"].items() if k[0].isupper()}
    got.setdefault("WorkingDir", "/")
    for volatile in ("ArgsEscaped",):
        got.pop(volatile, None)
        wanted.pop(volatile, None)
    assert got == wanted
    history = [(h.created_by, h.empty_layer) for h in plan.config.history] + [(h.created_by, h.step is None) for h in plan.history]
    assert [(by.replace(REGISTRY, "$REG"), empty) for by, empty in history] == [
        (h["created_by"], h["empty_layer"]) for h in want["history"]
    ]
