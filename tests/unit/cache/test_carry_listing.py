"""Listings as bytes, and what a hostile registry can make of them: nothing but an error."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cache.carry import record
from engine.cache.carry.listing import MOST_PACK, Chunk, Listing, decode, encode
from engine.cache.carry.record import Origin, Record
from engine.errors import ContentError
from engine.layer.entries import Entry

names = st.binary(min_size=1, max_size=6).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))


def digest(n: int) -> bytes:
    return hashlib.sha256(b"%d" % n).digest()


@st.composite
def listings(draw: st.DrawFn) -> Listing:
    """Trees of files, directories and links, whose chunks lie in three packs."""
    table = tuple(Chunk(digest(n), draw(st.integers(1, 1 << 20)), draw(st.integers(0, 2)), draw(st.integers(0, 1 << 20)))
                  for n in range(draw(st.integers(1, 5))))  # fmt: skip
    rows: dict[bytes, tuple[Entry, tuple[int, ...]]] = {b"": (Entry(b"", "dir", 0o755), ())}
    for name in draw(st.sets(names, max_size=8)):
        parents = [path for path, (entry, _) in rows.items() if entry.kind == "dir"]
        above = draw(st.sampled_from(sorted(parents)))
        path = above + b"/" + name if above else name
        kind = draw(st.sampled_from(["file", "dir", "symlink"]))
        mode, owner = draw(st.integers(0, 0o7777)), draw(st.integers(0, 1 << 31))
        chunks = tuple(draw(st.lists(st.integers(0, len(table) - 1), max_size=3))) if kind == "file" else ()
        entry = Entry(path, kind, mode, owner, 7, sum(table[n].size for n in chunks), draw(st.integers(-(1 << 60), 1 << 60)),
                      b"../x" if kind == "symlink" else b"", xattrs=(("user.a", b"\0b"),) if kind == "file" else ())
        rows[path] = entry, chunks
    rows = {path: rows[path] for path in sorted(rows)}
    return Listing(tuple(entry for entry, _ in rows.values()), tuple(chunks for _, chunks in rows.values()), table)


@given(listings())
def test_a_listing_survives_its_bytes(listing: Listing) -> None:
    data = encode(listing)
    assert decode(data, 3) == listing
    assert encode(decode(data, 3)) == data


@given(listings())
def test_a_record_survives_its_bytes(listing: Listing) -> None:
    before = Record(Origin("reg/a (b)", "sha256:x", 12.5), listing, [(n, -n) for n in range(len(listing.entries))])
    assert Record.from_bytes(before.to_bytes()) == before


@given(listings(), st.data())
@settings(max_examples=150)
def test_whatever_else_is_an_error_or_a_listing(listing: Listing, data: st.DataObject) -> None:
    raw = bytearray(encode(listing))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        if data.draw(st.booleans()):
            raw[at] = data.draw(st.integers(0, 255))
        else:
            del raw[at : at + data.draw(st.integers(1, 20))]
        if not raw:
            break
    try:
        found = decode(bytes(raw), 3)
    except ContentError:
        return
    assert all(b".." not in entry.path.split(b"/") and not entry.path.startswith(b"/") for entry in found.entries)


@given(st.binary(max_size=300))
def test_noise_is_no_listing_and_no_record(noise: bytes) -> None:
    with pytest.raises(ContentError):
        decode(b"aniko-mount 1\n" + noise, 1)
    with pytest.raises(ContentError):
        Record.from_bytes(b"aniko-mount-record 1\n" + noise)


ROOT = Entry(b"", "dir", 0o755)
CHUNK = Chunk(digest(0), 5, 0, 0)
FILE = Entry(b"f", "file", 0o644, size=5)


@pytest.mark.parametrize("entries", [
    [], [FILE], [FILE._replace(path=b"", size=5)],
    [ROOT, Entry(b"a/b", "dir")],
    [ROOT, Entry(b"a", "symlink", link=b"/etc"), FILE._replace(path=b"a/passwd")],
    [ROOT, Entry(b"a", "symlink", link=b"")],
    [ROOT, FILE._replace(path=b"../f")], [ROOT, FILE._replace(path=b"/f")], [ROOT, Entry(b"..", "dir")],
    [ROOT, FILE, FILE], [ROOT, FILE, FILE._replace(path=b"e")],
    [ROOT, Entry(b"a", "hardlink", link=b"/etc/shadow")], [ROOT, Entry(b"a", "hardlink", link=b"b"), FILE._replace(path=b"b")],
    [ROOT, Entry(b"a", "char", major=1, minor=3)], [ROOT, Entry(b"a", "fifo")], [ROOT, Entry(b"a", "whiteout")],
    [ROOT, FILE._replace(mode=0o100644)], [ROOT, FILE._replace(mode=-1)], [ROOT, FILE._replace(uid=-1)],
    [ROOT, FILE._replace(size=6)], [ROOT, FILE._replace(path=b"x" * 5000)],
])  # fmt: skip
def test_what_could_lead_elsewhere_is_refused(entries: list[Entry]) -> None:
    chunks = tuple((0,) if entry.kind == "file" else () for entry in entries)
    with pytest.raises(ContentError):
        decode(encode(Listing(tuple(entries), chunks, (CHUNK,))), 1)


@pytest.mark.parametrize("chunk", [CHUNK._replace(size=0), CHUNK._replace(pack=1), CHUNK._replace(offset=MOST_PACK),
                                   CHUNK._replace(size=1 << 30), CHUNK._replace(digest=b"short")])
def test_chunks_that_cannot_be_are_refused(chunk: Chunk) -> None:
    with pytest.raises(ContentError):
        decode(encode(Listing((ROOT, FILE._replace(size=chunk.size)), ((), (0,)), (chunk,))), 1)


def test_a_record_that_is_cut_short_is_none(tmp_path: Path) -> None:
    instance = tmp_path / "0"
    whole = Record(Origin("place", "sha256:x", 1.0), Listing((ROOT,), ((),), ()), [(1, 2)])
    assert record.load(instance) is None
    record.store(instance, whole)
    assert record.load(instance) == whole
    assert record.origin(instance) == whole.origin
    data = record.path_of(instance).read_bytes()
    for size in range(len(data)):
        record.path_of(instance).write_bytes(data[:size])
        assert record.load(instance) is None
