"""Temporary space of running processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.content.scratch import Scratch
from engine.errors import StorageError

SPACE = """
from engine.content.scratch import Scratch
scratch = Scratch(here)
directory = scratch.directory()
(directory / "file").write_bytes(b"x")
print(directory, flush=True)
sys.stdin.read()
"""


@contextmanager
def victim(program: str, directory: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """A process that prints a line and then waits: the line, and what kills it."""
    preamble = "import sys; from pathlib import Path; here = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", preamble + program, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None

        def kill() -> None:
            process.kill()
            process.wait()

        yield process.stdout.readline().decode().strip(), kill
        kill()


async def remove(path: Path) -> None:
    shutil.rmtree(path)


def test_files_and_directories_are_new_and_go_at_the_end(tmp_path: Path) -> None:
    with Scratch(tmp_path / "tmp") as scratch:
        assert not (tmp_path / "tmp").exists()
        first, second, file = scratch.directory("run-"), scratch.directory("run-"), scratch.file()
        assert first != second and first.is_dir() and file.read_bytes() == b""
        assert first.stat().st_mode & 0o777 == 0o700
        (first / "x").write_bytes(b"x")
    assert os.listdir(tmp_path / "tmp") == []


async def test_the_space_of_a_dead_process_is_reclaimed_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    mine = Scratch(tmp_path)
    kept = mine.directory()
    with victim(SPACE, tmp_path) as (theirs, kill):
        assert await Scratch(tmp_path).reclaim(remove) == 0
        kill()
        assert Path(theirs).exists()
        assert await mine.reclaim(remove) == 1
        assert not Path(theirs).parent.exists()
    assert kept.is_dir()
    await mine.aclose(remove)
    assert os.listdir(tmp_path) == []


async def test_what_cannot_be_removed_now_is_left_for_later(tmp_path: Path) -> None:
    async def refuse(path: Path) -> None:
        raise PermissionError(path)

    (tmp_path / "123-dead").mkdir()
    assert await Scratch(tmp_path).reclaim(refuse) == 0
    assert await Scratch(tmp_path).reclaim(remove) == 1


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        Scratch(tmp_path / "file").directory()
