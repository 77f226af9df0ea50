"""The state of a root between two walks: however many look through it, they find the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.isolate.base import IdMap
from engine.layer.entries import Entry
from engine.snapshot import state

NAMES = [f"{one}/{two}/{three}" for one in "abc" for two in "xyz" for three in "123"]
ROOT = Entry(b"", "dir", 0o755)


@pytest.fixture(autouse=True)
def _small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_FEW", 1)


def build(directory: Path, most: int) -> int:
    return state.build_root(str(directory), [], str(directory / "indexes"), ROOT, IdMap("none"), most)


def compared(directory: Path, shares: int) -> tuple[set[bytes], set[bytes]]:
    """What has changed, and what is gone; from now on that is how it was."""
    changed: list[bytes] = []
    removed: list[bytes] = []
    for share in range(shares):
        more, less = state.compare(str(directory), share)
        changed += more
        removed += less
    assert len(set(changed)) == len(changed) and len(set(removed)) == len(removed)
    state.keep_state(str(directory))
    return set(changed), set(removed)


def touch(root: Path, path: str) -> None:
    """Has a file there, whatever is in the way."""
    place = root / path
    for above in [*reversed(place.relative_to(root).parents)][1:]:
        if not (root / above).is_dir() or (root / above).is_symlink():
            (root / above).unlink(missing_ok=True)
            (root / above).mkdir()
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.write_text("new")


def remove(root: Path, path: str) -> None:
    place = root / path
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    elif os.path.lexists(place):
        place.unlink()


def link(root: Path, path: str) -> None:
    """Has a symlink there, to a directory that is like others."""
    if os.path.lexists((root / path).parent) and (root / path).parent.is_dir():
        remove(root, path)
        (root / path).symlink_to("/".join([".."] * path.count("/") + ["a"]) or "a")


DO = {"touch": touch, "remove": remove, "link": link}
PATHS = st.sampled_from([*NAMES, *sorted({name[:3] for name in NAMES}), "a", "b", "c"])


@given(st.lists(st.lists(st.tuples(st.sampled_from(sorted(DO)), PATHS), max_size=6), max_size=3))
@settings(max_examples=60, deadline=None)
def test_several_find_what_one_finds(tmp_path_factory: pytest.TempPathFactory, steps: list[list[tuple[str, str]]]) -> None:
    work = tmp_path_factory.mktemp("state")
    one, many = work / "one", work / "many"
    one.mkdir()
    many.mkdir()
    for name in NAMES:
        (one / state.ROOT / name).mkdir(parents=True)
        (one / state.ROOT / name / "file").write_text("old")
    assert build(one, 1) == 1
    (many / state.ROOT).symlink_to(one / state.ROOT)
    shares = build(many, 3)
    assert shares == 3
    for step in steps:
        for what, path in step:
            DO[what](one / state.ROOT, path)
        changed, removed = compared(one, 1)
        assert compared(many, shares) == (changed, removed)
        assert all(os.path.lexists(bytes(one / state.ROOT) + b"/" + path) for path in changed)
        assert not any(os.path.lexists(bytes(one / state.ROOT) + b"/" + path) for path in removed)
        index = state.read_entries(str(one), sorted(changed), sorted(removed))
        assert changed <= {entry.path for entry in index.entries}
    assert compared(many, shares) == (set(), set())
    shutil.rmtree(work)


def test_what_is_told_of_a_change(tmp_path: Path) -> None:
    for name in NAMES:
        touch(tmp_path / state.ROOT, name) if (tmp_path / state.ROOT).is_dir() else (tmp_path / state.ROOT / name).mkdir(parents=True)
    shares = build(tmp_path, 2)
    assert shares == 2
    root = tmp_path / state.ROOT
    odd = os.fsencode(root) + b"/b/\xff"
    os.mkdir(odd)
    Path(os.fsdecode(odd), "new").write_text("x")
    os.link(Path(os.fsdecode(odd), "new"), root / "c/again")
    remove(root, "a/y")
    (root / "c/z/1").chmod(0o600)
    changed, removed = compared(tmp_path, shares)
    assert removed == {b"a/y"}
    assert {b"b", b"b/\xff", b"b/\xff/new", b"c", b"c/again", b"c/z/1", b"a"} == changed
    index = state.read_entries(str(tmp_path), sorted(changed), sorted(removed))
    kinds = {entry.path: (entry.kind, entry.link) for entry in index.entries}
    assert kinds[b"c/again"] == ("hardlink", b"b/\xff/new") and kinds[b"c/z"] == ("dir", b"")
    assert compared(tmp_path, shares) == (set(), set())
