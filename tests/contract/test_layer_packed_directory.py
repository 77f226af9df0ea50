"""A layer that is unpacked while it is packed lies on disk as if it had been unpacked from its blob."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings

from engine.errors import ContextError, StorageError
from engine.image.descriptor import OCI_LAYER, Descriptor
from engine.image.digest import Digest
from engine.isolate.base import IdMap
from engine.layer.apply import Style, unpack
from engine.layer.base import Layer
from engine.layer.directory import PackedDirectory
from engine.layer.disk import Disk
from engine.layer.entries import Change, Entry
from engine.layer.pack import Changes, Packed, pack_changes
from engine.snapshot import jobs
from tests.contract.layer_files import SECOND, changes_of, every_kind, listing
from tests.contract.roots import MODES, Rig, State, rig
from tests.unit.layer.models import Files, chains, content_of

IS_ROOT = os.geteuid() == 0


def pack_into(changes: Sequence[Change], directory: Path, blob: Path, *, style: Style = "overlay-trusted", ids: IdMap | None = None,
              **options: object) -> tuple[Packed, tuple[object, ...]]:  # fmt: skip
    """Packs changes, and unpacks them on the way; with what the directory says of itself."""
    directory.mkdir(parents=True)
    disk = Disk(str(directory), style=style, owners=IS_ROOT, ids=ids)
    with disk, PackedDirectory(disk) as packed_directory:
        packed = pack_changes(Changes.of(changes), str(blob), directory=packed_directory, **options)  # type: ignore[arg-type]
        packed_directory.finish()
    contents = packed_directory.contents
    return packed, (tuple(contents.implicit), contents.foreign())


def same_as_unpacked(changes: Sequence[Change], work: Path, **options: object) -> None:
    packed, needs = pack_into(changes, work / "ours", work / "blob", compression="none", **options)  # type: ignore[arg-type]
    (work / "theirs").mkdir()
    found = unpack(str(work / "blob"), str(work / "theirs"), owners=IS_ROOT, ids=options.get("ids"),  # type: ignore[arg-type]
                   style=options.get("style", "overlay-trusted"))  # type: ignore[arg-type]
    untimed = {b"", *found.implicit}  # of these nobody has said of what time they are, nor of whiteouts
    ours, theirs = ({path: row[:8] + row[9:] if path in untimed or (row[0], row[6]) == ("char", (0, 0)) else row
                     for path, row in listing(work / name).items()} for name in ("ours", "theirs"))  # fmt: skip
    assert ours == theirs
    assert needs == (found.implicit, found.foreign_links)
    assert packed.diff_id == found.diff_id


def test_of_everything_there_is(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    every_kind(tmp_path / "tree", root_user=IS_ROOT)
    same_as_unpacked(changes_of(tmp_path / "tree"), tmp_path)


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
@given(chains())
@settings(max_examples=60, deadline=None)
def test_of_random_layers(tmp_path_factory: pytest.TempPathFactory, chain: tuple[list[list[Entry]], list[Files]]) -> None:
    work = tmp_path_factory.mktemp("packed")
    try:
        for n, entries in enumerate(chain[0]):
            (work / f"{n}").mkdir()
            changes = []
            for m, entry in enumerate(entries):
                source = work / f"source-{n}-{m}"
                if entry.kind == "file":
                    source.write_bytes(content_of(entry))
                changes.append(Change(entry, bytes(source) if entry.kind == "file" else None))
            same_as_unpacked(changes, work / f"{n}")
    finally:
        shutil.rmtree(work)


@pytest.mark.parametrize("styled", ["overlay-user", "plain"])
def test_of_names_that_mean_something_in_a_layer(tmp_path: Path, styled: Style) -> None:
    """A file that is called like a whiteout is one to whoever reads the layer; and a layer may lack the directories above."""
    if styled == "overlay-user" and not _user_attributes(tmp_path):
        pytest.skip("this filesystem has no attributes for users")
    (tmp_path / "f").write_bytes(b"x")

    def file(path: bytes) -> Change:
        return Change(Entry(path, "file", 0o644, size=1), bytes(tmp_path / "f"))

    changes = [file(b"a/b/c"), file(b"a/.wh.gone") if IS_ROOT or styled == "plain" else file(b"a/x"), Change(Entry(b"q", "dir", 0o700)),
               file(b"q/.wh..wh..opq"), file(b"q/.wh..wh.plnk"), Change(Entry(b"q/sub", "dir", 0o711)), file(b"q/sub/f"),
               Change(Entry(b"q/sub/hard", "hardlink", link=b"q/sub/f")), Change(Entry(b"q/to", "hardlink", link=b"etc/lower"))]  # fmt: skip
    same_as_unpacked(changes, tmp_path, style=styled)
    assert (tmp_path / "ours/q/sub/hard").samefile(tmp_path / "ours/q/sub/f")
    assert stat.S_IMODE((tmp_path / "ours/q").stat().st_mode) == 0o700
    assert not list((tmp_path / "ours/q").glob(".wh*")) and not (tmp_path / "ours/q/to").exists()


def _user_attributes(place: Path) -> bool:
    try:
        os.setxattr(place, "user.test", b"")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
def test_of_owners_that_the_machine_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    same_as_unpacked([Change(Entry(b"f", "file", 0o4755, 70000, 3, 1), bytes(tmp_path / "f"))], tmp_path, ids=IdMap("single"))
    assert (tmp_path / "ours/f").stat().st_uid == 0


def test_large_files_times_and_digests(tmp_path: Path) -> None:
    """What is in it does not depend on what else is asked of the packing."""
    data = os.urandom(5_000_001)
    (tmp_path / "f").write_bytes(data)
    entry = Entry(b"f", "file", 0o640, os.getuid(), os.getgid(), len(data), 7 * SECOND + 5)
    packed, _ = pack_into([Change(entry, bytes(tmp_path / "f"))], tmp_path / "out", tmp_path / "blob", hash_files=True,
                          clamp_mtime=3 * SECOND)  # fmt: skip
    plain = pack_changes(Changes.of([Change(entry, bytes(tmp_path / "f"))]), str(tmp_path / "again"), clamp_mtime=3 * SECOND)
    assert (packed.digest, packed.diff_id) == (plain.digest, plain.diff_id)
    assert (tmp_path / "out/f").read_bytes() == data
    assert (tmp_path / "out/f").stat().st_mtime_ns == 3 * SECOND


def test_a_file_that_changed_meanwhile_is_still_an_error_and_nothing_stays_open(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12")
    opened = len(os.listdir("/proc/self/fd"))
    for size in (1, 3):
        with pytest.raises(ContextError, match="changed while"):
            pack_into([Change(Entry(b"f", "file", 0o644, size=size), bytes(tmp_path / "f"))], tmp_path / f"{size}", tmp_path / "blob")
    assert len(os.listdir("/proc/self/fd")) == opened


def test_what_cannot_be_written_is_no_fault_of_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"12")
    change = Change(Entry(b"f", "file", 0o644, size=2), bytes(tmp_path / "f"))
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(Disk, "create", lambda *_: full)
    with pytest.raises(StorageError, match=r"cannot write f: .*space") as raised:
        pack_into([change], tmp_path / "out", tmp_path / "blob")
    assert raised.value.hint == "the disk is full"
    with pytest.raises(OSError):  # it was closed
        os.fstat(full)


@pytest.fixture(params=MODES)
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "state", request.param) as made:
        yield made


@pytest.mark.anyio
async def test_roots_are_made_of_it(machine: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = await machine.base()
    await machine.snapshots.discard(await machine.snapshots.prepare(state.chain, state.tree))
    landing = await machine.snapshots.landing()
    if landing is None:
        assert machine.environment.snapshots == "walk"
        return
    (tmp_path / "f").write_text("of the context\n")
    os.chmod(tmp_path / "f", 0o644)
    changes = [Change(Entry(b"data/ro/f", "file", 0o755, 1000, 1000, 15, SECOND), bytes(tmp_path / "f")),
               Change(Entry(b"data/ro/l", "symlink", 0o777, link=b"f"))]  # fmt: skip
    with machine.content.writer(written_elsewhere=True) as writer:
        packed = await machine.pool.call(jobs.pack_layer, landing, Changes.of(changes), str(writer.path), "gzip", None,
                                         str(machine.indexes.directory))  # fmt: skip
        blob = Descriptor(OCI_LAYER, writer.commit(Digest("sha256", packed.digest), packed.size), packed.size)
    layer = Layer(Digest("sha256", packed.diff_id), blob)
    index = machine.indexes.get(layer.diff_id)
    assert index is not None
    grown = State((*state.chain, layer), state.tree.extended(layer, index))
    assert layer not in await machine.snapshots.missing(grown.chain)
    monkeypatch.setattr(jobs, "unpack_layer", None)
    active = await machine.snapshots.prepare(grown.chain, grown.tree)
    ran = await machine.execute(active, "sh", "-c", "cat /data/ro/l; stat -c '%a %u %g %Y' /data/ro/f; stat -c %a /data/ro")
    assert ran.stdout.decode() == "of the context\n755 1000 1000 1\n555\n"
    assert await machine.changes(active, grown.tree) == []
    await machine.snapshots.discard(active)
    assert not list((machine.state_dir / "roots").glob("*/*unpack*"))
