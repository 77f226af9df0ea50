"""Layers on disk: odd layers give the same files in an overlay as applied to one directory, and many may unpack at once."""

from __future__ import annotations

import os
import signal
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from engine.errors import ContentError, StorageError
from engine.image.descriptor import OCI_LAYER, Descriptor
from engine.image.digest import Digest
from engine.layer.base import Chain, FileTree, Layer
from engine.layer.tree import Tree
from engine.snapshot.base import Active
from engine.snapshot.overlay import OverlaySnapshotter
from engine.snapshot.walk import WalkSnapshotter
from tests.contract.roots import MODES, TIME, Rig, State, Tar, rig


@pytest.fixture(params=[*MODES, "userns walk, unpacked ahead", "chroot walk, unpacked ahead"])
async def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    mode, _, ahead = request.param.partition(", ")
    async with rig(tmp_path / "state", mode) as made:
        if ahead:
            prepare = made.snapshots.prepare

            async def prepare_unpacked(chain: Chain, tree: FileTree) -> Active:
                for layer in await made.snapshots.missing(chain):
                    await made.snapshots.unpack(layer)
                return await prepare(chain, tree)

            monkeypatch.setattr(made.snapshots, "prepare", prepare_unpacked)
        yield made


@pytest.fixture
async def overlay(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "state", "userns overlay") as made:
        yield made


def again(machine: Rig) -> OverlaySnapshotter | WalkSnapshotter:
    """A second snapshotter over the same state directory, as in another process."""
    kind = type(machine.snapshots)
    assert kind in (OverlaySnapshotter, WalkSnapshotter)
    return kind(machine.state_dir, machine.content, machine.pool, machine.indexes)  # type: ignore[call-arg,return-value]


async def listing(machine: Rig, state: State, *paths: str) -> str:
    active = await machine.snapshots.prepare(state.chain, state.tree)
    ran = await machine.execute(active, "sh", "-c", "cd / && find " + " ".join(paths) + " | sort | while read f; do "
                                "stat -c '%n %F %a %Y' $f; done")
    assert await machine.changes(active, state.tree) == []
    await machine.snapshots.discard(active)
    return ran.stdout.decode()


async def test_directories_that_a_layer_does_not_describe_stay_as_they_are_below(machine: Rig) -> None:
    state = await machine.base(Tar().dirs("data/ro/deeper", mode=0o711).bytes(), Tar().add("tmp/x").add("data/ro/deeper/y").bytes())
    assert await listing(machine, state, "tmp", "data/ro") == (
        "data/ro directory 555 1577836800\ndata/ro/deeper directory 711 1577836800\n"
        "data/ro/deeper/y regular empty file 644 1577836800\ndata/ro/r regular file 444 1577836800\n"
        "tmp directory 1777 1577836800\ntmp/x regular empty file 644 1577836800\n")


async def test_what_a_layer_puts_below_a_lower_symlink_lands_where_it_leads(machine: Rig) -> None:
    upper = Tar().add("var/new", "1").add("var/sub/new", "2").dirs("var/dir").add("var/dir/f", "3").add("data/link/over", "4")
    state = await machine.base(upper.bytes())
    active = await machine.snapshots.prepare(state.chain, state.tree)
    ran = await machine.execute(active, "sh", "-c", "readlink /var; readlink /data/link; cat /data/new /data/sub/new /data/dir/f "
                                "/data/sub/over /data/a")
    assert ran.stdout == b"data\nsub\n1234a\n"
    assert await machine.changes(active, state.tree) == []
    found = await machine.snapshots.files(state.chain, state.tree, [b"data/sub/over", b"data/new"])
    assert [Path(os.fsdecode(found[path][0])).read_text() for path in sorted(found)] == ["1", "4"]


async def test_a_layer_may_come_twice(machine: Rig) -> None:
    twice = Tar().dirs("l", "l/d", mode=0o711).add("l/f", "1").add("l/d/x").add("data/.wh.a").bytes()
    between = Tar().add("l/f", "2").add("l/.wh.d").add("data/a", "new").dirs("m").bytes()
    empty = Tar().bytes()
    state = await machine.base(empty, twice, empty, between, twice, empty)
    active = await machine.snapshots.prepare(state.chain, state.tree)
    ran = await machine.execute(active, "sh", "-c", "cat /l/f; test -d /m && stat -c '%a %n' /l/d /l/d/x && ! test -e /data/a")
    assert (ran.status, ran.stdout, ran.stderr) == (0, b"1711 /l/d\n644 /l/d/x\n", b"")
    assert await machine.changes(active, state.tree) == []


async def test_a_hard_link_to_a_lower_layers_file_is_that_file(machine: Rig) -> None:
    state = await machine.base(Tar().dirs("l").add("l/a", kind=tarfile.LNKTYPE, link="data/a").add(
        "l/b", kind=tarfile.LNKTYPE, link="var/sub/c").bytes())
    active = await machine.snapshots.prepare(state.chain, state.tree)
    ran = await machine.execute(active, "sh", "-c", "cat /l/a /l/b && stat -c '%a %Y' /l/a")
    assert (ran.stdout, ran.stderr) == (b"a\nc\n644 1577836800\n", b"")
    assert await machine.changes(active, state.tree) == []
    found = await machine.snapshots.files(state.chain, state.tree, [b"l/a"])
    assert Path(os.fsdecode(found[b"l/a"][0])).read_text() == "a\n"


async def test_whiteouts_and_opaque_directories(machine: Rig) -> None:
    state = await machine.base(Tar().add("etc/.wh.motd").dirs("data").add("data/.wh..wh..opq").add("data/only", "x").bytes())
    assert await listing(machine, state, "etc/motd", "data") == (
        "data directory 755 1577836800\ndata/only regular file 644 1577836800\n")


async def test_files_of_a_state_without_a_root(machine: Rig) -> None:
    state = await machine.base(Tar().dirs("app").add("app/f", "of the app").bytes())
    found = await machine.snapshots.files(state.chain, state.tree, [b"app/f"])
    assert Path(os.fsdecode(found[b"app/f"][0])).read_text() == "of the app"
    assert found[b"app/f"][1] == 0
    base = next(iter((machine.state_dir / "layers").glob("*/diff"))) / state.chain[0].diff_id.hex
    assert not base.exists()
    stepped = await machine.step(state, "echo stepped > /app/g")
    assert stepped.after
    found = await machine.snapshots.files(stepped.after.chain, stepped.after.tree, [b"app/g", b"app/f"])
    assert sorted(Path(os.fsdecode(path)).read_text() for path, _ in found.values()) == ["of the app", "stepped\n"]


async def test_a_blob_with_other_content_than_the_image_says(machine: Rig) -> None:
    tar = Tar().add("f", "x").bytes()
    blob = machine.content.put(tar)
    layer = Layer(Digest.of(b"something else"), Descriptor(OCI_LAYER, blob, len(tar)))
    with pytest.raises(ContentError, match="content is sha256"):
        await machine.snapshots.unpack(layer)
    with pytest.raises(ContentError):
        await machine.snapshots.prepare((layer,), Tree.empty())
    assert machine.indexes.get(layer.diff_id) is None
    assert leftovers(machine) == []


async def test_a_blob_that_is_not_there(machine: Rig) -> None:
    layer = Layer(Digest.of(b"x"), Descriptor(OCI_LAYER, Digest.of(b"y"), 1))
    with pytest.raises(StorageError, match="is not in the state directory"):
        await machine.snapshots.unpack(layer)
    with pytest.raises(StorageError, match="is not in the state directory"):
        await machine.snapshots.prepare((layer,), Tree.empty())


def leftovers(machine: Rig) -> list[Path]:
    return [path for path in (machine.state_dir / "roots").glob("*/*")]


async def test_unpacking_stores_the_index_and_verifies(machine: Rig) -> None:
    tar = Tar().dirs("d").add("d/f", "x").bytes()
    digest = machine.content.put(tar)
    layer = Layer(digest, Descriptor(OCI_LAYER, digest, len(tar)))
    async with anyio.create_task_group() as tasks:
        for snapshots in (machine.snapshots, again(machine), again(machine)):
            for _ in range(3):
                tasks.start_soon(snapshots.unpack, layer)
    index = machine.indexes.get(digest)
    assert index is not None and [entry.path for entry in index.entries] == [b"d", b"d/f"]
    assert leftovers(machine) == []


async def test_many_states_of_one_base_at_once(machine: Rig) -> None:
    state = await machine.base()
    outputs: dict[int, bytes] = {}

    async def one(number: int) -> None:
        ran = await machine.step(state, f"echo {number} > /number && cat /number && ls / | wc -l")
        assert ran.kinds == {"number": "file"}
        outputs[number] = ran.stdout

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(one, number)
    assert {number: text.split()[0] for number, text in outputs.items()} == {n: b"%d" % n for n in range(8)}


async def test_the_same_step_committed_twice(overlay: Rig) -> None:
    state = await overlay.base()
    first = await overlay.step(state, "echo x > /x; touch -d @5 /x /")
    second = await overlay.step(state, "echo x > /x; touch -d @5 /x /")
    assert first.after and second.after and first.after.chain == second.after.chain
    assert leftovers(overlay) == []


async def test_cancelled_unpacking_can_be_done_again(overlay: Rig) -> None:
    tar = Tar()
    for number in range(3000):
        tar.add(f"f{number}", "x" * 3000)
    data = tar.bytes()
    digest = overlay.content.put(data)
    layer = Layer(digest, Descriptor(OCI_LAYER, digest, len(data)))
    await overlay.pool.call(os.getpid)
    with anyio.move_on_after(0.03) as scope:
        await overlay.snapshots.unpack(layer)
    assert scope.cancelled_caught
    await overlay.snapshots.unpack(layer)
    assert len(os.listdir(next((overlay.state_dir / "layers").glob(f"*/diff/{digest.hex}")))) == 3000


async def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            anyio.run(_prepare_and_die, tmp_path / "state")
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)  # noqa: ASYNC222  # it ends at once
    assert os.WTERMSIG(status) == signal.SIGKILL
    before = {path.name for path in (tmp_path / "state" / "roots").iterdir()}
    assert len(before) == 1
    async with rig(tmp_path / "state", "userns overlay") as machine:
        state = await machine.base()
        ran = await machine.step(state, "ls -A /left 2> /dev/null; cat /data/a")
        assert ran.stdout == b"a\n"
        assert before.isdisjoint(path.name for path in (tmp_path / "state" / "roots").iterdir())


async def _prepare_and_die(state_dir: Path) -> None:
    async with rig(state_dir, "userns overlay") as machine:
        state = await machine.base()
        active = await machine.snapshots.prepare(state.chain, state.tree)
        await machine.execute(active, "sh", "-c", "mkdir -p /left/x && chmod 0 /left && chown 5:5 /left; true")
        os.kill(os.getpid(), signal.SIGKILL)


async def test_two_hundred_layers(overlay: Rig) -> None:
    state = await overlay.base(*(Tar().dirs("l").add(f"l/{number}", str(number)).bytes() for number in range(200)))
    ran = await overlay.step(state, "ls /l | wc -l; cat /l/0 /l/199")
    assert ran.stdout == b"200\n0199"


@pytest.mark.parametrize("mode", [mode for mode in MODES if "walk" in mode])
async def test_a_walks_root_moves_along_its_stage(tmp_path: Path, mode: str) -> None:
    async with rig(tmp_path / "state", mode) as machine:
        ran = await machine.step(await machine.base(), "echo 1 > /one")
        assert ran.after
        (before,) = leftovers(machine)
        copied = await machine.extend(ran.after, Tar().add("two", "2").bytes())
        active = await machine.snapshots.prepare(copied.chain, copied.tree)
        assert machine.state_dir / active.id == before
        other = await machine.snapshots.prepare(copied.chain, copied.tree)
        assert other.id != active.id
        assert (await machine.execute(other, "cat", "/one", "/two")).stdout == b"1\n2"


@pytest.mark.parametrize("mode", [mode for mode in MODES if "walk" in mode])
async def test_an_unpacked_layer_is_taken_by_the_first_root_and_others_have_it_from_its_blob(tmp_path: Path, mode: str) -> None:
    async with rig(tmp_path / "state", mode) as machine:
        state = await machine.base(Tar().dirs("app").add("app/f", "1").add("data/new", "2").add("data/.wh.a").bytes())
        layer = state.chain[-1]
        blob = machine.content.path(layer.blob.digest)
        await machine.snapshots.unpack(layer)
        whole = blob.read_bytes()
        blob.write_bytes(b"spoilt")
        active = await machine.snapshots.prepare(state.chain, state.tree)
        look = "cat /app/f /data/new; ls /data/a; stat -c '%a %Y' /data"
        assert (await machine.execute(active, "sh", "-c", look)).stdout == f"12755 {TIME}\n".encode()
        assert not [path for path in (machine.state_dir / "layers").glob("*/diff/*")]
        with pytest.raises(ContentError):
            await machine.snapshots.prepare(state.chain, state.tree)
        blob.write_bytes(whole)
        other = await machine.snapshots.prepare(state.chain, state.tree)
        assert (await machine.execute(other, "sh", "-c", look)).stdout == f"12755 {TIME}\n".encode()
        assert await machine.changes(active, state.tree) == await machine.changes(other, state.tree) == []


@pytest.mark.parametrize("mode", [mode for mode in MODES if "walk" in mode])
async def test_an_unpacked_layer_whose_index_is_gone_is_had_from_its_blob(tmp_path: Path, mode: str) -> None:
    async with rig(tmp_path / "state", mode) as machine:
        state = await machine.base(Tar().add("f", "1").bytes())
        await machine.snapshots.unpack(state.chain[-1])
        machine.indexes.path(state.chain[-1].diff_id).unlink()
        active = await machine.snapshots.prepare(state.chain, state.tree)
        assert (await machine.execute(active, "cat", "/f")).stdout == b"1"


async def test_a_view_is_for_reading_and_lasts(machine: Rig) -> None:
    state = await machine.base()
    view = await machine.snapshots.view(state.chain, state.tree)
    assert await again(machine).view(state.chain, state.tree) == view
    assert leftovers(machine) == []


async def test_closing_removes_what_is_active(machine: Rig) -> None:
    state = await machine.base()
    active = await machine.snapshots.prepare(state.chain, state.tree)
    await machine.execute(active, "sh", "-c", "mkdir -p /a/b && chmod 0 /a")
    await machine.snapshots.aclose()
    assert list((machine.state_dir / "roots").iterdir()) == []
