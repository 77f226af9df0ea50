"""The command as a whole: lazy commands, and what becomes of what they raise."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from engine import __version__
from engine.cli import main as cli
from engine.cli.loop import Interrupted
from engine.cli.main import COMMANDS, main
from engine.errors import DockerfileError, EngineError, Location, RegistryError, RunError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], None]:
    """Makes `aniko toy` do what the test says."""

    def define(work: Callable[[], int]) -> None:
        module = ModuleType("toy")
        module.SUMMARY = "a toy"  # type: ignore[attr-defined]
        module.configure = lambda parser: None  # type: ignore[attr-defined]
        module.execute = lambda arguments: work()  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "toy", module)
        monkeypatch.setitem(cli.COMMANDS, "toy", ("toy", "a toy"))

    monkeypatch.delenv("ANIKO_DEBUG", raising=False)
    return define


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == (
        "usage: aniko COMMAND …\n\nContainer images from Dockerfiles: no daemon, no root.\n\ncommands:\n"
        "  build     build an image from a Dockerfile\n"
        "  cache     show, prune and verify what earlier builds have left\n"
        "  registry  serve images from a directory on this machine\n"
        "  version   show the version\n\n"
        "Each command tells its flags: aniko build --help\n"
    )


def test_nothing_at_all_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_the_summary_of_the_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = import_module(COMMANDS[name][0])
    assert COMMANDS[name][1] == module.SUMMARY
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: aniko {name}")
    assert main(["help", name]) == 0


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert __version__ == declared
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"aniko {declared} (Python 3.")


@pytest.mark.parametrize("words", [["--help"], ["build", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    heavy = ["aiohttp", "uvloop", "anyio", "asyncio", "zstandard", "isal", "dockerfile_parse"]
    code = f"import sys; from engine.cli.main import main; main({words!r}); print('heavy:', *set(sys.modules) & set({heavy!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("heavy:", "")


def test_an_unknown_command_has_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["biuld"]) == 2
    assert capsys.readouterr().err == "hint: did you mean build?\nERROR: unknown command: biuld\n"


def test_a_result_is_the_exit_code(command: Callable[[Callable[[], int]], None]) -> None:
    command(lambda: 7)
    assert main(["toy"]) == 7


def test_a_mistake_shows_its_place(command: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]) -> None:
    error = DockerfileError("unknown instruction: RUNN", hint="did you mean RUN?")
    error.at(Location(3, 4), "FROM a\n\nRUNN x \\\n  y\nUSER b\nUSER c\nUSER d\n")
    command(raising(error))
    assert main(["toy"]) == 3
    assert capsys.readouterr().err == (
        "Dockerfile:3\n"
        "--------------------\n"
        "   1 |     FROM a\n"
        "   2 |\n"
        "   3 | >>> RUNN x \\\n"
        "   4 | >>>   y\n"
        "   5 |     USER b\n"
        "   6 |     USER c\n"
        "--------------------\n"
        "hint: did you mean RUN?\n"
        "ERROR: unknown instruction: RUNN\n"
    )


def test_a_failed_run_shows_the_end_of_its_output(
    command: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    error = RunError('process "/bin/sh -c false" did not complete successfully: exit code: 1', output=("one", "two\x1b[2J"))
    command(raising(error.at(Location(1, 1, "sub/Dockerfile"))))
    assert main(["toy"]) == 5
    assert capsys.readouterr().err == (
        "------\n > last lines of output:\none\ntwo\n------\nsub/Dockerfile:1\n"
        'ERROR: process "/bin/sh -c false" did not complete successfully: exit code: 1\n'
    )


def test_a_long_instruction_is_shortened(
    command: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    source = "".join(f"line {i}\n" for i in range(1, 101))
    command(raising(DockerfileError("bad").at(Location(10, 90), source)))
    main(["toy"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[2] == "   8 |     line 8"
    assert lines[-4:] == ["  33 | >>> line 33", "     | >>> … 57 more lines", "--------------------", "ERROR: bad"]


@pytest.mark.parametrize("location", [Location(0, 0), Location(9, 9), Location(3, 2)])
def test_a_place_outside_the_file_is_left_out(
    location: Location, command: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(DockerfileError("bad").at(location, "FROM a\n")))
    assert main(["toy"]) == 3
    assert capsys.readouterr().err == "ERROR: bad\n"


def test_of_several_errors_the_users_is_told(
    command: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    group = ExceptionGroup("tasks", [ValueError("bug"), ExceptionGroup("more", [RegistryError("no route")])])
    command(raising(group))
    assert main(["toy"]) == 6
    assert capsys.readouterr().err == "ERROR: no route\n"


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/state/x"), 11, "ERROR: No space left on device: /state/x"),
        (KeyboardInterrupt(), 130, "ERROR: canceled"),
        (Interrupted(2), 130, "ERROR: canceled"),
        (ExceptionGroup("tasks", [Interrupted(15)]), 143, "ERROR: canceled"),
        (EngineError("other"), 1, "ERROR: other"),
        (ValueError("odd"), 1, "ERROR: ValueError: odd"),
        (FileNotFoundError(2, "No such file", "x"), 1, "ERROR: FileNotFoundError: [Errno 2] No such file: 'x'"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, last: str, command: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(error))
    assert main(["toy"]) == code
    assert capsys.readouterr().err.splitlines()[-1] == last


def test_a_bug_says_so_and_shows_the_traceback_only_on_demand(
    command: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command(raising(ValueError("odd")))
    main(["toy"])
    quiet = capsys.readouterr().err
    assert quiet.startswith("This is a bug in aniko") and "Traceback" not in quiet
    main(["toy", "--debug"])
    assert "Traceback" in capsys.readouterr().err
    main(["-D", "toy"])
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("ANIKO_DEBUG", "1")
    main(["toy"])
    assert "Traceback" in capsys.readouterr().err


def test_a_message_cannot_write_to_the_terminal(
    command: Callable[[Callable[[], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(EngineError("bad\x1b]0;title\x07 name\nsecond \x1b[2Jline")))
    main(["toy"])
    assert capsys.readouterr().err == "ERROR: bad name\nsecond line\n"


def test_a_reader_that_goes_away_is_no_bug() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "engine.cli.main", "--help"], stdout=write, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(write)
    assert done.stderr == b""


def test_the_parser_is_that_of_the_project() -> None:
    from engine.cli.parser import Parser

    assert issubclass(Parser, argparse.ArgumentParser)
