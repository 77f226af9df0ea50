"""What files' contents are digested with, against the algorithm's own test vectors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from engine.errors import ContextError
from engine.layer.hashing import EMPTY, blob_digest, content_hash, hash_ranges

VECTORS = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    31744: "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47",
}  # test_vectors.json of the reference implementation


def _data(size: int) -> bytes:
    return bytes(i % 251 for i in range(size))


@pytest.mark.parametrize(("size", "expected"), VECTORS.items())
def test_contents_are_digested_with_blake3(size: int, expected: str, tmp_path: Path) -> None:
    digest = content_hash()()
    digest.update(_data(size)[: size // 2])
    digest.update(memoryview(_data(size))[size // 2 :])
    assert digest.hexdigest() == digest.digest().hex() == expected
    (tmp_path / "f").write_bytes(b"12345" + _data(size) + b"6")
    assert hash_ranges([(bytes(tmp_path / "f"), 5, size)]) == [expected]


def test_the_digest_of_nothing() -> None:
    assert content_hash()().digest() == EMPTY


def test_a_blob_is_digested_with_sha256(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(_data(3_000_000))
    assert blob_digest(bytes(tmp_path / "blob"), 3_000_000) == hashlib.sha256(_data(3_000_000)).hexdigest()
    with pytest.raises(ContextError, match="changed while it was read"):
        blob_digest(bytes(tmp_path / "blob"), 3_000_001)
