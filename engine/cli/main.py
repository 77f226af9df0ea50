"""The command `aniko`. A command's module is imported when it is asked for, and no sooner, so that `--help` is quick.

All commands end here: whatever they raise becomes a message on standard error and an exit code (docs/cli.md).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from engine.errors import EngineError, UsageError

COMMANDS = {
    "build": ("engine.cli.build", "build an image from a Dockerfile"),
    "cache": ("engine.cli.cache", "show, prune and verify what earlier builds have left"),
    "registry": ("engine.cli.registry", "serve images from a directory on this machine"),
    "version": ("engine.cli.version", "show the version"),
}
"""A command's name, the module that has it, and its `SUMMARY` (repeated here, so that the list imports none of them)."""

INTERRUPTED, BROKEN_PIPE, BUG = 130, 141, 1
_COLLECT_AFTER = 200_000
"""New objects after which cycles are looked for. Imports make many objects and no garbage: with Python's 700, looking takes longer
than the import of a third of the engine."""
_ISSUE = "This is a bug in aniko, not a mistake of yours. Please report it, with what --debug (or ANIKO_DEBUG=1) prints."


def command() -> NoReturn:
    """The program: `main`, and the end of the process. The interpreter is not taken down with care: that takes time, and gives
    back to the system what it takes back anyway. Nothing is left open or running when `main` returns."""
    gc.set_threshold(_COLLECT_AFTER, 20, 20)
    os._exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (default: the process's) and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = os.environ.get("ANIKO_DEBUG", "") not in ("", "0")
    try:
        while words and words[0] in ("--debug", "-D"):
            debug = True
            del words[0]
        return _run(words)
    except SystemExit as end:  # argparse, after --help
        return end.code if isinstance(end.code, int) else 0
    except BaseException as error:
        return _fail(error, debug=debug or _DEBUG_FLAG in words)
    finally:
        _flush()


_DEBUG_FLAG = "--debug"


def _run(words: list[str]) -> int:
    if not words or (words[0] in ("-h", "--help", "help") and len(words) == 1):
        print(_help(), file=sys.stdout if words else sys.stderr)
        return 0 if words else UsageError.exit_code
    if words[0] == "help":
        words = [words[1], "--help"]
    if words[0] == "--version":
        words[0] = "version"
    if words[0] not in COMMANDS:
        _unknown(words[0])
    name, *rest = words
    command = import_module(COMMANDS[name][0])
    from engine.cli.parser import Parser

    parser = Parser(prog=f"aniko {name}", description=command.SUMMARY, elsewhere=getattr(command, "ELSEWHERE", None))
    command.configure(parser)
    parser.add_argument("-D", _DEBUG_FLAG, action="store_true", help="show where in the program an error comes from")
    result = command.execute(parser.parse(rest))
    return result if isinstance(result, int) else 0


def _unknown(word: str) -> NoReturn:
    from engine.cli.parser import did_you_mean

    kind = "flag" if word.startswith("-") else "command"
    raise UsageError(f"unknown {kind}: {word}", hint=did_you_mean(word, COMMANDS) or "see aniko --help")


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    return f"usage: aniko COMMAND …\n\nContainer images from Dockerfiles: no daemon, no root.\n\ncommands:\n{commands}\n\n" \
           "Each command tells its flags: aniko build --help"


def _fail(error: BaseException, *, debug: bool) -> int:
    from engine.cli import failure
    from engine.cli.loop import Interrupted

    told = failure.cause(error)
    if isinstance(told, BrokenPipeError):
        return BROKEN_PIPE
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if isinstance(told, EngineError):
        sys.stderr.write(failure.text(told))
        return told.exit_code
    if isinstance(told, (KeyboardInterrupt, Interrupted)):
        number = told.number if isinstance(told, Interrupted) else INTERRUPTED - 128
        sys.stderr.write("ERROR: canceled\n")
        return 128 + number
    sys.stderr.write(f"{_ISSUE}\nERROR: {type(told).__name__}: {told}\n")
    return BUG


def _flush() -> None:
    """Writes what is buffered; a reader that went away is no error, and must not become one when the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, ValueError):
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except (OSError, ValueError):
                continue
