"""Layers fetched and unpacked, side by side, each while it arrives."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import anyio

from engine.errors import ContentError, EngineError, StorageError
from engine.image.descriptor import Descriptor
from engine.layer.base import Chain, Layer
from engine.snapshot.base import Snapshotter
from engine.solve.arrival import Arrival
from engine.solve.mechanisms import Job

Progress = Callable[[Descriptor, int], None]


async def unpack(job: Job, chain: Chain, progress: Progress | None = None) -> None:
    """Makes the layers of a chain ready for a root. Those that are there cost nothing; who needs the index of one that is not waits
    for it instead of reading the layer for itself. Raises what fetching and unpacking raise."""

    async def one(layer: Layer) -> None:
        snapshots = await job.mechanisms.snapshots()
        if layer in await snapshots.missing(chain):
            await _unpack(job, snapshots, layer, progress)

    async with anyio.create_task_group() as tasks:
        for layer in chain:
            tasks.start_soon(job.mechanisms.trees.ready, layer, lambda layer=layer: one(layer))


async def _unpack(job: Job, snapshots: Snapshotter, layer: Layer, progress: Progress | None) -> None:
    blobs = job.mechanisms.blobs
    if not blobs.is_here(layer.blob):
        with Arrival(job.scratch / f"arrival-{secrets.token_hex(8)}") as arrival:
            if await _unpack_arriving(job, snapshots, layer, arrival, progress):
                return
    await snapshots.unpack(layer)


async def _unpack_arriving(job: Job, snapshots: Snapshotter, layer: Layer, arrival: Arrival, progress: Progress | None) -> bool:
    """Whether that went well. If not, and the blob is there in the end, it was perhaps sent by another, after one who broke off;
    the truth comes out when the whole blob is unpacked. An error of the download is what is raised in any case."""
    done = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(job.mechanisms.blobs.ensure, layer.blob, progress, arrival)
        arriving = await arrival.arriving()
        if arriving is not None:
            try:
                await snapshots.unpack(layer, arriving)
                done = True
            except (ContentError, StorageError):
                pass
    return done


async def prefetch(job: Job, chain: Chain, progress: Progress | None = None) -> None:
    """As `unpack`, ahead of those who need it. Raises nothing that they would not: an error is theirs to meet and to tell."""
    try:
        await unpack(job, chain, progress)
    except* EngineError:
        pass
