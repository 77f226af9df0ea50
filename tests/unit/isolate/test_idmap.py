"""Which ids a user may map."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.isolate import idmap
from engine.isolate.base import FileMount, IdMap, OverlayRoot, RunSpec
from engine.isolate.process import unmapped


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(idmap, "_which", lambda program: f"/usr/bin/{program}")
    return tmp_path


def test_the_own_id_and_all_subordinate_ranges_one_after_the_other(etc: Path) -> None:
    (etc / "subuid").write_text("other:1:5\nanna:100000:1000\n# anna:7:7\n1001:500000:24\nanna:x:1\n")
    (etc / "subgid").write_text("anna:200000:2000\n")
    maps = idmap.subordinate(1001, 1002, "anna", etc=str(etc))
    assert isinstance(maps, idmap.Maps)
    assert maps.uids == ((0, 1001, 1), (1, 100000, 1000), (1001, 500000, 24))
    assert maps.gids == ((0, 1002, 1), (1, 200000, 2000))
    assert maps.count == 1025


@pytest.mark.parametrize(("name", "why"), [("subuid", "subgid has no line for anna"), ("subgid", "subuid has no line for anna")])
def test_a_missing_line_is_said(etc: Path, name: str, why: str) -> None:
    (etc / name).write_text("anna:100000:1000\n")
    assert idmap.subordinate(1001, 1001, "anna", etc=str(etc)) == f"{etc}/{why}"


def test_a_missing_program_is_said(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("subuid", "subgid"):
        (etc / name).write_text("anna:100000:1000\n")
    monkeypatch.setattr(idmap, "_which", lambda program: None)
    said = idmap.subordinate(1001, 1001, "anna", etc=str(etc))
    assert said == "newuidmap is not installed (Debian: apt install uidmap)"


def test_identity_is_what_this_process_has() -> None:
    maps = idmap.identity()
    assert all(inside == outside for inside, outside, _ in (*maps.uids, *maps.gids))
    assert maps.count >= 1
    assert idmap.single(7, 8) == idmap.Maps(((0, 7, 1),), ((0, 8, 1),), "direct")


def spec(**options: object) -> RunSpec:
    return RunSpec(OverlayRoot(()), ("true",), (), "/", **options)  # type: ignore[arg-type]  # named by the tests


@pytest.mark.parametrize(("wanted", "ids", "why"), [
    (spec(uid=1000), IdMap("identity"), None),
    (spec(uid=1000, gid=65536), IdMap("subids", 65537), None),
    (spec(uid=70000), IdMap("subids", 65537), "this step needs uid 70000, but only ids 0 to 65536 can be mapped for this user"),
    (spec(gid=1000), IdMap("single"), "this step needs gid 1000, but only one id can be mapped for this user"),
    (spec(groups=(0, 5)), IdMap("single"), "this step needs gid 5, but only one id can be mapped for this user"),
    (spec(mounts=(FileMount("/s", b"", uid=3),)), IdMap("single"),
     "this step needs uid 3, but only one id can be mapped for this user"),
    (spec(groups=(0,)), IdMap("single"), None),
])
def test_a_step_that_needs_an_id_nobody_has(wanted: RunSpec, ids: IdMap, why: str | None) -> None:
    assert unmapped(wanted, ids) == why
