"""A layer that is unpacked while it is packed: only what is the very same counts, and nothing else stays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from engine.errors import StorageError
from engine.layer.base import Layer
from engine.layer.changes import Changes
from engine.layer.entries import Change, Entry
from engine.layer.pack import pack_changes
from engine.snapshot import jobs
from engine.solve.mechanisms import Job
from engine.solve.steps import pack
from engine.solve.steps.pack import make_layer
from tests.contract.roots import Rig, rig

SIZE = 2 << 20

pytestmark = pytest.mark.anyio

Call = Callable[..., Awaitable[Any]]


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "state", "userns overlay") as made:
        yield made


class Making:
    """The making of a layer of one file, `f`, of which nobody knows the state."""

    def __init__(self, machine: Rig, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine, self.source = machine, place / "f"
        self.source.write_bytes(b"1" * SIZE)
        self._call, self._patch = machine.pool.call, monkeypatch
        self.instead: dict[Callable[..., object], Call] = {}
        monkeypatch.setattr(machine.pool, "call", self._called)

    async def _called(self, function: Callable[..., object], *arguments: object) -> Any:
        return await self.instead.get(function, lambda *given: self.really(function, *given))(*arguments)

    async def really(self, function: Callable[..., Any], *arguments: object) -> Any:
        """What the worker would have done."""
        return await self._call(function, *arguments)

    async def run(self, name: bytes = b"f") -> Layer:
        async def snapshots() -> object:
            return self.machine.snapshots

        m = self.machine
        limiters = SimpleNamespace(workers=anyio.CapacityLimiter(2))
        mechanisms = SimpleNamespace(content=m.content, workers=m.pool, indexes=m.indexes, snapshots=snapshots, limiters=limiters)
        job = SimpleNamespace(mechanisms=mechanisms, compression="none", compression_level=None, latest_mtime=None)
        changes = Changes.of([Change(Entry(name, "file", 0o644, size=SIZE), bytes(self.source))])
        return (await make_layer(cast(Job, job), changes, own_files=True, run_on=True))[0]

    def unpacked(self, layer: Layer) -> list[bytes]:
        """The file as it is in the layer store."""
        return [path.read_bytes() for path in (self.machine.state_dir / "layers").glob(f"*/diff/{layer.diff_id.hex}/f")]

    def left(self) -> list[Path]:
        """What is left in the scratch space."""
        return list((self.machine.state_dir / "roots").glob("*/*"))


@pytest.fixture
def making(machine: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Making:
    return Making(machine, tmp_path, monkeypatch)


async def test_it_is_there_when_the_layer_is(making: Making) -> None:
    layer = await making.run()
    assert making.unpacked(layer) == [b"1" * SIZE]
    assert making.left() == []


async def test_very_many_files_are_packed_alone(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "MOST", 0)
    layer = await making.run()
    assert making.unpacked(layer) == [] == making.left()
    assert making.machine.content.size(layer.blob.digest) == layer.blob.size


@pytest.mark.parametrize("first", ["packed", "unpacked"])
async def test_a_file_that_is_written_to_between_two_looks_is_not_taken_for_the_layers(making: Making, first: str) -> None:
    done = anyio.Event()

    async def before(*arguments: object) -> Any:
        try:
            return await making.really(one, *arguments)
        finally:
            making.source.write_bytes(b"2" * SIZE)
            done.set()

    async def after(*arguments: object) -> Any:
        await done.wait()
        return await making.really(other, *arguments)

    one, other = (pack_changes, jobs.unpack_changed) if first == "packed" else (jobs.unpack_changed, pack_changes)
    making.instead = {one: before, other: after}
    layer = await making.run()
    assert making.unpacked(layer) == []
    assert making.machine.content.path(layer.blob.digest).read_bytes()[512:][:SIZE] == (b"1" if first == "packed" else b"2") * SIZE
    assert making.left() == []


async def test_what_cannot_be_unpacked_is_packed_all_the_same(making: Making) -> None:
    async def full(*_: object) -> None:
        raise StorageError("no space left")

    making.instead = {jobs.unpack_changed: full}
    assert making.unpacked(await making.run()) == []
    making.instead = {jobs.publish_unnamed: full}
    assert making.unpacked(await making.run(b"d/f")) == []
    making.instead = {}
    await making.run(b"n" * 300)
    assert making.left() == []


async def test_when_packing_fails_nothing_stays(making: Making) -> None:
    unpacked = anyio.Event()

    async def unpack(*arguments: object) -> Any:
        result = await making.really(jobs.unpack_changed, *arguments)
        unpacked.set()
        return result

    async def fail(*_: object) -> None:
        await unpacked.wait()
        raise StorageError("no space left")

    making.instead = {jobs.unpack_changed: unpack, pack_changes: fail}
    with pytest.raises(StorageError, match="no space left"):
        await making.run()
    assert making.left() == []


@pytest.mark.parametrize("half", [True, False])
async def test_when_it_is_cancelled_nothing_stays(making: Making, half: bool) -> None:
    begun = anyio.Event()

    async def unpack(landing: Any, *arguments: object) -> Any:
        if not half:
            result = await making.really(jobs.unpack_changed, landing, *arguments)
            begun.set()
            return result
        (Path(landing.scratch) / "f").write_bytes(b"half")
        begun.set()
        await anyio.sleep_forever()

    async def wait(*_: object) -> None:
        await anyio.sleep_forever()

    making.instead = {jobs.unpack_changed: unpack, pack_changes: wait}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(making.run)
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert making.left() == []
