"""Layers fetched and unpacked, side by side, each while it arrives."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

import anyio

from engine.errors import ContentError, EngineError, StorageError
from engine.image.descriptor import Descriptor
from engine.layer.base import Chain, Layer
from engine.snapshot.base import Snapshotter
from engine.solve.arrival import Arrival
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
    blobs = job.mechanisms.blobs
    if not blobs.is_here(layer.blob):
        with Arrival(job.scratch / f"arrival-{secrets.token_hex(8)}") as arrival:
            if await _unpack_arriving(job, snapshots, layer, arrival, progress):
                return
    try:
        await snapshots.unpack(layer)
    except ContentError as error:
        raise blobs.useless(layer.blob, error) from error


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
