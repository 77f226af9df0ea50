"""Snapshots by overlayfs: a chain is a stack of layer directories, and a step's upper directory is what it changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from engine.content.base import ContentStore
from engine.content.scratch import Scratch
from engine.image.digest import Digest
from engine.isolate.base import Environment, OverlayRoot, Root
from engine.layer.apply import Style
from engine.layer.arriving import Arriving
from engine.layer.base import Chain, FileTree, Layer
from engine.layer.changes import Changes
from engine.layer.entries import Entry
from engine.layer.index import IndexStore
from engine.layer.tree import Tree
from engine.snapshot import jobs
from engine.snapshot.base import CLEANUP_SECONDS, Active, Unnamed
from engine.snapshot.compare import all_new, changes, suspects
from engine.snapshot.layers import LayerDirs, Place, chain_name
from engine.snapshot.upper import found_in, read_upper, same_as_below, touches
from engine.workers.base import Workers

_ROOT = Entry(b"", "dir", 0o755)


class OverlaySnapshotter:
    """Implements `Snapshotter`. Directories appear in `layers` and `roots` of the state directory when they are needed."""

    def __init__(self, state_dir: Path, content: ContentStore, workers: Workers, indexes: IndexStore) -> None:
        self._state_dir = state_dir.absolute()
        self._content = content
        self._workers = workers
        self._indexes = indexes
        self._scratch = Scratch(self._state_dir / "roots")
        self._opening = anyio.Lock()
        self._layers: LayerDirs | None = None
        self._environment: Environment | None = None

    async def missing(self, chain: Chain) -> Sequence[Layer]:
        """See `Snapshotter`."""
        return (await self._opened())[0].missing(chain)

    async def unpack(self, layer: Layer, arriving: Arriving | None = None) -> None:
        """See `Snapshotter`."""
        await (await self._opened())[0].ensure(layer, arriving)

    async def unpack_changes(self, changes: Changes, latest_mtime: int | None) -> Unnamed | None:
        """See `Snapshotter`."""
        return await (await self._opened())[0].unpack_changes(changes, latest_mtime)

    async def publish(self, unnamed: Unnamed, diff_id: Digest) -> None:
        """See `Snapshotter`."""
        await (await self._opened())[0].publish(unnamed, diff_id)

    async def abandon(self, unnamed: Unnamed) -> None:
        """See `Snapshotter`."""
        await (await self._opened())[0].abandon(unnamed)

    async def prepare(self, chain: Chain, tree: FileTree) -> Active:
        """See `Snapshotter`."""
        return await self._made(await (await self._opened())[0].lowers(chain), chain, tree)

    async def prepare_on(self, below: Active, tree: FileTree, untouched: Sequence[bytes]) -> Active | None:
        """See `Snapshotter`."""
        _, environment = await self._opened()
        assert isinstance(below.root, OverlayRoot) and below.root.upper is not None
        if await self._workers.call(touches, below.root.upper, environment.xattrs, untouched):
            return None
        return await self._made((below.root.upper, *below.root.lower), below.chain, tree)

    async def _made(self, lower: tuple[str, ...], chain: Chain, tree: FileTree) -> Active:
        """An active snapshot on some directories, topmost first. The root directory is as in the tree."""
        _, environment = await self._opened()
        directory = self._scratch.directory("overlay-")
        root = tree.get(b"") or _ROOT
        try:
            await self._workers.call(jobs.make_active, str(directory), ("upper", "work"), root, environment.ids)
        except BaseException:
            with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
                await self._remove(directory)
            raise
        overlay = OverlayRoot(lower, f"{directory}/upper", f"{directory}/work")
        return Active(str(directory.relative_to(self._state_dir)), overlay, chain)

    async def rebased(self, active: Active, chain: Chain) -> Active:
        """See `Snapshotter`."""
        layers, _ = await self._opened()
        assert isinstance(active.root, OverlayRoot)
        return Active(active.id, OverlayRoot(await layers.lowers(chain), active.root.upper, active.root.work), chain)

    async def changes(self, active: Active, tree: Tree) -> Changes:
        """See `Snapshotter`."""
        _, environment = await self._opened()
        assert isinstance(active.root, OverlayRoot) and active.root.upper is not None
        upper = active.root.upper
        read = await self._workers.call(read_upper, upper, environment.xattrs)
        index, removed, opaque = read
        # In threads, since what is asked of the tree may have its layers put together.
        if not (removed or opaque):
            new = await anyio.to_thread.run_sync(all_new, index, tree, environment.ids, os.fsencode(upper))
            if new:
                return new
        found = found_in(read)
        same: Sequence[bytes] = await anyio.to_thread.run_sync(suspects, found, tree, environment.ids)
        if same:
            same = await self._workers.call(same_as_below, upper, active.root.lower, same)
        return Changes.of(changes(found, tree, environment.ids, frozenset(same), os.fsencode(upper)))

    async def commit(self, active: Active, chain: Chain) -> None:
        """See `Snapshotter`."""
        layers, _ = await self._opened()
        assert isinstance(active.root, OverlayRoot) and active.root.upper is not None
        layers.note(chain)
        final = layers.path("chain", chain_name(chain))
        await self._workers.call(jobs.keep_upper, active.root.upper, str(final), str(self._state_dir / active.id))

    async def discard(self, active: Active) -> None:
        """See `Snapshotter`."""
        await self._remove(self._state_dir / active.id)

    async def view(self, chain: Chain, tree: Tree) -> Root:
        """See `Snapshotter`."""
        layers, _ = await self._opened()
        return OverlayRoot(await layers.lowers(chain))

    async def files(self, chain: Chain, tree: Tree, paths: Sequence[bytes]) -> Mapping[bytes, tuple[bytes, int]]:
        """See `Snapshotter`."""
        return await (await self._opened())[0].files(chain, tree, paths)

    async def aclose(self) -> None:
        """Removes what is still active."""
        await self._scratch.aclose(self._remove)

    async def _remove(self, directory: Path) -> None:
        await self._workers.call(jobs.remove_root, str(directory))

    async def _opened(self) -> tuple[LayerDirs, Environment]:
        """The layer store and the machine's abilities; the first time, also removes what processes that died have left."""
        if self._layers is None or self._environment is None:
            async with self._opening:
                environment = self._environment = await self._workers.environment()
                if self._layers is None:
                    await self._scratch.reclaim(self._remove)
                    directory = self._state_dir / "layers" / f"overlay-{environment.xattrs}-{environment.ids.kind}"
                    style: Style = "overlay-trusted" if environment.xattrs == "trusted" else "overlay-user"
                    place = Place(directory, self._scratch, style, environment.ids)
                    self._layers = LayerDirs(place, self._content, self._workers, self._indexes)
        return self._layers, self._environment
