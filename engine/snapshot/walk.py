"""Snapshots by plain directories: a chain is a directory its layers were applied to, and a walk tells what a step changed.

For machines that cannot mount an overlay. A root moves along its stage: after a step it is the root of the longer chain, and what
instructions without RUN have added is applied to it when the next RUN needs it. Another branch of the build makes its own root.

A layer is unpacked by itself, into a store of such layers, as soon as it arrives or while it is packed. The first root that wants
it takes it, by moving its files; another one has it from its blob.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio

from engine.content.base import ContentStore
from engine.content.scratch import Scratch
from engine.image.digest import Digest
from engine.isolate.base import DirectoryRoot, Environment, Root
from engine.layer.arriving import Arriving
from engine.layer.base import Chain, FileTree, Layer
from engine.layer.changes import Changes
from engine.layer.entries import Entry
from engine.layer.hashing import hash_ranges
from engine.layer.index import IndexStore
from engine.layer.tree import Tree
from engine.snapshot import jobs, state
from engine.snapshot.base import Active, Unnamed
from engine.snapshot.compare import Found, all_new, changes, suspects
from engine.snapshot.layers import LayerDirs, Place, blob_path, chain_name, chain_names
from engine.tasks import gather
from engine.workers.base import Workers

_ROOT = Entry(b"", "dir", 0o755)
_MOST_IDLE = 8


class _Opened(NamedTuple):
    """What is there after the first use."""

    layers: LayerDirs
    """Layers whose files are asked for (`files`), and views."""
    loose: LayerDirs
    """Layers that the next root may take."""
    environment: Environment


class WalkSnapshotter:
    """Implements `Snapshotter`. Directories appear in `layers` and `roots` of the state directory when they are needed."""

    def __init__(self, state_dir: Path, content: ContentStore, workers: Workers, indexes: IndexStore,
                 side_by_side: int = 2) -> None:  # fmt: skip
        """`side_by_side` is the number of workers that may look through one root."""
        self._most_shares = side_by_side
        self._state_dir = state_dir.absolute()
        self._content = content
        self._workers = workers
        self._indexes = indexes
        self._scratch = Scratch(self._state_dir / "roots")
        self._opening = anyio.Lock()
        self._open: _Opened | None = None
        self._idle: list[tuple[str, Path]] = []
        """Committed roots by the names of their chains, the oldest first."""
        self._shares: dict[Path, int] = {}
        """In how many shares roots are looked through, side by side."""

    async def missing(self, chain: Chain) -> Sequence[Layer]:
        """See `Snapshotter`."""
        await self._opened()
        names = {name for name, _ in self._idle}
        there = max((count for count, name in enumerate(chain_names(chain), 1) if name in names), default=0)
        return chain[there:]

    async def unpack(self, layer: Layer, arriving: Arriving | None = None) -> None:
        """See `Snapshotter`."""
        await (await self._opened()).loose.ensure(layer, arriving)

    async def unpack_changes(self, changes: Changes, latest_mtime: int | None) -> Unnamed | None:
        """See `Snapshotter`."""
        return await (await self._opened()).loose.unpack_changes(changes, latest_mtime)

    async def publish(self, unnamed: Unnamed, diff_id: Digest) -> None:
        """See `Snapshotter`."""
        await (await self._opened()).loose.publish(unnamed, diff_id)

    async def abandon(self, unnamed: Unnamed) -> None:
        """See `Snapshotter`."""
        await (await self._opened()).loose.abandon(unnamed)

    async def prepare(self, chain: Chain, tree: FileTree) -> Active:
        """See `Snapshotter`."""
        await self._opened()
        count, directory = self._take(chain)
        try:
            await self._build(directory, chain[count:], tree)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._remove(directory)
            raise
        return Active(str(directory.relative_to(self._state_dir)), DirectoryRoot(f"{directory}/{state.ROOT}"), chain)

    async def prepare_on(self, below: Active, tree: FileTree, untouched: Sequence[bytes]) -> Active | None:
        """See `Snapshotter`. There is none: roots are not stacked here."""
        return None

    async def rebased(self, active: Active, chain: Chain) -> Active:
        """See `Snapshotter`."""
        return active

    async def changes(self, active: Active, tree: Tree) -> Changes:
        """See `Snapshotter`."""
        environment = (await self._opened()).environment
        directory = self._state_dir / active.id
        compared = await gather(*(partial(self._workers.call, state.compare, str(directory), share)
                                  for share in range(self._shares[directory])))  # fmt: skip
        changed, removed = ([path for each in compared for path in each[part]] for part in (0, 1))
        index = await self._workers.call(state.read_entries, str(directory), changed, removed)
        root = os.fsencode(directory / state.ROOT)
        if not removed and (new := all_new(index, tree, environment.ids, root)):
            return new
        found = Found(index.entries, removed)
        doubtful = suspects(found, tree, environment.ids)
        same = await self._same(root, doubtful, active.chain, tree) if doubtful else frozenset()
        return Changes.of(changes(found, tree, environment.ids, same, root))

    async def commit(self, active: Active, chain: Chain) -> None:
        """See `Snapshotter`."""
        directory = self._state_dir / active.id
        await self._workers.call(state.keep_state, str(directory))
        self._idle.append((chain_name(chain), directory))
        while len(self._idle) > _MOST_IDLE:
            await self._remove(self._idle.pop(0)[1])

    async def discard(self, active: Active) -> None:
        """See `Snapshotter`."""
        await self._remove(self._state_dir / active.id)

    async def view(self, chain: Chain, tree: Tree) -> Root:
        """See `Snapshotter`."""
        final = (await self._opened()).layers.path("view", chain_name(chain))
        if not final.is_dir():
            directory = self._scratch.directory("view-")
            try:
                await self._build(directory, chain, tree)
                final.parent.mkdir(exist_ok=True)
                await self._workers.call(jobs.publish, str(directory), str(final))
            finally:
                with anyio.CancelScope(shield=True):
                    await self._remove(directory)
        return DirectoryRoot(f"{final}/{state.ROOT}")

    async def files(self, chain: Chain, tree: Tree, paths: Sequence[bytes]) -> Mapping[bytes, tuple[bytes, int]]:
        """See `Snapshotter`. Layers that hold some of the files are unpacked by themselves for it."""
        return await (await self._opened()).layers.files(chain, tree, paths)

    async def aclose(self) -> None:
        """Removes all roots."""
        await self._scratch.aclose(self._remove)

    def _take(self, chain: Chain) -> tuple[int, Path]:
        """The committed root that has most layers of the chain, how many it has, and no more than these; or a new directory."""
        names = ["", *chain_names(chain)]
        for count in range(len(chain), 0, -1):
            for i, (name, directory) in enumerate(self._idle):
                if name == names[count]:
                    del self._idle[i]
                    return count, directory
        return 0, self._scratch.directory("walk-")

    async def _build(self, directory: Path, layers: Chain, tree: FileTree) -> None:
        opened = await self._opened()
        sources = [state.LayerSource(layer.diff_id, str(blob_path(self._content, layer)),
                                     str(opened.loose.path("diff", layer.diff_id.hex))) for layer in layers]
        self._shares[directory] = await self._workers.call(
            state.build_root, str(directory), sources, str(self._indexes.directory), tree.get(b"") or _ROOT, opened.environment.ids,
            self._most_shares)  # fmt: skip

    async def _same(self, root: bytes, paths: Sequence[bytes], chain: Chain, tree: Tree) -> frozenset[bytes]:
        """Those of the paths whose content is what it was. What it was only the layer's blob knows, if the index does not."""
        known: dict[bytes, str] = {}
        unknown: dict[int, dict[bytes, bytes]] = {}
        for path in paths:
            entry = tree.get(path)
            if entry is not None and entry.digest:
                known[path] = entry.digest
            else:
                number, at = tree.locate(path)
                unknown.setdefault(number, {})[at] = path
        for number, wanted in unknown.items():
            blob = str(blob_path(self._content, chain[number]))
            for at, digest in (await self._workers.call(state.digests, blob, tuple(wanted))).items():
                known[wanted[at]] = digest
        sizes = {path: entry.size for path in paths if (entry := tree.get(path)) is not None}
        now = await self._workers.call(hash_ranges, [(root + b"/" + path, 0, sizes[path]) for path in paths])
        return frozenset(path for path, digest in zip(paths, now, strict=True) if known.get(path) == digest)

    async def _remove(self, directory: Path) -> None:
        self._shares.pop(directory, None)
        await self._workers.call(jobs.remove_root, str(directory))

    async def _opened(self) -> _Opened:
        """The layer stores and the machine's abilities; the first time, also removes what processes that died have left."""
        if self._open is None:
            async with self._opening:
                if self._open is None:
                    environment = await self._workers.environment()
                    await self._scratch.reclaim(self._remove)
                    layers, loose = (
                        LayerDirs(Place(self._state_dir / "layers" / f"{name}-{environment.ids.kind}", self._scratch, "plain",
                                        environment.ids), self._content, self._workers, self._indexes)
                        for name in ("plain", "loose"))  # fmt: skip
                    self._open = _Opened(layers, loose, environment)
        return self._open
