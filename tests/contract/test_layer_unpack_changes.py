"""A layer that is unpacked from the changes that it is of lies on disk as if it had been unpacked from its blob."""

from __future__ import annotations

import os
import shutil
import stat
from array import array
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings

from engine.errors import ContentError, ContextError, StorageError
from engine.image.descriptor import OCI_LAYER, Descriptor
from engine.image.digest import Digest
from engine.isolate.base import IdMap
from engine.layer.apply import unpack
from engine.layer.base import Layer, file_state
from engine.layer.changes import Changes
from engine.layer.columns import Columns
from engine.layer.disk import Disk
from engine.layer.entries import Change, Entry
from engine.layer.pack import pack_changes
from engine.layer.unpack import unpack_changes
from engine.snapshot import jobs
from tests.contract.layer_files import SECOND, changes_of, every_kind, listing
from tests.contract.roots import MODES, TIME, Rig, State, Tar, rig
from tests.unit.layer.models import Files, chains, content_of

IS_ROOT = os.geteuid() == 0


def same_as_unpacked(changes: Sequence[Change], work: Path, **options: object) -> None:
    for name in ("ours", "theirs"):
        (work / name).mkdir(exist_ok=True)
    contents, digests = unpack_changes(Changes.of(changes), str(work / "ours"), owners=IS_ROOT, **options)  # type: ignore[arg-type]
    packed = pack_changes(Changes.of(changes), str(work / "blob"), "none", hash_files=True,
                          clamp_mtime=options.pop("latest_mtime", None))  # type: ignore[arg-type]
    found = unpack(str(work / "blob"), str(work / "theirs"), owners=IS_ROOT, **options)  # type: ignore[arg-type]
    untimed = {b"", *found.implicit}  # of these nobody has said of what time they are, nor of whiteouts
    ours, theirs = ({path: row[:8] + row[9:] if path in untimed or (row[0], row[6]) == ("char", (0, 0)) else row
                     for path, row in listing(work / name).items()} for name in ("ours", "theirs"))  # fmt: skip
    assert ours == theirs
    assert (tuple(contents.implicit), contents.foreign()) == (found.implicit, found.foreign_links)
    assert contents.result() == found.entries
    assert digests == packed.digests


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


def test_of_layers_that_lack_directories_or_link_to_lower_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    file = [Change(Entry(path, "file", 0o644, size=1), bytes(tmp_path / "f")) for path in (b"a/b/c", b"q/sub/f")]
    changes = [file[0], Change(Entry(b"q", "dir", 0o700)), Change(Entry(b"q/sub", "dir", 0o711)), file[1],
               Change(Entry(b"q/sub/hard", "hardlink", link=b"q/sub/f")), Change(Entry(b"q/to", "hardlink", link=b"etc/lower"))]  # fmt: skip
    same_as_unpacked(changes, tmp_path, style="plain")
    assert (tmp_path / "ours/q/sub/hard").samefile(tmp_path / "ours/q/sub/f")
    assert stat.S_IMODE((tmp_path / "ours/q").stat().st_mode) == 0o700
    assert not (tmp_path / "ours/q/to").exists()


@pytest.mark.parametrize("name", [b".wh.gone", b"a/.wh.gone", b".wh..wh..opq", b"a/.wh..wh.plnk"])
def test_names_that_mean_something_else_in_a_layer_are_left_to_who_reads_it(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ContentError, match="means something else in a layer"):
        unpack_changes(Changes.of([Change(Entry(name, "file", 0o644))]), str(tmp_path / "out"), owners=False)


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
def test_of_owners_that_the_machine_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    same_as_unpacked([Change(Entry(b"f", "file", 0o4755, 70000, 3, 1), bytes(tmp_path / "f"))], tmp_path, ids=IdMap("single"))
    assert (tmp_path / "ours/f").stat().st_uid == 0


@pytest.mark.parametrize("size", [1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 1, 5_000_001])
def test_of_files_of_many_sizes_and_of_parts_of_files(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    (tmp_path / "g").write_bytes(b"before" + data + b"after")
    whole, part = (Entry(name, "file", 0o640, os.getuid(), os.getgid(), size, 7 * SECOND + 5) for name in (b"whole", b"part"))
    same_as_unpacked([Change(whole, bytes(tmp_path / "f")), Change(part, bytes(tmp_path / "g"), 6)], tmp_path,
                     latest_mtime=3 * SECOND + 1)  # fmt: skip
    for name in ("whole", "part"):
        assert (tmp_path / "ours" / name).read_bytes() == data
        assert (tmp_path / "ours" / name).stat().st_mtime_ns == 3 * SECOND


@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_a_file_that_is_not_as_long_as_it_was_is_an_error_and_nothing_stays_open(tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(b"12")
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ContextError, match="f changed while it was read"):
        unpack_changes(Changes.of([Change(Entry(b"f", "file", 0o644, size=size), bytes(tmp_path / "f"))]), str(tmp_path), owners=False,
                       style="plain")  # fmt: skip
    assert len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize("same", [True, False])
def test_a_file_must_be_in_the_state_it_was_in(tmp_path: Path, same: bool) -> None:
    (tmp_path / "f").write_bytes(b"12")
    (tmp_path / "out").mkdir()
    found = (tmp_path / "f").stat()
    inode, ctime = file_state(found.st_ino, found.st_ctime_ns)
    changes = Changes.by_columns(Columns.of([Entry(b"f", "file", 0o644, size=2)]), [bytes(tmp_path / "f")], array("q", [0]),
                                 array("q", [inode, ctime - (not same)]))  # fmt: skip
    if same:
        unpack_changes(changes, str(tmp_path / "out"), owners=False)
    else:
        with pytest.raises(ContextError, match="f changed while it was read"):
            unpack_changes(changes, str(tmp_path / "out"), owners=False)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    changes = Changes.of([Change(Entry(b"f", "file", 0o644, size=2), bytes(tmp_path / "f"))])
    with pytest.raises(ContextError, match="cannot read f: No such file"):
        unpack_changes(changes, str(tmp_path / "out"), owners=False)


def test_what_cannot_be_written_is_no_fault_of_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"12")
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(Disk, "create", lambda *_: full)
    with pytest.raises(StorageError, match=r"cannot write f: .*space") as raised:
        unpack_changes(Changes.of([Change(Entry(b"f", "file", 0o644, size=2), bytes(tmp_path / "f"))]), str(tmp_path), owners=False)
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
    (tmp_path / "f").write_text("of the context\n")
    os.chmod(tmp_path / "f", 0o644)
    changes = [Change(Entry(b"data/ro/f", "file", 0o755, 1000, 1000, 15, SECOND), bytes(tmp_path / "f")),
               Change(Entry(b"data/ro/l", "symlink", 0o777, link=b"f"))]  # fmt: skip
    unnamed = await machine.snapshots.unpack_changes(Changes.of(changes), None)
    with machine.content.writer(written_elsewhere=True) as writer:
        packed = await machine.pool.call(pack_changes, Changes.of(changes), str(writer.path), "gzip", None,
                                         str(machine.indexes.directory))  # fmt: skip
        blob = Descriptor(OCI_LAYER, writer.commit(Digest("sha256", packed.digest), packed.size), packed.size)
    layer = Layer(Digest("sha256", packed.diff_id), blob)
    index = machine.indexes.get(layer.diff_id)
    assert index is not None
    grown = State((*state.chain, layer), state.tree.extended(layer, index))
    assert layer in await machine.snapshots.missing(grown.chain)
    assert unnamed is not None
    await machine.snapshots.publish(unnamed, layer.diff_id)
    if machine.environment.snapshots == "overlay":
        assert layer not in await machine.snapshots.missing(grown.chain)
    monkeypatch.setattr(jobs, "unpack_layer", None)
    await machine.snapshots.unpack(layer)
    machine.content.path(blob.digest).write_bytes(b"nobody reads it")
    active = await machine.snapshots.prepare(grown.chain, grown.tree)
    ran = await machine.execute(active, "sh", "-c", "cat /data/ro/l; stat -c '%a %u %g %Y' /data/ro/f; stat -c %a /data/ro")
    assert ran.stdout.decode() == "of the context\n755 1000 1000 1\n555\n"
    assert await machine.changes(active, grown.tree) == []
    await machine.snapshots.discard(active)
    assert not list((machine.state_dir / "roots").glob("*/*unpack*"))


@pytest.mark.anyio
@pytest.mark.parametrize("first", ["changes", "blob"])
async def test_a_layer_that_somebody_else_unpacks_too_is_there_once(machine: Rig, tmp_path: Path, first: str) -> None:
    state = await machine.base(Tar().dirs("app").add("app/f", "12").bytes())
    layer = state.chain[-1]
    (tmp_path / "f").write_text("12")
    changes = [Change(Entry(b"app", "dir", 0o755, mtime=TIME * SECOND)),
               Change(Entry(b"app/f", "file", 0o644, size=2, mtime=TIME * SECOND), bytes(tmp_path / "f"))]  # fmt: skip
    unnamed = await machine.snapshots.unpack_changes(Changes.of(changes), None)
    assert unnamed is not None
    if first == "blob":
        await machine.snapshots.unpack(layer)
    await machine.snapshots.publish(unnamed, layer.diff_id)
    await machine.snapshots.abandon(unnamed)
    await machine.snapshots.unpack(layer)
    (directory,) = (machine.state_dir / "layers").glob(f"*/diff/{layer.diff_id.hex}")
    assert (directory / "app/f").read_text() == "12"
    assert not list((machine.state_dir / "roots").glob("*/*unpack*"))
