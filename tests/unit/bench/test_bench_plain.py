"""The work itself does what builds do, or there would be nothing to compare."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from pathlib import Path

from perf import plain
from perf.inputs import make


def test_unpacking_makes_all_files(tmp_path: Path) -> None:
    inputs = make(tmp_path / "inputs", 0.001)
    root = tmp_path / "root"
    root.mkdir()
    for blob, diff_id in inputs.big:
        assert "sha256:" + plain.unpack(blob, root) == diff_id
        with tarfile.open(blob) as archive:
            for member in archive:
                status = os.lstat(root / member.name)
                assert status.st_mode & 0o7777 == (member.mode if not member.issym() else 0o777)
                if member.isreg():
                    file = archive.extractfile(member)
                    assert file is not None and file.read() == (root / member.name).read_bytes()
                if not member.issym():
                    assert status.st_mtime == member.mtime


def test_packing_makes_a_layer_of_all_files(tmp_path: Path) -> None:
    inputs = make(tmp_path / "inputs", 0.001)
    tar, blob = plain.pack(inputs.tree, tmp_path / "blob")
    data = (tmp_path / "blob").read_bytes()
    assert blob == hashlib.sha256(data).hexdigest()
    assert tar == hashlib.sha256(gzip.decompress(data)).hexdigest()
    with tarfile.open(tmp_path / "blob") as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive if member.isreg()}  # type: ignore[union-attr]
    files = {str(path.relative_to(inputs.tree.parent)): path.read_bytes() for path in inputs.tree.rglob("*") if path.is_file()}
    assert found == files
