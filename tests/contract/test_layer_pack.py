"""Changes into blobs, read back by us and by others."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from array import array
from pathlib import Path

import pytest
from blake3 import blake3

from engine.errors import ContextError, StorageError
from engine.image.digest import Digest
from engine.layer.apply import scan, unpack
from engine.layer.base import file_state
from engine.layer.changes import Changes
from engine.layer.columns import Columns
from engine.layer.decompress import open_decompressor
from engine.layer.departing import WORTH
from engine.layer.entries import Change, Entry
from engine.layer.index import IndexStore
from engine.layer.pack import Packed, pack, pack_changes
from tests.contract.layer_files import SECOND, changes_of, every_kind, listing

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    every_kind(root, root_user=IS_ROOT)
    return root


def tar_in(blob: Path) -> bytes:
    with open(blob, "rb") as file:
        return b"".join(open_decompressor(file.read))


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
def test_what_is_packed_is_unpacked_again(tree: Path, tmp_path: Path, kind: str) -> None:
    changes = changes_of(tree)
    packed = pack(changes, str(tmp_path / "blob"), kind)
    blob, data = (tmp_path / "blob").read_bytes(), tar_in(tmp_path / "blob")
    assert (packed.digest, packed.size) == (hashlib.sha256(blob).hexdigest(), len(blob))
    assert (packed.diff_id, packed.tar_size) == (hashlib.sha256(data).hexdigest(), len(data))
    (tmp_path / "out").mkdir()
    unpacked = unpack(str(tmp_path / "blob"), str(tmp_path / "out"))
    assert unpacked.diff_id == packed.diff_id
    assert listing(tmp_path / "out") == listing(tree)
    assert unpacked.entries == packed.entries == tuple(change.entry for change in changes)


def test_the_standard_library_reads_the_same(tree: Path, tmp_path: Path) -> None:
    changes = changes_of(tree)
    pack(changes, str(tmp_path / "blob"))
    with tarfile.open(tmp_path / "blob", errors="surrogateescape") as archive:
        members = archive.getmembers()
        assert [m.name.encode("utf-8", "surrogateescape") for m in members] == [c.entry.path or b"." for c in changes]
        for change, member in zip(changes, members, strict=True):
            if change.source:
                file = archive.extractfile(member)
                assert file and file.read() == Path(os.fsdecode(change.source)).read_bytes()


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_the_blob_does_not_depend_on_threads_or_times_it_is_made(tree: Path, tmp_path: Path, kind: str) -> None:
    changes = changes_of(tree)
    packed = {pack(changes, str(tmp_path / "blob"), kind, threads=threads).digest for threads in (1, 2, 5, None, None)}
    assert len(packed) == 1


@pytest.mark.parametrize("hash_files", [False, True])
@pytest.mark.parametrize("size", [(1 << 20) - 1024, (1 << 20) - 512, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_files_that_end_and_begin_where_chunks_do(tmp_path: Path, size: int, hash_files: bool) -> None:
    for name, length in ((b"a", size), (b"b", 300_000), (b"c", 3 << 20), (b"d", 0), (b"e", 1)):
        (tmp_path / name.decode()).write_bytes(os.urandom(length))
    changes = [Change(Entry(name, "file", 0o644, size=(tmp_path / name.decode()).stat().st_size), bytes(tmp_path / name.decode()))
               for name in (b"a", b"b", b"c", b"d", b"e")]  # fmt: skip
    packed = pack(changes, str(tmp_path / "blob"), hash_files=hash_files)
    with tarfile.open(tmp_path / "blob") as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file and file.read() == (tmp_path / member.name).read_bytes()
    digests = [blake3((tmp_path / name).read_bytes()).digest() for name in "abcde"]
    assert packed.digests == (b"".join(digests) if hash_files else b"")


def test_a_file_must_be_in_the_state_it_is_said_to_be_in(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    found = (tmp_path / "f").stat()
    entries = Columns.of([Entry(b"f", "file", 0o644, size=3)])

    def packed(inode: int, ctime: int) -> Packed:
        states = array("q", file_state(inode, ctime))
        return pack_changes(Changes.by_columns(entries, [bytes(tmp_path / "f")], array("q", [0]), states), str(tmp_path / "blob"))

    assert packed(found.st_ino, found.st_ctime_ns).entries[0].size == 3
    assert packed(0, 0).entries[0].size == 3, "any state will do"
    for inode, ctime in ((found.st_ino + 1, found.st_ctime_ns), (found.st_ino, found.st_ctime_ns + 1)):
        with pytest.raises(ContextError, match="changed while it was read"):
            packed(inode, ctime)


def test_times_are_whole_seconds_and_not_later_than_asked(tmp_path: Path) -> None:
    changes = [Change(Entry(b"a", "dir", mtime=5 * SECOND + 7)), Change(Entry(b"b", "dir", mtime=9 * SECOND)),
               Change(Entry(b"c", "dir", mtime=-1))]  # fmt: skip
    assert [e.mtime // SECOND for e in pack(changes, str(tmp_path / "blob")).entries] == [5, 9, -1]
    clamped = pack(changes, str(tmp_path / "blob"), clamp_mtime=7 * SECOND + 3)
    assert [e.mtime for e in clamped.entries] == [5 * SECOND, 7 * SECOND, -SECOND]
    assert scan(str(tmp_path / "blob")).entries == clamped.entries


def test_no_change_is_an_empty_tar(tmp_path: Path) -> None:
    packed = pack([], str(tmp_path / "blob"), "none")
    assert (tmp_path / "blob").read_bytes() == bytes(1024)
    assert packed.diff_id == "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


def files(tmp_path: Path, *sizes: int) -> list[Change]:
    out = []
    for i, size in enumerate(sizes):
        path = tmp_path / f"f{i}"
        path.write_bytes(os.urandom(size))
        out.append(Change(Entry(b"f%d" % i, "file", 0o644, size=size), bytes(path)))
    return out


EDGES = [0, 1, 511, 512, 513, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, (1 << 20) - 512, (1 << 20) - 1, 1 << 20, (1 << 20) + 1,
         (2 << 20) + 77]  # fmt: skip


@pytest.mark.parametrize("hash_files", [False, True])
def test_files_of_all_sizes_come_through(tmp_path: Path, hash_files: bool) -> None:
    changes = files(tmp_path, *EDGES, *reversed(EDGES))
    packed = pack(changes, str(tmp_path / "blob"), hash_files=hash_files)
    found = scan(str(tmp_path / "blob"), hash_files=True)
    for entry, change in zip(found.entries, changes, strict=True):
        assert change.source and entry.digest == blake3(Path(os.fsdecode(change.source)).read_bytes()).hexdigest()
    if hash_files:
        assert packed.entries == found.entries
    again = pack(changes, str(tmp_path / "blob2"))
    assert again.digest == packed.digest and {e.digest for e in again.entries} == {""}


def test_parts_of_a_file_are_packed(tmp_path: Path) -> None:
    data = os.urandom(2 << 20)
    (tmp_path / "spool").write_bytes(data)
    parts = [(512, 10), (7, (1 << 20) + 5), (1 << 20, 1 << 20)]
    changes = [Change(Entry(b"%d" % i, "file", size=size), bytes(tmp_path / "spool"), at) for i, (at, size) in enumerate(parts)]
    pack(changes, str(tmp_path / "blob"))
    with tarfile.open(tmp_path / "blob") as archive:
        for member, (at, size) in zip(archive.getmembers(), parts, strict=True):
            file = archive.extractfile(member)
            assert file and file.read() == data[at : at + size]


@pytest.mark.parametrize("size", [10, 300 << 10, 2 << 20])
@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("hash_files", [False, True])
def test_a_file_of_another_size_changed_while_it_was_read(tmp_path: Path, size: int, change: int, hash_files: bool) -> None:
    (tmp_path / "f").write_bytes(bytes(size + change))
    with pytest.raises(ContextError, match="changed while it was read"):
        pack([Change(Entry(b"f", "file", size=size), bytes(tmp_path / "f"))], str(tmp_path / "blob"), hash_files=hash_files)


def test_a_file_with_another_digest_changed_while_it_was_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"new")
    entry = Entry(b"f", "file", size=3, digest=blake3(b"old").hexdigest())
    with pytest.raises(ContextError, match="changed while it was read"):
        pack([Change(entry, bytes(tmp_path / "f"))], str(tmp_path / "blob"), hash_files=True)
    with pytest.raises(ContextError, match="cannot read f"):
        pack([Change(entry, bytes(tmp_path / "gone"))], str(tmp_path / "blob"))
    with pytest.raises(ContextError, match="no file"):
        pack([Change(entry)], str(tmp_path / "blob"))


def test_what_has_become_a_link_or_a_fifo_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("abc")
    (tmp_path / "link").symlink_to("secret")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        with pytest.raises(ContextError):
            pack([Change(Entry(b"f", "file", size=3), bytes(tmp_path / name))], str(tmp_path / "blob"))


def test_no_thread_stays_after_a_failure(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ContextError):
        pack([*files(tmp_path, 5 << 20), Change(Entry(b"f", "file", size=3), b"/nowhere")], str(tmp_path / "blob"))
    with pytest.raises(StorageError):
        pack(files(tmp_path, 9 << 20, 9 << 20, 9 << 20), "/dev/full")
    assert threading.active_count() == before


def test_consulted_files_and_the_store(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0\n")
    changes = [Change(Entry(b"etc/passwd", "file", size=11), bytes(tmp_path / "passwd"))]
    packed = pack(changes, str(tmp_path / "blob"))
    assert packed.index.files == {b"etc/passwd": b"root:x:0:0\n"}
    stored: Packed = pack(changes, str(tmp_path / "blob"), "gzip", None, str(tmp_path / "indexes"))
    assert stored.entries == ()
    assert IndexStore(tmp_path / "indexes").get(Digest("sha256", stored.diff_id)) == packed.index


def layout(tmp_path: Path, packed: Packed, blob: Path) -> Path:
    """An OCI layout of an image with this layer."""
    root = tmp_path / "layout"
    (root / "blobs/sha256").mkdir(parents=True)
    shutil.copy(blob, root / "blobs/sha256" / packed.digest)

    def put(value: object, media: str) -> dict[str, object]:
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        (root / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": f"sha256:{digest}", "size": len(data)}

    config = put({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{packed.diff_id}"]}},
                 "config.v1+json")  # fmt: skip
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": f"sha256:{packed.digest}", "size": packed.size}
    manifest = put({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [layer]},
                   "manifest.v1+json")  # fmt: skip
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "it"}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    return root


@pytest.mark.skipif(not IS_ROOT or not shutil.which("umoci"), reason="needs root and umoci")
def test_umoci_unpacks_the_same(tree: Path, tmp_path: Path) -> None:
    if IS_ROOT:
        os.removexattr(tree / "d", "trusted.color")
    root = layout(tmp_path, pack(changes_of(tree), str(tmp_path / "blob")), tmp_path / "blob")
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{root}:it", tmp_path / "out"], check=True, capture_output=True)
    assert listing(tmp_path / "out") == listing(tree)


@pytest.mark.skipif(not shutil.which("skopeo"), reason="needs skopeo")
def test_skopeo_recompresses_it(tree: Path, tmp_path: Path) -> None:
    packed = pack(changes_of(tree), str(tmp_path / "blob"))
    root = layout(tmp_path, packed, tmp_path / "blob")
    subprocess.run(["skopeo", "--insecure-policy", "copy", "--dest-decompress", f"oci:{root}:it", f"dir:{tmp_path}/dir"], check=True,
                   capture_output=True)  # fmt: skip
    assert (tmp_path / "dir" / packed.diff_id).read_bytes() == tar_in(tmp_path / "blob")


@pytest.mark.parametrize("tool", ["gzip", "pigz", "tar", "bsdtar"])
def test_tools_read_it(tree: Path, tmp_path: Path, tool: str) -> None:
    if not shutil.which(tool):
        pytest.skip(f"needs {tool}")
    packed = pack(changes_of(tree), str(tmp_path / "blob"))
    command = [tool, "-tzf", str(tmp_path / "blob")] if "tar" in tool else [tool, "-dc"]
    with open(tmp_path / "blob", "rb") as blob:
        done = subprocess.run(command, stdin=blob, capture_output=True, check=True)
    if "tar" in tool:
        assert len(done.stdout.splitlines()) == len(packed.entries)
    else:
        assert hashlib.sha256(done.stdout).hexdigest() == packed.diff_id
    assert io.BytesIO(done.stderr).read() == b""


def test_it_is_told_that_the_blob_grows(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(4 * WORTH))
    os.mkfifo(tmp_path / "signals")
    reader = os.open(tmp_path / "signals", os.O_RDONLY | os.O_NONBLOCK)
    change = Change(Entry(b"file", "file", 0o644, size=4 * WORTH), os.fsencode(tmp_path / "file"))
    pack([change], str(tmp_path / "blob"), signals=str(tmp_path / "signals"))
    assert 3 <= len(os.read(reader, 99)) <= 4
    assert os.read(reader, 99) == b"", "and whoever packs has let go of it"
    os.close(reader)
