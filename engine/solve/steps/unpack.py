"""Layers fetched and unpacked, side by side, each while it arrives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio

from engine.errors import EngineError
from engine.image.descriptor import Descriptor
from engine.layer.base import Chain, Layer
from engine.snapshot.base import Snapshotter
from engine.solve.mechanisms import Job

Progress = Callable[[Descriptor, int], None]


async def unpack(job: Job, chain: Chain, progress: Progress | None = None) -> None:
    """Makes the layers of a chain ready for a root; those that are there cost nothing. Raises what fetching and unpacking raise."""
    snapshots = await job.mechanisms.snapshots()
    async with anyio.create_task_group() as tasks:
        for layer in await snapshots.missing(chain):
            tasks.start_soon(job.mechanisms.trees.ready, layer, partial(_unpack, job, snapshots, layer, progress))


async def prefetch(job: Job, chain: Chain, progress: Progress | None = None) -> None:
    """As `unpack`, ahead of those who need it: who wants the index of a layer meanwhile waits for it, instead of reading the layer
    for himself. Raises nothing that they would not: an error is theirs to meet and to tell."""

    async def one(layer: Layer) -> None:
        snapshots = await job.mechanisms.snapshots()
        if layer in await snapshots.missing(chain):
            await _unpack(job, snapshots, layer, progress)

    try:
        async with anyio.create_task_group() as tasks:
            for layer in chain:
                tasks.start_soon(job.mechanisms.trees.ready, layer, partial(one, layer))
    except* EngineError:
        pass


async def _unpack(job: Job, snapshots: Snapshotter, layer: Layer, progress: Progress | None) -> None:
    await job.mechanisms.blobs.read(layer.blob, partial(snapshots.unpack, layer), progress)
