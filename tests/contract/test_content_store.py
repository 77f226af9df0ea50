"""Blobs in a directory."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.content.store import DirectoryStore
from engine.errors import ContentError, StorageError
from engine.image.digest import Digest

HALF_A_BLOB = """
from engine.content.store import DirectoryStore
writer = DirectoryStore(here).writer()
writer.write(b"x" * 100)
print(writer.path, flush=True)
sys.stdin.read()
"""


@contextmanager
def victim(program: str, directory: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """A process that prints a line and then waits: the line, and what kills it."""
    preamble = "import sys; from pathlib import Path; here = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", preamble + program, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None

        def kill() -> None:
            process.kill()
            process.wait()

        yield process.stdout.readline().decode().strip(), kill
        kill()


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "state")


def ingested(store: DirectoryStore) -> list[str]:
    ingest = store.path(Digest.of(b"")).parents[2] / "ingest"
    return os.listdir(ingest) if ingest.exists() else []


def test_nothing_is_made_before_the_first_write(store: DirectoryStore, tmp_path: Path) -> None:
    assert not store.has(Digest.of(b"x"))
    assert store.get(Digest.of(b"x")) is None
    assert store.blobs() == []
    assert not (tmp_path / "state").exists()


def test_a_committed_blob_can_be_read_and_lies_where_an_image_layout_has_it(store: DirectoryStore, tmp_path: Path) -> None:
    with store.writer() as writer:
        writer.write(b"hello ")
        writer.write(memoryview(b"world"))
        digest = writer.commit()
    assert digest == Digest.of(b"hello world")
    assert store.get(digest) == b"hello world"
    assert store.size(digest) == 11
    assert store.path(digest) == tmp_path / "state/blobs/sha256" / digest.hex
    assert ingested(store) == []


def test_a_writer_left_without_commit_leaves_nothing(store: DirectoryStore) -> None:
    with pytest.raises(RuntimeError), store.writer() as writer:
        writer.write(b"half")
        raise RuntimeError
    assert ingested(store) == []
    assert store.blobs() == []


@pytest.mark.parametrize("data", [b"other", b"wrong!"], ids=["shorter", "same size"])
def test_bytes_that_do_not_match_what_was_announced_are_refused(store: DirectoryStore, data: bytes) -> None:
    expected = Digest.of(b"right!")
    with pytest.raises(ContentError), store.writer(expected=expected, size=6) as writer:
        writer.write(data)
        writer.commit()
    assert not store.has(expected)
    assert ingested(store) == []


def test_more_bytes_than_announced_are_refused_before_they_are_written(store: DirectoryStore) -> None:
    with store.writer(expected=Digest.of(b"abc"), size=3) as writer:
        writer.write(b"abc")
        with pytest.raises(ContentError, match="larger"):
            writer.write(b"d")


def test_what_commit_is_told_must_agree_too(store: DirectoryStore) -> None:
    for digest, size in ((Digest.of(b"no"), None), (None, 2)):
        with store.writer() as writer:
            writer.write(b"yes")
            with pytest.raises(ContentError):
                writer.commit(digest, size)


def test_a_file_written_by_somebody_else_is_published_under_the_digest_they_tell(store: DirectoryStore) -> None:
    with store.writer(written_elsewhere=True) as writer:
        writer.path.write_bytes(b"from a worker")
        digest = writer.commit(Digest.of(b"from a worker"), 13)
    assert store.get(digest) == b"from a worker"
    with store.writer(written_elsewhere=True) as writer:
        writer.path.write_bytes(b"cut")
        with pytest.raises(ContentError, match="3 bytes instead of 13"):
            writer.commit(Digest.of(b"from a worker"), 13)


def test_sha512_is_known(store: DirectoryStore) -> None:
    expected = Digest("sha512", hashlib.sha512(b"x").hexdigest())
    with store.writer(expected=expected) as writer:
        writer.write(b"x")
        assert writer.commit() == expected
    assert store.get(expected) == b"x"


def test_a_blob_committed_twice_is_there_once(store: DirectoryStore) -> None:
    first, second = store.writer(), store.writer()
    with first, second:
        for writer in (first, second):
            writer.write(b"same")
        assert first.commit() == second.commit()
    assert [size for _, size, _ in store.blobs()] == [4]


def test_a_blob_cut_off_by_a_power_loss_counts_as_absent_or_is_replaced(store: DirectoryStore) -> None:
    digest = store.put(b"content")
    store.path(digest).write_bytes(b"")
    assert not store.has(digest)
    store.path(digest).write_bytes(b"cont")
    assert store.put(b"content") == digest
    assert store.get(digest) == b"content"


def test_the_empty_blob_is_a_blob(store: DirectoryStore) -> None:
    assert store.size(store.put(b"")) == 0
    assert store.has(Digest.of(b""))


def test_a_corrupt_blob_is_removed_when_read(store: DirectoryStore) -> None:
    digest = store.put(b"content")
    store.path(digest).write_bytes(b"CONTENT")
    assert store.get(digest) is None
    assert not store.has(digest)


def test_a_large_blob_is_not_read_into_memory(store: DirectoryStore) -> None:
    digest = store.put(b"x" * 100)
    with pytest.raises(ContentError, match="limit of 99"):
        store.get(digest, limit=99)
    assert store.get(digest, limit=100) == b"x" * 100


def test_removing_forgets_and_may_be_repeated(store: DirectoryStore) -> None:
    digest = store.put(b"content")
    store.remove(digest)
    store.remove(digest)
    assert not store.has(digest)


def test_a_full_disk_is_a_storage_error_with_a_hint(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.writer() as writer:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StorageError, match="No space left") as caught:
            writer.write(b"x")
        monkeypatch.undo()
    assert "prune" in (caught.value.hint or "")
    assert ingested(store) == []


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="Not a directory"):
        DirectoryStore(tmp_path / "file").put(b"x")


def test_what_a_killed_writer_left_goes_with_the_next_write_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    living = DirectoryStore(tmp_path).writer()
    with victim(HALF_A_BLOB, tmp_path) as (left, kill):
        assert DirectoryStore(tmp_path).reclaim() == 0
        kill()
        assert Path(left).exists()
        DirectoryStore(tmp_path).put(b"new")
        assert not Path(left).exists()
        assert living.path.exists()
    with living:
        living.write(b"late")
        assert DirectoryStore(tmp_path).get(living.commit()) == b"late"
