"""docs/cli.md says what is there: the exit codes, the flags, the events."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

from engine.cli.main import COMMANDS
from engine.cli.parser import Parser
from engine.errors import EngineError
from engine.progress.events import Event, StepOutput
from engine.progress.json import name_of

DOCS = (Path(__file__).parents[3] / "docs/cli.md").read_text()


def rows(title: str) -> Iterator[list[str]]:
    section = DOCS.split(f"\n## {title}\n")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith("|--"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def errors(kind: type[EngineError] = EngineError) -> Iterator[type[EngineError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from errors(inner)


def test_the_exit_codes_are_those_of_the_errors() -> None:
    documented = {(int(row[0]), row[1].strip("`")) for row in rows("Exit codes") if row[0].isdigit() and row[1]}
    assert documented == {(kind.exit_code, kind.code) for kind in errors() if kind.__module__ == "engine.errors"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_documented(name: str) -> None:
    parser = Parser(prog=name)
    import_module(COMMANDS[name][0]).configure(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings if action.help is not argparse.SUPPRESS}
    assert not [flag for flag in flags - {"-h", "--help"} if not re.search(rf"`(-\w`, `)?{re.escape(flag)}\b", DOCS)]


def test_every_event_is_documented_with_its_fields() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows("JSON progress")}
    for kind in get_args(Event):
        fields = ["text" if kind is StepOutput and name == "data" else name for name in kind.__struct_fields__]
        assert [name for name in fields if f"`{name}`" not in documented[name_of(kind)]] == []
    assert documented.keys() == {"event", "error", *map(name_of, get_args(Event))}
