"""The store of digests: what it knows again, what it does not trust, and what it survives."""

from __future__ import annotations

import hashlib
import multiprocessing
import sqlite3
from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.context.digests import DigestStore
from engine.context.filekeys import COARSE_SLACK, FINE_SLACK, DirectoryFiles, FileKey

NOW = 1_700_000_000_123_456_789
DAY = 86400 * 10**9
OLD = NOW - 3600 * 10**9
DIGEST = hashlib.sha256(b"x").digest()


def key(inode: int = 1, *, device: int = 64769, size: int = 5, mtime: int = OLD, ctime: int = OLD) -> FileKey:
    return FileKey(device, inode, size, mtime, ctime)


def columns(keys: Sequence[FileKey], digests: Sequence[bytes] = (), directory: tuple[int, int] = (64769, 77)) -> DirectoryFiles:
    numbers = [number & (1 << 64) - 1 for column in zip(*keys, strict=True) for number in column]
    return DirectoryFiles(*directory, array("Q", numbers).tobytes(), b"".join(digests))


def keep(store: DigestStore, known: Sequence[tuple[FileKey, bytes]], after: int = NOW, directory: tuple[int, int] = (64769, 77)) -> None:
    store.store([columns([key for key, _ in known], [digest for _, digest in known], directory)], after)


def find(store: DigestStore, keys: Sequence[FileKey], directory: tuple[int, int] = (64769, 77)) -> list[bytes | None]:
    found = store.lookup([columns(keys, directory=directory)])
    if found in ([], [b""]):
        return [None] * len(keys)
    assert len(found[0]) == 32 * len(keys)
    return [found[0][at : at + 32] if any(found[0][at : at + 32]) else None for at in range(0, len(found[0]), 32)]


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
    keep(store, [(key(), DIGEST)], NOW)
    assert find(DigestStore(tmp_path / "state" / "digests.sqlite", clock), [key(2), key()]) == [None, DIGEST]


@pytest.mark.parametrize("change", [{"device": 1}, {"size": 6}, {"mtime": OLD + 1}, {"ctime": OLD + 1}, {"inode": 2}])
def test_a_file_that_differs_in_anything_is_another(store, change):
    keep(store, [(key(), DIGEST)], NOW)
    assert find(store, [key(**change)]) == [None]


def test_a_changed_file_takes_the_place_of_its_earlier_state(store):
    other = hashlib.sha256(b"y").digest()
    keep(store, [(key(), DIGEST)], NOW)
    keep(store, [(key(mtime=OLD + 5, ctime=OLD + 5), other)], NOW)
    assert find(store, [key(), key(mtime=OLD + 5, ctime=OLD + 5)]) == [None, other]


@pytest.mark.parametrize(("ctime", "kept"), [
    (NOW, False), (NOW - FINE_SLACK, False), (NOW - FINE_SLACK - 1, True), (NOW + 10, False),
    ((NOW - COARSE_SLACK) // 10**9 * 10**9 + 10**9, False), ((NOW - COARSE_SLACK) // 10**9 * 10**9, True),
])
def test_files_that_changed_just_before_they_were_hashed_are_not_kept(store, ctime, kept):
    keep(store, [(key(ctime=ctime), DIGEST)], NOW)
    assert find(store, [key(ctime=ctime)]) == [DIGEST if kept else None]


def test_a_time_of_modification_in_the_future_does_not_matter(store):
    keep(store, [(key(mtime=NOW * 2), DIGEST)], NOW)
    assert find(store, [key(mtime=NOW * 2)]) == [DIGEST]


def test_what_is_not_asked_for_in_a_long_time_goes(store, clock):
    keep(store, [(key(1), DIGEST), (key(2), DIGEST)], NOW)
    clock.now += 40 * DAY
    assert find(store, [key(1)]) == [DIGEST]
    clock.now += 40 * DAY
    keep(store, [(key(3), DIGEST)], clock.now)
    assert find(store, [key(1), key(2), key(3)]) == [DIGEST, None, DIGEST]


@pytest.mark.parametrize("garbage", [b"not a database at all, but long enough to be looked at" * 100,
b"SQLite format 3\0" + b"\xff" * 5000, b"x"])
def test_a_corrupt_file_is_begun_anew(store, tmp_path, garbage):
    path = tmp_path / "state" / "digests.sqlite"
    path.parent.mkdir()
    path.write_bytes(garbage)
    assert find(store, [key()]) == [None]
    keep(store, [(key(), DIGEST)], NOW)
    assert find(store, [key()]) == [DIGEST]


def test_a_database_that_breaks_in_the_middle_is_begun_anew(store, tmp_path):
    keep(store, [(key(i), DIGEST) for i in range(5000)], NOW)
    path = tmp_path / "state" / "digests.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    assert find(store, [key(i) for i in range(5000)]) == [None] * 5000
    keep(store, [(key(), DIGEST)], NOW)
    assert find(store, [key()]) == [DIGEST]


def test_a_database_of_another_version_is_begun_anew(store, tmp_path):
    keep(store, [(key(), DIGEST)], NOW)
    with sqlite3.connect(tmp_path / "state" / "digests.sqlite") as connection:
        connection.execute("pragma user_version = 99")
    connection.close()
    assert find(store, [key()]) == [None]


def test_a_place_that_cannot_be_written_means_nothing_is_known(tmp_path, clock):
    (tmp_path / "file").touch()
    store = DigestStore(tmp_path / "file" / "digests.sqlite", clock)
    keep(store, [(key(), DIGEST)], NOW)
    assert find(store, [key()]) == [None]


def _fill(path: str, first: int) -> None:
    store = DigestStore(Path(path), Clock())
    for i in range(first, first + 200, 20):
        keep(store, [(key(n), DIGEST) for n in range(i, i + 20)], NOW)


def test_several_processes_may_write_at_once(tmp_path, store):
    path = str(tmp_path / "state" / "digests.sqlite")
    processes = [multiprocessing.get_context("fork").Process(target=_fill, args=(path, first)) for first in (0, 200, 400)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert find(store, [key(n) for n in range(600)]) == [DIGEST] * 600


big = st.integers(0, 2**64 - 1)


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


@settings(deadline=None)
@given(keys=st.lists(st.builds(FileKey, big, big, st.integers(0, 2**62), st.integers(-10**18, 10**18), st.just(OLD)),
                     unique_by=lambda k: k[:2], max_size=20))
def test_any_numbers_survive(tmp_path_factory, keys):
    store = DigestStore(tmp_path_factory.mktemp("digests") / "d.sqlite", Clock())
    digests = [hashlib.sha256(repr(k).encode()).digest() for k in keys]
    directory = keys[0][:2] if keys else (1, 2)
    keep(store, list(zip(keys, digests, strict=True)), directory=directory)
    assert find(store, keys, directory) == digests
    assert find(store, keys[::-1], directory) == digests[::-1]


def digest_of(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def test_files_that_are_stored_later_join_those_that_are_there(store):
    keep(store, [(key(n), digest_of(n)) for n in range(5)])
    keep(store, [(key(2, ctime=OLD + 1), digest_of(20)), (key(9), digest_of(9))])
    assert find(store, [key(n) for n in range(5)]) == [digest_of(0), digest_of(1), None, digest_of(3), digest_of(4)]
    assert find(store, [key(9), key(2, ctime=OLD + 1), key(8), key(4)]) == [digest_of(9), digest_of(20), None, digest_of(4)]


def test_files_of_other_directories_are_not_touched(store):
    keep(store, [(key(1), digest_of(1))], directory=(1, 2))
    keep(store, [(key(1), digest_of(2))], directory=(2, 1))
    assert (find(store, [key(1)], (1, 2)), find(store, [key(1)], (2, 1)), find(store, [key(1)], (1, 1))) == (
        [digest_of(1)], [digest_of(2)], [None])  # fmt: skip


def test_one_directory_may_come_twice_at_once(store):
    store.store([columns([key(1)], [digest_of(1)]), columns([key(2)], [digest_of(2)])], NOW)
    assert find(store, [key(1), key(2)]) == [digest_of(1), digest_of(2)]


def test_of_a_directory_only_those_are_kept_that_did_not_change_just_before(store):
    keys = [key(n, ctime=OLD if n % 2 else NOW) for n in range(6)]
    keep(store, [(each, digest_of(n)) for n, each in enumerate(keys)])
    assert find(store, keys) == [digest_of(n) if n % 2 else None for n in range(6)]


def test_files_whose_digests_are_not_known_are_not_kept(store):
    keep(store, [(key(1), digest_of(1)), (key(2), bytes(32)), (key(3), digest_of(3))])
    store.store([columns([key(4)])], NOW)
    assert find(store, [key(n) for n in range(1, 5)]) == [digest_of(1), None, digest_of(3), None]


def test_what_of_a_directory_is_not_asked_for_in_a_long_time_goes(store, clock):
    keep(store, [(key(n), digest_of(n)) for n in range(3)])
    clock.now += 40 * DAY
    assert find(store, [key(1)]) == [digest_of(1)]
    clock.now += 40 * DAY
    keep(store, [(key(5), digest_of(5))], clock.now)
    assert find(store, [key(n) for n in (0, 1, 2, 5)]) == [None, digest_of(1), None, digest_of(5)]


def test_a_row_that_makes_no_sense_is_not_there(store, tmp_path):
    for column in ("keys", "digests", "days"):
        keep(store, [(key(1), digest_of(1)), (key(2), digest_of(2))])
        with sqlite3.connect(tmp_path / "state" / "digests.sqlite") as connection:
            connection.execute(f"update directories set {column} = substr({column}, 2)")
        connection.close()
        assert find(store, [key(1), key(2)]) == [None, None]


def _fill_one_directory(path: str, first: int) -> None:
    for n in range(first, first + 60, 3):
        keep(DigestStore(Path(path), Clock()), [(key(each), digest_of(each)) for each in range(n, n + 3)])


def test_nothing_is_lost_when_several_processes_write_the_same_directory(tmp_path, store):
    path = str(tmp_path / "state" / "digests.sqlite")
    starts = (0, 60, 120, 180)
    processes = [multiprocessing.get_context("fork").Process(target=_fill_one_directory, args=(path, first)) for first in starts]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert find(store, [key(n) for n in range(240)]) == [digest_of(n) for n in range(240)]


@settings(deadline=None)
@given(stores=st.lists(st.dictionaries(st.integers(0, 5), st.integers(0, 2), min_size=1), max_size=6),
       asked=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=8))  # fmt: skip
def test_the_last_state_that_was_stored_of_a_file_is_the_one_that_is_known(tmp_path_factory, stores, asked):
    store = DigestStore(tmp_path_factory.mktemp("digests") / "d.sqlite", Clock())
    known: dict[int, int] = {}
    for each in stores:
        keep(store, [(key(inode, ctime=OLD + state), digest_of(10 * inode + state)) for inode, state in each.items()])
        known.update(each)
    assert find(store, [key(inode, ctime=OLD + state) for inode, state in asked]) == [
        digest_of(10 * inode + state) if known.get(inode) == state else None for inode, state in asked]


def kept(tmp_path: Path) -> int:
    """Files in the store, some maybe twice."""
    with sqlite3.connect(tmp_path / "state" / "digests.sqlite") as connection:
        (size,) = connection.execute("select sum(length(days)) from directories").fetchone()
    connection.close()
    return size // 8


@pytest.mark.parametrize("again", [[3], [3, 4], [9], [9, 10], [3, 9], range(12)])
def test_a_row_does_not_grow_by_files_that_are_there(store, tmp_path, again):
    names = [1, 2, 3, 4, 4, 5, 6]  # one of them with two names
    keep(store, [(key(n), digest_of(n)) for n in names])
    for state in range(5):
        keep(store, [(key(n, ctime=OLD + state), digest_of(n)) for n in again])
    assert kept(tmp_path) == len([n for n in names if n not in again]) + len(again) + (len({4} & set(again)) if len(again) < 7 else 0)
    assert find(store, [key(n, ctime=OLD + 4) for n in again]) == [digest_of(n) for n in again]
    rest = [n for n in names if n not in again]
    assert not rest or find(store, [key(n) for n in rest]) == [digest_of(n) for n in rest]
