"""A blob that is read while it is written: whatever the pace, the reader gets all of it, and ends when the writer does."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from engine.errors import StorageError
from engine.layer.arriving import Arriving, BlobFile
from engine.solve.arrival import Arrival

PARTS = [bytes([i]) * size for i, size in enumerate((1, 70_000, 3, 200_000, 1))]


def read_all(file: BlobFile) -> bytes:
    out = b""
    while data := file.read(1 << 16):
        out += data
    file.close()
    return out


async def test_what_is_written_after_the_reader_has_caught_up_is_read_too(tmp_path: Path) -> None:
    with Arrival(tmp_path / "signals") as arrival, (tmp_path / "ingest").open("wb", buffering=0) as out:
        arrival.begin(tmp_path / "ingest")
        arriving = await arrival.arriving()
        assert arriving is not None
        got: list[bytes] = []
        file = BlobFile(str(tmp_path / "final"), arriving)
        reader = threading.Thread(target=lambda: got.append(read_all(file)))
        reader.start()
        for part in PARTS:
            out.write(part)
            arrival.more()
        os.rename(tmp_path / "ingest", tmp_path / "final")
        arrival.end()
        reader.join()
    assert got == [b"".join(PARTS)]
    assert not (tmp_path / "signals").exists()


async def test_a_reader_that_comes_when_all_is_there_reads_the_final_file(tmp_path: Path) -> None:
    with Arrival(tmp_path / "signals") as arrival:
        arrival.begin(tmp_path / "ingest")
        (tmp_path / "final").write_bytes(b"all of it")
        arrival.end()
        arriving = await arrival.arriving()
        assert read_all(BlobFile(str(tmp_path / "final"), arriving)) == b"all of it"


async def test_a_blob_that_is_not_downloaded_here_does_not_arrive(tmp_path: Path) -> None:
    with Arrival(tmp_path / "signals") as arrival:
        arrival.end()
        assert await arrival.arriving() is None


async def test_a_reader_that_is_never_woken_does_not_stop_the_writer(tmp_path: Path) -> None:
    with Arrival(tmp_path / "signals") as arrival:
        arrival.begin(tmp_path / "ingest")
        for _ in range(100_000):  # more than fits into a pipe
            arrival.more()


def test_a_file_that_is_nowhere_is_a_storage_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "signals")
    with pytest.raises(StorageError, match="final"):
        BlobFile(str(tmp_path / "final"), Arriving(str(tmp_path / "ingest"), str(tmp_path / "signals")))
