"""Paths inside a root stay inside, and what was made for a mount is taken back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.isolate.paths import Confined


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "f").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "a").mkdir()
    return path


def where(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@pytest.mark.parametrize(("link", "path", "leads"), [
    ("/a/f", "link", "a/f"),
    ("../../../a/f", "link", "a/f"),
    ("a/../a/./f", "/link", "a/f"),
    ("/../a", "link/f", "a/f"),
    ("b", "a/../link2", None),
    ("..", "link/link/a/f", "a/f"),
])
def test_links_lead_nowhere_but_inside(root: Path, link: str, path: str, leads: str | None) -> None:
    (root / "link").symlink_to(link)
    confined = Confined(str(root))
    if leads is None:
        with pytest.raises(FileNotFoundError):
            confined.open(path)
    else:
        assert where(confined.open(path)) == str(root / leads)
    confined.close()


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/../../secret", "up/secret", "abs"])
def test_nothing_outside_can_be_opened(root: Path, path: str) -> None:
    (root / "up").symlink_to("..")
    (root / "abs").symlink_to(root.parent / "secret")
    confined = Confined(str(root))
    with pytest.raises(FileNotFoundError):
        confined.open(path)
    confined.close()


def test_links_in_a_circle_and_files_as_directories(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    confined = Confined(str(root))
    with pytest.raises(OSError, match="too many symbolic links"):
        confined.open("one/x")
    with pytest.raises(OSError, match="too many symbolic links"):
        confined.place("one")
    with pytest.raises(NotADirectoryError):
        confined.open("a/f/x")
    with pytest.raises(NotADirectoryError):
        confined.open_or_make("a/f/x", directory=True)
    confined.close()


def test_what_is_made_is_taken_back_with_the_times_of_before(root: Path) -> None:
    os.utime(root, ns=(1, 2))
    os.utime(root / "a", ns=(3, 4))
    confined = Confined(str(root))
    os.close(confined.open_or_make("new/deep/dir", directory=True))
    os.close(confined.open_or_make("a/file", directory=False))
    assert (root / "new/deep/dir").is_dir() and (root / "a/file").read_bytes() == b""
    assert (root / "new").stat().st_mode & 0o7777 == 0o755
    confined.remove_made()
    confined.close()
    assert sorted(os.listdir(root)) == ["a"] and sorted(os.listdir(root / "a")) == ["b", "f"]
    assert (root.stat().st_mtime_ns, (root / "a").stat().st_mtime_ns) == (2, 4)


def test_what_is_in_use_by_then_stays(root: Path) -> None:
    confined = Confined(str(root))
    os.close(confined.open_or_make("new/deep", directory=True))
    os.close(confined.open_or_make("kept", directory=True, keep=True))
    os.close(confined.open_or_make("file", directory=False))
    (root / "new" / "beside").write_text("x")
    (root / "file").write_text("written")
    os.utime(root, ns=(1, 77))
    confined.remove_made()
    confined.close()
    assert sorted(os.listdir(root)) == ["a", "file", "kept", "new"]
    assert os.listdir(root / "new") == ["beside"]
    assert root.stat().st_mtime_ns == 77


def test_a_place_is_the_end_of_the_links(root: Path) -> None:
    (root / "link").symlink_to("a/not-yet")
    (root / "far").symlink_to("/x/y")
    confined = Confined(str(root))
    directory, name = confined.place("/link")
    assert (where(directory), name) == (str(root / "a"), b"not-yet")
    directory, name = confined.place("far")
    assert (where(directory), name) == (str(root / "x"), b"y")
    for path in ("/", "a/..", ""):
        with pytest.raises(FileNotFoundError):
            confined.place(path)
    confined.remove_made()
    assert not (root / "x").exists()
    confined.close()


def test_a_link_made_meanwhile_is_not_followed_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at a directory and opening it somebody puts a link to the outside there."""
    confined = Confined(str(root))
    real = os.stat

    def swap(path: object, *args: object, **options: object) -> os.stat_result:
        found = real(path, *args, **options)  # type: ignore[arg-type]  # the same arguments
        if path == b"a" and not (root / "a").is_symlink():
            (root / "a").rename(root / "moved")
            (root / "a").symlink_to("..")
        return found

    monkeypatch.setattr(os, "stat", swap)
    with pytest.raises(OSError):
        confined.open("a/secret")
    confined.close()
