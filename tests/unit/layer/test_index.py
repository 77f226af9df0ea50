"""Indexes as bytes, and their store."""

from __future__ import annotations

import gc
import pickle
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ContentError, StorageError
from engine.image.digest import Digest
from engine.layer.columns import Columns, decode, encode
from engine.layer.entries import Entry
from engine.layer.index import Index, IndexStore, collector_paused
from tests.unit.layer.test_tarcodec import entries as any_entries

digests = st.sampled_from(["", "ab" * 32, "00" * 32])
entries = st.tuples(any_entries(), digests).map(lambda pair: pair[0]._replace(digest=pair[1]))
files = st.dictionaries(st.sampled_from([b"etc/passwd", b"etc/group"]), st.binary(max_size=50))
SOME = Index([Entry(b"a", "file", digest="ab" * 32), Entry(b"b", "char", major=1, xattrs=(("user.a", b"\0"),))], {b"etc/passwd": b"x"})


@settings(deadline=None)
@given(st.lists(entries, max_size=6), files)
def test_what_is_encoded_is_decoded(some: list[Entry], contents: dict[bytes, bytes]) -> None:
    data = encode(Columns.of(some), contents)
    assert tuple(decode(data)[0].entries()) == tuple(some)
    again = Index.from_bytes(data)
    assert again == Index(some, contents) == pickle.loads(pickle.dumps(again))
    assert (again.files, again.to_bytes(), hash(again)) == (contents, data, hash(Index(some, contents)))
    assert all(type(entry) is Entry for entry in again.entries)


@settings(deadline=None)
@given(st.integers(0, len(SOME.to_bytes()) - 1), st.integers(1, 255))
def test_any_damage_is_noticed(at: int, change: int) -> None:
    data = bytearray(SOME.to_bytes())
    data[at] ^= change
    with pytest.raises(ContentError):
        Index.from_bytes(bytes(data))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_forged_index_is_a_content_error_or_a_proper_one(data: st.DataObject) -> None:
    raw = bytearray(SOME.to_bytes())
    start = len(b"aniko-index 2\n") + 4
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(start, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(start, len(raw))) :]
    raw[start - 4 : start] = zlib.crc32(raw[start:]).to_bytes(4, "little")
    index = Index.from_bytes(bytes(raw))
    try:
        for entry in index.entries:
            assert not {b"", b".", b".."} & set(entry.path.split(b"/")) or entry.path == b""
    except ContentError:
        pass


@pytest.mark.parametrize("path", [b"..", b"../a", b"a/..", b"a/../b", b"/a", b"a/", b"a//b", b".", b"./a", b"a/./b", b"a/."])
def test_paths_that_lead_elsewhere_are_refused(path: bytes) -> None:
    with pytest.raises(ContentError):
        decode(encode(Columns.of([Entry(b"ok", "file"), Entry(path, "file"), Entry(b"", "dir")])))


def test_another_version_is_refused() -> None:
    with pytest.raises(ContentError):
        Index.from_bytes(SOME.to_bytes().replace(b"index 2", b"index 1"))
    with pytest.raises(ContentError):
        Index.from_bytes(b"")


DIFF_ID = Digest("sha256", "ab" * 32)


def test_the_store_gives_back_what_was_put(tmp_path: Path) -> None:
    store = IndexStore(tmp_path / "indexes")
    assert store.get(DIFF_ID) is None
    store.put(DIFF_ID, SOME)
    store.put(DIFF_ID, SOME)
    assert IndexStore(tmp_path / "indexes").get(DIFF_ID) == SOME
    assert [p.name for p in store.path(DIFF_ID).parent.iterdir()] == [DIFF_ID.hex]


def test_a_corrupt_index_counts_as_absent(tmp_path: Path) -> None:
    store = IndexStore(tmp_path)
    store.put(DIFF_ID, SOME)
    store.path(DIFF_ID).write_bytes(SOME.to_bytes()[:-1])
    assert store.get(DIFF_ID) is None
    assert not store.path(DIFF_ID).exists()


def test_a_store_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        IndexStore(tmp_path / "file").put(DIFF_ID, SOME)


def test_what_was_made_while_the_collector_paused_is_not_looked_through_when_it_is_over() -> None:
    looks: list[str] = []

    def look(phase: str, _info: dict[str, int]) -> None:
        looks.append(phase)

    gc.collect()
    gc.callbacks.append(look)
    try:
        with collector_paused():
            cycle: list[object] = []
            cycle.append(cycle)
            made = [(number, [number]) for number in range(100_000)]
        more = [[number] for number in range(100)]
        assert looks == []
        assert (len(made), len(more), gc.isenabled(), gc.get_freeze_count()) == (100_000, 100, True, 0)
        del cycle, made
        assert gc.collect() >= 1  # what is old is not lost
    finally:
        gc.callbacks.remove(look)


@pytest.mark.parametrize("mode", [0o10000, 1 << 40, -1])
def test_a_mode_that_is_none_is_refused(mode: int) -> None:
    with pytest.raises(ContentError, match="a mode that is none"):
        decode(encode(Columns.of([Entry(b"a", "file", mode)])))
