"""`aniko cache verify --rebuild`: steps of a build that the cache has are run again, and compared with what it has."""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.solve.rebuild import Rebuilt

MOST_PATHS = 20
"""Paths of a step that are shown."""

_SHARE = re.compile(r"([0-9]+)(%?)")
_VERDICTS = {
    "same": "the same", "varies": "varies from run to run", "differs": "differs from what is cached", "failed": "fails now",
    "broken": "what is cached is broken",
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of `verify` that are about this."""
    parser.add_argument("--rebuild", metavar="N|N%",
                        help="also run N of the steps that the cache has for a build again, chosen at random, and compare")
    parser.add_argument("--seed", metavar="N", type=int, help="choose the same steps for the same number")
    parser.add_argument("build", metavar="-- BUILD", nargs="*",
                        help="for --rebuild: the flags and the context of aniko build, after a --")


def parse(arguments: argparse.Namespace) -> argparse.Namespace | None:
    """The values of the build's command line, if there is to be one; raises `UsageError`. Both command lines may name the state
    directory, and both have it then."""
    if arguments.rebuild is None:
        if arguments.build or arguments.seed is not None:
            raise UsageError(f"unexpected {' '.join(arguments.build) or '--seed'}", hint="a build is only for --rebuild")
        return None
    _share(arguments.rebuild, 0)
    if not arguments.build:
        raise UsageError("--rebuild needs a build", hint="aniko cache verify --rebuild 5 -- -f Dockerfile .")
    from engine.cli import build
    from engine.cli.parser import Parser

    parser = Parser(prog="aniko cache verify --rebuild N --", elsewhere=build.ELSEWHERE)
    build.configure(parser)
    found = parser.parse(arguments.build)
    if found.state_dir and arguments.state_dir and found.state_dir != arguments.state_dir:
        raise UsageError("there are two state directories", hint="name it once")
    found.state_dir = arguments.state_dir = arguments.state_dir or found.state_dir
    return found


async def run(arguments: argparse.Namespace, build: argparse.Namespace) -> tuple[int, list[Rebuilt]]:
    """Runs steps again; how many the cache has, and what became of those that were run."""
    from engine import Engine
    from engine.cli import inputs, paths
    from engine.progress.plain import PlainRenderer
    from engine.progress.quiet import QuietRenderer

    config = paths.docker_config(os.environ)
    request = replace(inputs.request(build, os.environ, config, sys.stdin.buffer), outputs=())
    dice = random.Random(arguments.seed)

    def choose(count: int) -> Sequence[int]:
        return sorted(dice.sample(range(count), _share(arguments.rebuild, count)))

    renderer = QuietRenderer() if arguments.json else PlainRenderer(sys.stderr, colour=False)
    stdin = sys.stdin.buffer if request.context == "-" else None
    async with Engine(inputs.settings(build, os.environ, config)) as engine:
        found = await engine.rebuild(request, choose, sink=renderer, stdin=stdin)
    renderer.close()
    return found


def _share(text: str, count: int) -> int:
    """`5`, or `20%`, of so many; at least one if there is one."""
    match = _SHARE.fullmatch(text)
    if not match or int(match[1]) < 1 or (match[2] and int(match[1]) > 100):
        raise UsageError(f"invalid number of steps {text!r}", hint="as in 5 or 20%")
    wanted = -(-count * int(match[1]) // 100) if match[2] else int(match[1])
    return min(wanted, count)


def to_json(count: int, rebuilt: Sequence[Rebuilt]) -> dict[str, Any]:
    """What became of the steps, for programs."""
    steps = [{"step": each.step, "key": str(each.key), "verdict": each.verdict, "problem": each.problem,
              "paths": {_text(path): what for path, what in each.paths.items()}} for each in rebuilt]  # fmt: skip
    return {"cached": count, "steps": steps}


def lines(count: int, rebuilt: Sequence[Rebuilt]) -> Iterator[str]:
    """What became of the steps, for people."""
    from engine.progress.lines import clean

    for each in rebuilt:
        if each.verdict != "same":
            problem = f": {each.problem}" if each.problem else ""
            yield clean(f"{each.step}: {_VERDICTS[each.verdict]}{problem}", colour=False)
            for path, what in list(each.paths.items())[:MOST_PATHS]:
                yield clean(f"  /{_text(path)} {what}", colour=False)
            if len(each.paths) > MOST_PATHS:
                yield f"  and {len(each.paths) - MOST_PATHS} more"
    verdicts: Counter[str] = Counter(each.verdict for each in rebuilt)
    told = ", ".join(f"{verdicts[verdict]} {text}" for verdict, text in _VERDICTS.items() if verdicts[verdict])
    yield f"ran {len(rebuilt)} of {count} cached steps again" + (f": {told}" if told else "")


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
