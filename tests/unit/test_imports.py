"""The import rules of docs/architecture.md, as a test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[2] / "engine"

LEVELS = [
    {"errors", "codec", "tasks", "values"},
    {"image", "settings"},
    {"dockerfile", "request"},
    {"isolate", "workers", "layer", "registry", "content", "plan", "progress"},
    {"cache", "output", "snapshot", "context"},
    {"solve"},
    {"wiring"},
    {"upkeep"},
    {"api"},
    {"cli"},
]
"""Who may import whom: a package those of lower levels, and its neighbours on the same one."""

RANK = {package: level for level, packages in enumerate(LEVELS) for package in packages}

FORBIDDEN = {
    "image": {"dockerfile", "plan", "solve"},
    "content": {"dockerfile", "plan", "solve", "registry", "layer", "workers"},
    "registry": {"dockerfile", "plan", "solve", "layer", "workers", "isolate", "content"},
    "isolate": {"dockerfile", "plan", "solve", "registry", "content"},
    "workers": {"dockerfile", "plan", "solve", "registry"},
    "layer": {"dockerfile", "plan", "solve", "registry", "workers"},
    "snapshot": {"dockerfile", "plan", "solve", "registry", "cache", "output"},
    "plan": {"layer", "registry", "workers", "isolate", "progress"},
    "progress": {"dockerfile", "plan", "solve", "registry", "layer", "content", "workers"},
}
"""What a package must not import although it may lie lower: mechanisms know nothing of the Dockerfile, and not each other."""

LIBRARIES = {
    "aiohttp": {"registry", "context"},
    "dockerfile_parse": {"dockerfile"},
    "orjson": {"codec"},
    "ctypes": {"isolate", "workers", "layer"},
    "uvloop": {"cli", "registry"},
    "sqlite3": {"cache", "context"},
    "isal": {"layer"},
    "zstandard": {"layer"},
}
"""Where a library may be imported."""


def modules() -> list[Path]:
    return sorted(p for p in ENGINE.rglob("*.py") if p != ENGINE / "__init__.py")


def package_of(path: Path) -> str:
    return path.relative_to(ENGINE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ENGINE)))
def test_imports_go_one_way(path: Path) -> None:
    package = package_of(path)
    assert package in RANK, f"engine/{package} has no place in the layering"
    for module in imports(path):
        head, _, rest = module.partition(".")
        if head == "engine" and rest:
            other = rest.split(".")[0]
            assert RANK[other] <= RANK[package], f"engine.{package} is below engine.{other}"
            assert other not in FORBIDDEN.get(package, ()), f"engine.{package} must not know engine.{other}"
        elif head in LIBRARIES:
            assert package in LIBRARIES[head], f"{head} belongs to {sorted(LIBRARIES[head])}"


def test_only_the_command_line_reads_the_environment_and_prints() -> None:
    for path in modules():
        if package_of(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                assert node.attr not in ("environ", "getenv"), f"{path.name}:{node.lineno} reads the environment"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path.name}:{node.lineno} prints"
