"""The store of digests: what it knows again, what it does not trust, and what it survives."""

from __future__ import annotations

import hashlib
import multiprocessing
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.context.digests import COARSE_SLACK, FINE_SLACK, Digests, DigestStore, FileKey

NOW = 1_700_000_000_123_456_789
DAY = 86400 * 10**9
OLD = NOW - 3600 * 10**9
DIGEST = hashlib.sha256(b"x").digest()


def key(inode: int = 1, *, device: int = 64769, size: int = 5, mtime: int = OLD, ctime: int = OLD) -> FileKey:
    return FileKey(device, inode, size, mtime, ctime)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    return DigestStore(tmp_path / "state" / "digests.sqlite", clock)


def test_a_file_is_known_again_in_another_store_on_the_same_file(store, tmp_path, clock):
    store.store([(key(), DIGEST)], NOW)
    assert DigestStore(tmp_path / "state" / "digests.sqlite", clock).lookup([key(2), key()]) == [None, DIGEST]


@pytest.mark.parametrize("change", [{"device": 1}, {"size": 6}, {"mtime": OLD + 1}, {"ctime": OLD + 1}, {"inode": 2}])
def test_a_file_that_differs_in_anything_is_another(store, change):
    store.store([(key(), DIGEST)], NOW)
    assert store.lookup([key(**change)]) == [None]


def test_a_changed_file_takes_the_place_of_its_earlier_state(store):
    other = hashlib.sha256(b"y").digest()
    store.store([(key(), DIGEST)], NOW)
    store.store([(key(mtime=OLD + 5, ctime=OLD + 5), other)], NOW)
    assert store.lookup([key(), key(mtime=OLD + 5, ctime=OLD + 5)]) == [None, other]


@pytest.mark.parametrize(("ctime", "kept"), [
    (NOW, False), (NOW - FINE_SLACK, False), (NOW - FINE_SLACK - 1, True), (NOW + 10, False),
    ((NOW - COARSE_SLACK) // 10**9 * 10**9 + 10**9, False), ((NOW - COARSE_SLACK) // 10**9 * 10**9, True),
])
def test_files_that_changed_just_before_they_were_hashed_are_not_kept(store, ctime, kept):
    store.store([(key(ctime=ctime), DIGEST)], NOW)
    assert store.lookup([key(ctime=ctime)]) == [DIGEST if kept else None]


def test_a_time_of_modification_in_the_future_does_not_matter(store):
    store.store([(key(mtime=NOW * 2), DIGEST)], NOW)
    assert store.lookup([key(mtime=NOW * 2)]) == [DIGEST]


def test_what_is_not_asked_for_in_a_long_time_goes(store, clock):
    store.store([(key(1), DIGEST), (key(2), DIGEST)], NOW)
    clock.now += 40 * DAY
    assert store.lookup([key(1)]) == [DIGEST]
    clock.now += 40 * DAY
    store.store([(key(3), DIGEST)], clock.now)
    assert store.lookup([key(1), key(2), key(3)]) == [DIGEST, None, DIGEST]


@pytest.mark.parametrize("garbage", [b"not a database at all, but long enough to be looked at" * 100,
b"SQLite format 3\0" + b"\xff" * 5000, b"x"])
def test_a_corrupt_file_is_begun_anew(store, tmp_path, garbage):
    path = tmp_path / "state" / "digests.sqlite"
    path.parent.mkdir()
    path.write_bytes(garbage)
    assert store.lookup([key()]) == [None]
    store.store([(key(), DIGEST)], NOW)
    assert store.lookup([key()]) == [DIGEST]


def test_a_database_that_breaks_in_the_middle_is_begun_anew(store, tmp_path):
    store.store([(key(i), DIGEST) for i in range(5000)], NOW)
    path = tmp_path / "state" / "digests.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    assert store.lookup([key(i) for i in range(5000)]) == [None] * 5000
    store.store([(key(), DIGEST)], NOW)
    assert store.lookup([key()]) == [DIGEST]


def test_a_database_of_another_version_is_begun_anew(store, tmp_path):
    store.store([(key(), DIGEST)], NOW)
    with sqlite3.connect(tmp_path / "state" / "digests.sqlite") as connection:
        connection.execute("pragma user_version = 99")
    connection.close()
    assert store.lookup([key()]) == [None]


def test_a_place_that_cannot_be_written_means_nothing_is_known(tmp_path, clock):
    (tmp_path / "file").touch()
    store = DigestStore(tmp_path / "file" / "digests.sqlite", clock)
    store.store([(key(), DIGEST)], NOW)
    assert store.lookup([key()]) == [None]


def _fill(path: str, first: int) -> None:
    store = DigestStore(Path(path), Clock())
    for i in range(first, first + 200, 20):
        store.store([(key(n), DIGEST) for n in range(i, i + 20)], NOW)


def test_several_processes_may_write_at_once(tmp_path, store):
    path = str(tmp_path / "state" / "digests.sqlite")
    processes = [multiprocessing.get_context("fork").Process(target=_fill, args=(path, first)) for first in (0, 200, 400)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert store.lookup([key(n) for n in range(600)]) == [DIGEST] * 600


big = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize("ago", [0, COARSE_SLACK + 1])
def test_columns_are_stored_as_pairs_are(tmp_path, clock, ago):
    keys = [key(n, ctime=NOW - ago - n, mtime=-n) for n in range(5)] + [key(1 << 63, ctime=NOW - ago), key(7, device=1 << 63)]
    digests = Digests()
    for n, each in enumerate(keys):
        digests.add(each, bytes([n]) * 32)
    assert list(digests.pairs()) == [(each, bytes([n]) * 32) for n, each in enumerate(keys)]
    one, two = DigestStore(tmp_path / "one", clock), DigestStore(tmp_path / "two", clock)
    one.store(digests.pairs(), NOW)
    two.store_all(digests, NOW)
    assert two.lookup(keys) == one.lookup(keys)
    assert any(two.lookup(keys))


def test_what_follows_from_a_fingerprint_is_remembered_for_a_while(store, clock):
    assert store.recall(b"f" * 32) is None
    store.remember(b"f" * 32, b"d" * 32)
    assert (store.recall(b"f" * 32), store.recall(b"g" * 32)) == (b"d" * 32, None)
    clock.now += 50 * DAY
    assert store.recall(b"f" * 32) == b"d" * 32
    clock.now += 50 * DAY
    store.remember(b"g" * 32, b"e" * 32)
    assert store.recall(b"f" * 32) == b"d" * 32, "what is used stays"
    clock.now += 70 * DAY
    store.remember(b"h" * 32, b"e" * 32)
    assert store.recall(b"f" * 32) is None


@given(keys=st.lists(st.builds(FileKey, big, big, st.integers(0, 2**62), st.integers(-10**18, 10**18), st.just(OLD)),
                     unique_by=lambda k: k[:2], max_size=20))
def test_any_numbers_survive(tmp_path_factory, keys):
    store = DigestStore(tmp_path_factory.mktemp("digests") / "d.sqlite", Clock())
    digests = [hashlib.sha256(repr(k).encode()).digest() for k in keys]
    store.store(zip(keys, digests, strict=True), NOW)
    assert store.lookup(keys) == digests
