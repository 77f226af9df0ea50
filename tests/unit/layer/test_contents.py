"""Names to paths, and later members over earlier ones."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ContentError
from engine.layer.contents import Contents, clean
from engine.layer.entries import Entry
from engine.layer.scan import Unpacked, scan
from engine.layer.tarstream import Member

Item = tuple[str, str] | tuple[str, str, str]


@pytest.fixture
def scanned(tmp_path: Path):  # type: ignore[no-untyped-def]
    def scanned(*items: Item) -> Unpacked:
        path = tmp_path / "layer.tar"
        path.write_bytes(tar(items))
        return scan(str(path))

    return scanned


def tar(items: Iterable[Item]) -> bytes:
    """An archive of (kind, name) or (kind, name, text), where the text is content or target."""
    types = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "s": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "p": tarfile.FIFOTYPE}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for kind, name, *text in items:
            member = tarfile.TarInfo(name)
            member.type, member.size = types[kind], len(text[0]) if kind == "f" and text else 0
            member.linkname = text[0] if kind in "sh" and text else ""
            out.addfile(member, io.BytesIO(text[0].encode() if text else b""))
    return buffer.getvalue()


def brief(unpacked: Unpacked) -> list[tuple[str, ...]]:
    return [(e.kind, e.path.decode(), *filter(None, [e.link.decode() or "x" * e.size])) for e in unpacked.entries]


@pytest.mark.parametrize(("name", "want"), [
    (b"a/b", b"a/b"), (b"./a", b"a"), (b"./", b""), (b".", b""), (b"/", b""), (b"a//b/", b"a/b"), (b"/a", b"a"), (b"a/./b", b"a/b"),
    (b"a/../b", b"b"), (b"/../../a", b"a"), (b"a/b/../../c", b"c"), (b"..a/.b", b"..a/.b"), (b"././a", b"a"), (b"a/.", b"a"),
])  # fmt: skip
def test_names_become_paths(name: bytes, want: bytes) -> None:
    assert clean(name) == want


@pytest.mark.parametrize("name", [b"..", b"../a", b"a/../..", b"./../a", b"a/../../b", b"a/../../a/b"])
def test_names_that_climb_out_are_refused(name: bytes) -> None:
    with pytest.raises(ContentError, match="climbs out"):
        clean(name)


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"..", b".", b"", b"b.", b"...", b".wh"]), max_size=6).map(b"/".join))
def test_a_path_has_no_special_components(name: bytes) -> None:
    try:
        path = clean(name)
    except ContentError:
        assert b".." in name.split(b"/")
        return
    assert path == b"" or not {b"", b".", b".."} & set(path.split(b"/"))
    assert clean(path) == path


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"b", b"..", b".", b"", b"b.", b"..."]), max_size=6).map(b"/".join))
def test_a_name_means_the_same_where_its_directories_are_known(name: bytes) -> None:
    contents = Contents()
    for path in (b"a", b"a/b", b"a/b/a", b"b"):
        contents.add(Entry(path, "dir"))
    member = Member(name, ord("5"), 0o755, 0, 0, 0, 0, b"", 0, 0, (), 0, 0)
    try:
        wanted = clean(name)
    except ContentError:
        with pytest.raises(ContentError, match="climbs out"):
            contents.entry(member)
        return
    entry = contents.entry(member)
    assert entry is not None and entry.path == wanted


def test_the_last_of_several_wins(scanned) -> None:  # type: ignore[no-untyped-def]
    assert brief(scanned(("f", "a", "one"), ("f", "b"), ("f", "a", "x"))) == [("file", "b"), ("file", "a", "x")]


def test_a_folder_after_its_files_keeps_them(scanned) -> None:  # type: ignore[no-untyped-def]
    found = scanned(("f", "d/late"), ("d", "d"))
    assert brief(found) == [("file", "d/late"), ("dir", "d")]
    assert found.implicit == ()


def test_a_file_over_a_folder_removes_what_is_in_it(scanned) -> None:  # type: ignore[no-untyped-def]
    found = scanned(("d", "d"), ("f", "d/x"), ("f", "d/y/z"), ("f", "e"), ("f", "d"))
    assert brief(found) == [("file", "e"), ("file", "d")]
    assert found.implicit == ()


def test_folders_without_a_member_are_told(scanned) -> None:  # type: ignore[no-untyped-def]
    assert scanned(("f", "a/b/c"), ("d", "a"), ("f", "x/y/.wh.z")).implicit == (b"a/b", b"x", b"x/y")


def test_a_hard_link_to_a_hard_link_is_one_to_the_file(scanned) -> None:  # type: ignore[no-untyped-def]
    assert brief(scanned(("f", "a", "1"), ("h", "b", "./a"), ("h", "c", "/b"))) == [
        ("file", "a", "x"), ("hardlink", "b", "a"), ("hardlink", "c", "a")]  # fmt: skip


def test_when_a_linked_file_is_replaced_its_next_name_has_the_content(scanned) -> None:  # type: ignore[no-untyped-def]
    found = scanned(("f", "a", "12"), ("h", "b", "a"), ("h", "c", "a"), ("f", "a", "1"))
    assert brief(found) == [("file", "b", "xx"), ("hardlink", "c", "b"), ("file", "a", "x")]


def test_a_link_to_what_is_not_here_is_foreign(scanned) -> None:  # type: ignore[no-untyped-def]
    found = scanned(("h", "b", "lower/a"), ("f", "c"), ("h", "d", "c"))
    assert [e.path for e in found.foreign_links] == [b"b"]


def test_a_link_to_itself_means_nothing(scanned) -> None:  # type: ignore[no-untyped-def]
    assert brief(scanned(("f", "a", "1"), ("h", "a", "a"))) == [("file", "a", "x")]


def test_files_behind_a_link_of_the_archive_lie_where_it_leads(scanned) -> None:  # type: ignore[no-untyped-def]
    found = scanned(("d", "run"), ("s", "var/run", "/run"), ("f", "var/run/pid"), ("h", "copy", "var/run/pid"))
    assert brief(found)[2:] == [("file", "run/pid"), ("hardlink", "copy", "run/pid")]


def test_links_cannot_lead_out(scanned) -> None:  # type: ignore[no-untyped-def]
    found = scanned(("s", "up", "../../../etc"), ("s", "abs", "/etc"), ("f", "up/a"), ("f", "abs/b"))
    assert brief(found)[2:] == [("file", "etc/a"), ("file", "etc/b")]


def test_whiteouts_come_first_and_their_names_are_not_files(scanned) -> None:  # type: ignore[no-untyped-def]
    found = scanned(("f", "new"), ("f", ".wh.a"), ("f", "d/.wh..wh..opq"), ("f", "d/e"), ("f", ".whatever"), ("f", ".wh..wh.plnk"))
    assert brief(found) == [("whiteout", "a"), ("opaque", "d"), ("file", "new"), ("file", "d/e"), ("file", ".whatever")]


def test_consulted_files_are_kept(scanned) -> None:  # type: ignore[no-untyped-def]
    found = scanned(("f", "etc/passwd", "old"), ("f", "./etc/passwd", "root"), ("f", "etc/group", "x" * (1 << 20)), ("f", "other", "o"))
    assert found.index.files == {b"etc/passwd": b"root", b"etc/group": b"x" * (1 << 20)}
    assert scanned(("f", "etc/passwd", "root"), ("s", "etc/passwd", "x")).index.files == {}
    assert scanned(("f", "etc/passwd", "x" * (1 << 20 | 1))).index.files == {}


@pytest.mark.parametrize("items", [
    [("f", "../x")],
    [("h", "a", "../../x")],
    [("f", "a"), ("f", "a/b")],
    [("d", "a"), ("h", "b", "a")],
    [("s", "a", "a"), ("f", "a/b")],
    [("s", "a", "b"), ("s", "b", "a"), ("f", "a/x")],
    [("f", ".wh.")],
    [("f", "d/.wh..")],
    [("f", "d/.wh...")],
    [("f", "./")],
    [("s", "a", "")],
], ids=str)  # fmt: skip
def test_what_makes_no_sense_is_refused(scanned, items: list[Item]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ContentError):
        scanned(*items)


def test_an_archive_that_replaces_folders_without_end_is_refused(scanned, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("engine.layer.contents._MOST_WORK", 10_000)
    files = [("f", f"x{i}") for i in range(200)]
    scanned(*files, *([("d", "d"), ("f", "d")] * 40))
    with pytest.raises(ContentError, match="too many"):
        scanned(*files, *([("d", "d"), ("f", "d")] * 60))


def test_digests_are_there_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "layer.tar").write_bytes(tar([("f", "a", "abc"), ("f", "e"), ("d", "d")]))
    entries = {e.path: e for e in scan(str(tmp_path / "layer.tar"), hash_files=True).entries}
    assert entries[b"a"].digest == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    assert entries[b"e"].digest == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert entries[b"d"] == Entry(b"d", "dir", 0o644)


def test_the_diff_id_is_of_all_the_bytes_and_is_verified(tmp_path: Path) -> None:
    import hashlib

    data = tar([("f", "a", "abc")]) + b"more"
    path = tmp_path / "layer.tar"
    path.write_bytes(data)
    for algorithm in ("sha256", "sha512"):
        right = hashlib.new(algorithm, data).hexdigest()
        found = scan(str(path), f"{algorithm}:{right}")
        assert (found.diff_id, found.tar_size) == (right, len(data))
        with pytest.raises(ContentError, match="its image says"):
            scan(str(path), f"{algorithm}:{right[::-1]}", str(tmp_path / "indexes"))
    assert not (tmp_path / "indexes").exists()
