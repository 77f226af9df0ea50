"""Compression and decompression: equal bytes whoever does it, and nothing broken goes through."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ContentError, StorageError, UsageError
from engine.layer.compress import compress, open_compressor
from engine.layer.decompress import detect, open_decompressor
from engine.layer.sink import BlobSink

KINDS = ["gzip", "zstd", "none"]
chance = random.Random(7)
TEXT = b" ".join(chance.choice([b"layer", b"tree", b"entry", b"%d" % chance.randrange(10**6)]) for _ in range(900_000))
MIXED = TEXT + chance.randbytes(3 << 20) + bytes(2 << 20) + TEXT[: 1 << 20]


def decompressed(data: bytes, size: int = 1 << 17) -> bytes:
    return b"".join(pieces(data, size))


def pieces(data: bytes, size: int = 1 << 17) -> Iterator[bytes]:
    source = io.BytesIO(data)
    for piece in open_decompressor(lambda most: source.read(min(size, most))):
        assert 0 < len(piece) <= 1 << 20
        yield piece


def written(path: Path, data: bytes, kind: str, level: int | None = None, threads: int | None = None) -> bytes:
    with BlobSink(str(path), kind, level, threads=threads) as sink:
        for at in range(0, len(data), sink.chunk_size):
            sink.write(data[at : at + sink.chunk_size])
        result = sink.finish()
    blob = path.read_bytes()
    assert result.digest == hashlib.sha256(blob).hexdigest() and result.size == len(blob)
    assert result.diff_id == hashlib.sha256(data).hexdigest() and result.tar_size == len(data)
    return blob


@pytest.mark.parametrize("kind", KINDS)
def test_a_blob_does_not_depend_on_the_number_of_threads(tmp_path: Path, kind: str) -> None:
    blobs = {written(tmp_path / "blob", MIXED, kind, None, threads) for threads in (1, 2, 3, 8, None)}
    assert len(blobs) == 1
    blob = blobs.pop()
    assert blob == compress(MIXED, kind)
    assert decompressed(blob) == MIXED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 4 << 20])
def test_sizes_at_the_edge_of_a_chunk(tmp_path: Path, kind: str, size: int) -> None:
    blob = written(tmp_path / "blob", MIXED[:size], kind)
    assert detect(blob) == kind or size == 0
    assert decompressed(blob) == MIXED[:size]


@pytest.mark.parametrize(("kind", "level"), [("gzip", level) for level in range(10)] + [("zstd", level) for level in (1, 3, 9, 19)])
def test_every_level_can_be_read_by_others(kind: str, level: int) -> None:
    data = MIXED[len(TEXT) - 500_000 : len(TEXT) + 600_000]
    blob = compress(data, kind, level)
    if kind == "gzip":
        one = zlib.decompressobj(31)
        assert one.decompress(blob) == data and one.eof and not one.unused_data  # a single member
        assert gzip.decompress(blob) == data
    else:
        assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(blob), read_across_frames=True).read() == data


@pytest.mark.parametrize("command", [["gzip", "-t"], ["gzip", "-dc"], ["zstd", "-qdc"]])
def test_tools_read_the_blobs(command: list[str]) -> None:
    for data in (MIXED, b""):
        blob = compress(data, "zstd" if command[0] == "zstd" else "gzip")
        done = subprocess.run(command, input=blob, stdout=subprocess.PIPE, check=True)
        assert "-t" in command or done.stdout == data


def test_blobs_are_not_much_larger_than_gzip_makes_them() -> None:
    library = Path(os.__file__).parent
    code = b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))
    programs = b"".join(path.read_bytes() for path in [Path(sys.executable).resolve(), *sorted(library.glob("lib-dynload/*.so"))])
    sizes = [(len(compress(data, "gzip")), len(zlib.compress(data, 6))) for data in (code, programs[: 8 << 20])]
    assert all(ours < 1.19 * theirs for ours, theirs in sizes)
    assert sizes[1][0] < 1.15 * sizes[1][1]


@given(st.binary(max_size=3000), st.sampled_from(KINDS))
@settings(max_examples=50, deadline=None)
def test_anything_comes_back(data: bytes, kind: str) -> None:
    if kind == "none" and detect(data) != "none":
        return
    assert decompressed(compress(data, kind), 7) == data


OTHERS = {
    "gzip": lambda data: gzip.compress(data, 6), "bzip2": bz2.compress, "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    "zstd of unknown size": lambda data: (c := zstandard.ZstdCompressor().compressobj()).compress(data) + c.flush(),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("size", [5, 1 << 17])
def test_what_others_have_made_is_read_in_all_its_parts(kind: str, size: int) -> None:
    make = OTHERS[kind]
    data = MIXED[len(TEXT) - 300_000 : len(TEXT) + 200_000] if size > 5 else b"some data " * 50
    blob = make(data)
    assert detect(blob) == kind.split()[0]
    assert decompressed(blob, size) == data
    assert decompressed(blob + make(b"") + make(b"more"), size) == data + b"more"


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_cut_short_or_goes_on_is_refused(kind: str) -> None:
    blob = OTHERS[kind](b"some data " * 50)
    for cut in range(6, len(blob)):
        with pytest.raises(ContentError):
            decompressed(blob[:cut])
    for tail in (b"x", b"garbage", b"\0" * 3):
        with pytest.raises(ContentError):
            decompressed(blob + tail)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_damage_is_noticed(kind: str) -> None:
    blob = OTHERS[kind](TEXT[:5000])
    for at in (len(blob) // 2, len(blob) - 6):
        bad = bytearray(blob)
        bad[at] ^= 0x55
        with pytest.raises(ContentError):
            decompressed(bytes(bad))


def test_padding_between_xz_streams_is_no_garbage() -> None:
    assert decompressed(lzma.compress(b"a") + bytes(8) + lzma.compress(b"b") + bytes(4)) == b"ab"


def test_zstd_frames_to_be_skipped_are() -> None:
    skippable = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    frame = zstandard.ZstdCompressor().compress(b"data")
    assert decompressed(skippable + frame + skippable, 3) == b"data"
    for cut in range(1, len(skippable)):
        with pytest.raises(ContentError):
            decompressed(frame + skippable[:cut])


@pytest.mark.parametrize("kind", OTHERS)
def test_a_bomb_comes_in_small_pieces(kind: str) -> None:
    blob = OTHERS[kind](bytes(64 << 20))
    assert sum(map(len, pieces(blob))) == 64 << 20  # the size of each piece is looked at


def test_a_zstd_window_beyond_all_is_refused() -> None:
    # A frame header that wants a window of 2 GiB, and a raw block.
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, 21 << 3]) + (1 | 3 << 3).to_bytes(3, "little") + b"abc"
    with pytest.raises(ContentError):
        decompressed(frame)


@pytest.mark.parametrize(("kind", "level"), [("lz4", None), ("gzip", 10), ("gzip", -1), ("zstd", 0), ("zstd", 23)])
def test_what_is_not_known_is_a_usage_error(kind: str, level: int | None) -> None:
    with pytest.raises(UsageError):
        open_compressor(kind, level)


def test_a_full_disk_is_a_storage_error_and_no_thread_stays() -> None:
    before = threading.active_count()
    with pytest.raises(StorageError), BlobSink("/dev/full", "gzip") as sink:
        for _ in range(40):
            sink.write(os.urandom(sink.chunk_size))
        sink.finish()
    assert threading.active_count() == before


def test_leaving_a_sink_early_ends_its_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), BlobSink(str(tmp_path / "blob"), "gzip") as sink:
        sink.write(bytes(sink.chunk_size))
        raise KeyError
    assert threading.active_count() == before


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        BlobSink(str(tmp_path / "none" / "blob"), "gzip")
