"""Headers: what is written is what is read, by us and by the standard library."""

from __future__ import annotations

import io
import string
import tarfile
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import ContentError
from engine.layer.contents import Contents
from engine.layer.entries import Entry
from engine.layer.tarcodec import END, encode_header, header_encoder, padding
from engine.layer.tarstream import TarStream

SECOND = 10**9

components = st.one_of(
    st.text(string.ascii_letters + "._-", min_size=1, max_size=12).map(str.encode),
    st.binary(min_size=1, max_size=6).filter(lambda b: b"/" not in b and b"\0" not in b),
    st.integers(90, 260).map(lambda n: b"n" * n),
).filter(lambda c: c not in (b".", b"..") and not c.startswith(b".wh."))
paths = st.lists(components, min_size=1, max_size=5).map(b"/".join)
numbers = st.one_of(st.integers(0, 0o7777777), st.integers(0, 2**32 - 1))
times = st.one_of(st.integers(0, 2**33).map(lambda s: s * SECOND), st.integers(-(2**62), 2**62))
xattrs = st.dictionaries(st.sampled_from(["security.capability", "user.ü", "user.a"]), st.binary(min_size=1, max_size=40),
                         max_size=2).map(lambda d: tuple(sorted(d.items())))  # fmt: skip


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(["file", "dir", "symlink", "hardlink", "char", "block", "fifo", "whiteout", "opaque"]))
    path = draw(paths)
    if kind in ("whiteout", "opaque"):
        return Entry(path, kind, mtime=draw(times))
    link = b""
    if kind == "symlink":
        link = draw(st.one_of(paths, paths.map(lambda p: b"/" + p), st.just(b"../x")))
    elif kind == "hardlink":
        link = draw(paths.filter(lambda p: not (path + b"/").startswith(p + b"/")))
    nodes = (draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))) if kind in ("char", "block") else (0, 0)
    return Entry(path, kind, 0o777 if kind == "symlink" else draw(st.integers(0, 0o7777)), draw(numbers), draw(numbers),
                 draw(st.one_of(st.integers(0, 2000), st.just(9 << 30))) if kind == "file" else 0, draw(times), link, "", *nodes,
                 draw(xattrs))


def read(data: bytes) -> list[Entry]:
    """The entries of an archive, each as if it were alone."""
    pieces = iter([data])
    stream = TarStream(lambda: next(pieces, b""))
    out = []
    while member := stream.next():
        entry = Contents().entry(member)
        assert entry is not None
        out.append(entry)
        if entry.size > 1 << 20:
            break  # the content is not there
    return out


@settings(deadline=None)
@given(entries())
@example(Entry(b"a" * 100, "file", mtime=SECOND))
@example(Entry(b"a" * 101, "file", mtime=SECOND))
@example(Entry(b"p" * 155 + b"/" + b"n" * 100, "file"))
@example(Entry(b"p" * 156 + b"/" + b"n" * 99, "dir"))
@example(Entry(b"", "dir", 0o751, 3, 4))
@example(Entry(b"", "opaque"))
@example(Entry(b"big", "file", size=8 << 30))
def test_what_is_written_is_read_again(entry: Entry) -> None:
    header = encode_header(entry)
    assert len(header) % 512 == 0
    content = bytes(entry.size) + padding(entry.size) if entry.size < 1 << 20 else bytes(1 << 20)
    assert read(header + content + END) == [entry]


@settings(deadline=None)
@given(entries())
@example(Entry(b"f" * 100, "file", 0o4755, 1, 2, 3, 4 * SECOND))
@example(Entry(b"d" * 99, "dir", 0o4755, 1, 2, 0, 4 * SECOND))
def test_the_fast_encoder_writes_the_same(entry: Entry) -> None:
    encode = header_encoder()
    assert encode(entry) == encode(entry) == encode_header(entry)


@settings(deadline=None)
@given(st.lists(entries().filter(lambda e: e.size < 1 << 20), max_size=8))
def test_the_standard_library_reads_the_same(written: Sequence[Entry]) -> None:
    data = b"".join(encode_header(e) + bytes(e.size) + padding(e.size) for e in written) + END
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as archive:
        members = archive.getmembers()
    assert len(members) == len(written)
    for entry, member in zip(written, members, strict=True):
        assert (member.uid, member.gid, member.size) == (entry.uid, entry.gid, entry.size)
        assert (member.uname, member.gname) == ("", "")
        assert member.mtime == pytest.approx(entry.mtime / SECOND, abs=1e-3, rel=1e-12)
        if entry.kind not in ("whiteout", "opaque"):
            assert member.name.encode("utf-8", "surrogateescape") == entry.path
            assert member.mode == entry.mode
            assert member.linkname.encode("utf-8", "surrogateescape") == entry.link
            assert (member.isreg(), member.isdir(), member.issym(), member.islnk(), member.ischr(), member.isblk(), member.isfifo()) \
                == tuple(entry.kind == k for k in ("file", "dir", "symlink", "hardlink", "char", "block", "fifo"))
        for name, value in entry.xattrs:
            assert member.pax_headers[f"SCHILY.xattr.{name}"].encode("utf-8", "surrogateescape") == value


def test_removals_are_empty_files_with_reserved_names() -> None:
    data = b"".join(map(encode_header, [Entry(b"a/b", "whiteout"), Entry(b"c", "whiteout"), Entry(b"d/e", "opaque"),
                                        Entry(b"", "opaque")]))  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(data + END)) as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == ["a/.wh.b", ".wh.c", "d/e/.wh..wh..opq", ".wh..wh..opq"]
    assert all(m.isreg() and m.size == 0 for m in members)


def test_a_folder_ends_in_a_slash_and_a_hard_link_has_no_leading_one() -> None:
    assert encode_header(Entry(b"a/b", "dir"))[:6] == b"a/b/\0\0"
    assert encode_header(Entry(b"", "dir"))[:4] == b"./\0\0"
    assert encode_header(Entry(b"x", "hardlink", link=b"a/b"))[157:162] == b"a/b\0\0"


def test_plain_names_need_one_block() -> None:
    assert len(encode_header(Entry(b"p" * 155 + b"/" + b"n" * 100, "file", 0o644, 0, 0, 10, 5 * SECOND))) == 512
    assert len(encode_header(Entry("ü".encode(), "file"))) == 512 * 3


@pytest.mark.parametrize("entry", [
    Entry(b"a\0b", "file"), Entry(b"a", "symlink", link=b"x\0"), Entry(b"a", "char", major=1 << 22), Entry(b"a", "file", uid=-1),
    Entry(b"a", "file", xattrs=(("user.a=b", b"x"),)),
])  # fmt: skip
def test_what_no_tar_can_hold_is_refused(entry: Entry) -> None:
    with pytest.raises(ContentError):
        encode_header(entry)
