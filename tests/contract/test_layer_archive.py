"""Archives that ADD extracts."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from engine.errors import CopyError
from engine.layer.archive import scan_archive
from engine.layer.entries import Change
from tests.contract.layer_files import folder, hardlink, member, symlink, tar

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}  # fmt: skip


@pytest.fixture
def scanned(tmp_path: Path):  # type: ignore[no-untyped-def]
    (tmp_path / "spool").mkdir()

    def scanned(data: bytes) -> list[Change] | None:
        (tmp_path / "any.name").write_bytes(data)
        return scan_archive(str(tmp_path / "any.name"), str(tmp_path / "spool"))

    return scanned


def content(change: Change) -> bytes:
    assert change.source is not None
    with open(change.source, "rb") as file:
        return os.pread(file.fileno(), change.entry.size, change.offset)


def brief(changes: list[Change]) -> list[tuple[str, str]]:
    return [(c.entry.kind, c.entry.path.decode()) for c in changes]


@pytest.mark.parametrize("kind", PACKERS)
def test_archives_are_known_by_their_content(scanned, tmp_path: Path, kind: str) -> None:  # type: ignore[no-untyped-def]
    data = os.urandom(300_000)
    changes = scanned(PACKERS[kind](tar(folder("d", 0o750, uid=9, mtime=7), member("d/a", data=b"a\n"), member("big", data=data, gid=5))))
    assert brief(changes) == [("dir", "d"), ("file", "d/a"), ("file", "big")]
    assert [content(c) for c in changes[1:]] == [b"a\n", data]
    assert (changes[0].entry.mode, changes[0].entry.uid, changes[0].entry.mtime, changes[2].entry.gid) == (0o750, 9, 7 * 10**9, 5)
    assert len(os.listdir(tmp_path / "spool")) == (0 if kind == "none" else 1)


NO_ARCHIVES = {
    "nothing": b"", "text": b"text", "long text": b"x" * 2000, "a tar of nothing": bytes(10240), "gzipped text": gzip.compress(b"zipped"),
    "gzipped nothing": gzip.compress(b""), "broken gzip": b"\x1f\x8b\x08broken", "xz of text": lzma.compress(b"x"),
    "broken bzip2": b"BZh9garbage", "a gzipped tar of nothing": gzip.compress(bytes(10240)),
}  # fmt: skip


@pytest.mark.parametrize("data", NO_ARCHIVES.values(), ids=NO_ARCHIVES.keys())
def test_what_is_no_archive_is_told(scanned, tmp_path: Path, data: bytes) -> None:  # type: ignore[no-untyped-def]
    assert scanned(data) is None
    assert os.listdir(tmp_path / "spool") == []


@pytest.mark.parametrize("kind", PACKERS)
def test_an_archive_that_is_cut_short_is_an_error(scanned, tmp_path: Path, kind: str) -> None:  # type: ignore[no-untyped-def]
    whole = PACKERS[kind](tar(member("r", data=os.urandom(900_000)), member("s", data=os.urandom(900_000))))
    with pytest.raises(CopyError, match=r"cannot extract any\.name"):
        scanned(whole[: len(whole) - 20_000])
    assert os.listdir(tmp_path / "spool") == []


def test_names_that_look_like_whiteouts_are(scanned) -> None:  # type: ignore[no-untyped-def]
    changes = scanned(tar(member("new"), member(".wh.a"), member("d/.wh..wh..opq"), member("d/e"), member(".whatever")))
    assert brief(changes) == [("file", "new"), ("whiteout", "a"), ("opaque", "d"), ("file", "d/e"), ("file", ".whatever")]


def test_odd_names_come_out_clean_and_in_order(scanned) -> None:  # type: ignore[no-untyped-def]
    changes = scanned(tar(folder("./", 0o700), member("./twice", data=b"1"), member("/abs"), member("d/../beside"), member("twice", data=b"22"),
                          symlink("up", "../../etc"), hardlink("h", "./twice"), member("a//b")))  # fmt: skip
    assert brief(changes) == [("file", "twice"), ("file", "abs"), ("file", "beside"), ("file", "twice"), ("symlink", "up"),
                              ("hardlink", "h"), ("file", "a/b")]  # fmt: skip
    assert (changes[4].entry.link, changes[5].entry.link) == (b"../../etc", b"twice")
    assert [content(c) for c in changes if c.entry.path == b"twice"] == [b"1", b"22"]


@pytest.mark.parametrize("climbing", [member("../x"), member("a/../../x"), hardlink("h", "../x")])
def test_what_climbs_out_is_an_error(scanned, climbing: tarfile.TarInfo) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CopyError, match="climbs out"):
        scanned(tar(member("ok"), climbing))


def test_only_capabilities_are_kept_of_attributes(scanned) -> None:  # type: ignore[no-untyped-def]
    changes = scanned(tar(member("f", pax_headers={"SCHILY.xattr.security.capability": "cap", "SCHILY.xattr.user.color": "blue"})))
    assert changes[0].entry.xattrs == (("security.capability", b"cap"),)


def test_nodes_are_kept(scanned) -> None:  # type: ignore[no-untyped-def]
    changes = scanned(tar(member("p", tarfile.FIFOTYPE), member("c", tarfile.CHRTYPE, devmajor=1, devminor=3), member("b", tarfile.BLKTYPE)))
    assert [(c.entry.kind, c.entry.major, c.entry.minor, c.source) for c in changes] == [
        ("fifo", 0, 0, None), ("char", 1, 3, None), ("block", 0, 0, None)]  # fmt: skip


@pytest.mark.parametrize("format", ["gnu", "pax", "posix", "oldgnu", "v7", "ustar"])
@pytest.mark.parametrize("sparse", [False, True])
def test_archives_of_gnu_tar_are_read(scanned, tmp_path: Path, format: str, sparse: bool) -> None:  # type: ignore[no-untyped-def]
    if sparse and format in ("v7", "ustar"):
        pytest.skip("has no sparse files")
    root = tmp_path / "t"
    (root / "d").mkdir(parents=True)
    long = "n" * (90 if format in ("v7", "ustar") else 180)
    (root / "d" / long).write_bytes(b"long")
    holes = b"".join(b"x" * 4096 + bytes(60 << 10) for _ in range(40)) + b"end"
    with open(root / "holes", "wb") as file:
        for at in range(0, len(holes), 4096):
            if holes[at : at + 4096].strip(b"\0"):
                file.seek(at)
                file.write(holes[at : at + 4096])
    versions = ["--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"] if sparse and format in ("pax", "posix") else [""]
    for version in versions:
        command = ["tar", "-C", str(root), f"--format={format}", *["-S"] * sparse, *filter(None, [version]), "-c", "holes", f"d/{long}", "d"]
        changes = scanned(subprocess.run(command, check=True, capture_output=True).stdout)
        assert [c.entry.path.decode() for c in changes] == ["holes", f"d/{long}", "d", f"d/{long}"]
        assert content(changes[0]) == holes
        assert content(changes[1]) == b"long"


def test_an_archive_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CopyError):
        scan_archive(str(tmp_path / "none"), str(tmp_path))
