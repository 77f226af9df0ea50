"""Trees of files that are removed, however odd."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.isolate.copies import remove_tree


def make_deep(top: Path, name: str, depth: int) -> None:
    """Directories below each other, with a file in each."""
    before = os.open(".", os.O_PATH)
    try:
        os.chdir(top)
        for _ in range(depth):
            os.mkdir(name)
            os.chdir(name)
            Path("file").touch()
    finally:
        os.fchdir(before)
        os.close(before)


@pytest.mark.parametrize("name", ["d", "a long name " * 20])
def test_directories_deeper_than_a_path_can_be_long(tmp_path: Path, name: str) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/beside").mkdir()
    (tmp_path / "tree/link").symlink_to(tmp_path)
    make_deep(tmp_path / "tree", name, 3000)
    make_deep(tmp_path / "tree/beside", name, 3000)
    remove_tree(str(tmp_path / "tree"))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove everything")
def test_directories_that_their_owner_may_not_enter(tmp_path: Path) -> None:
    (tmp_path / "tree/closed/in").mkdir(parents=True)
    make_deep(tmp_path / "tree/closed/in", "a name of its own", 200)
    (tmp_path / "tree/closed").chmod(0)
    remove_tree(str(tmp_path / "tree"))
    assert os.listdir(tmp_path) == []


def test_files_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for name in ("link", "file", "nothing"):
        remove_tree(bytes(tmp_path / name))
    assert os.listdir(tmp_path) == []
