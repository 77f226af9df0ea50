"""The end of every step: changes become a layer in the content store, with its index."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial

import anyio.to_thread

from engine.errors import EngineError
from engine.image.descriptor import Descriptor, layer_type
from engine.image.digest import Digest
from engine.layer.base import Layer
from engine.layer.changes import Changes
from engine.layer.pack import Packed, pack_changes
from engine.snapshot.base import CLEANUP_SECONDS, Snapshotter, Unnamed
from engine.solve.departure import Departure
from engine.solve.mechanisms import Job, Mechanisms
from engine.tasks import gather

SMALL, FEW = 1 << 20, 200
"""Bytes and files. Less than this, readable by everybody's own user, is packed in a thread: a worker process would take longer to
start."""

MOST = 100_000
"""Files. More are not unpacked while they are packed: both workers together would take more memory than a build should, 300 MB."""

SENT_MEANWHILE = 16 << 20
"""Bytes. A layer with as much in its files is sent while it is packed; a smaller one is packed before that would have helped."""

Depart = Callable[[Departure], None]
"""Told of a layer's blob that is about to be written."""


async def make_layer(job: Job, changes: Changes, *, own_files: bool, hash_files: bool = False, run_on: bool = False,
                     depart: Depart | None = None) -> tuple[Layer, bytes]:  # fmt: skip
    """Packs changes; with `hash_files` also gives digests of them (`Packed.digests`). `own_files`: the engine's own user may read
    the sources (they lie in a context, not in a root). `depart` is called if the layer is to be sent, and large enough for that to
    be begun while it is packed. With `run_on` a command is going to be run on the layer: it is unpacked meanwhile.

    Raises `ContextError` when a source changes meanwhile, `StorageError` when there is no space.
    """
    mechanisms = job.mechanisms
    with mechanisms.content.writer(written_elsewhere=True) as writer, ExitStack() as stack:
        departure: Departure | None = None
        if depart and changes.size >= SENT_MEANWHILE:
            departure = stack.enter_context(Departure(writer.path, job.scratch / f"departure-{secrets.token_hex(8)}"))
            depart(departure)
        small = not changes.count or (own_files and changes.count < FEW and changes.size < SMALL)
        snapshots = await _snapshots(mechanisms) if run_on and not small and changes.count <= MOST else None
        arguments = (str(writer.path), job.compression, job.compression_level, str(mechanisms.indexes.directory), job.latest_mtime,
                     hash_files or snapshots is not None, str(departure.signals) if departure else "")  # fmt: skip
        pack: Callable[[], Awaitable[Packed]] = partial(mechanisms.workers.call, pack_changes, changes, *arguments)
        if small:
            pack = partial(anyio.to_thread.run_sync, pack_changes, changes, *arguments, limiter=mechanisms.limiters.workers)
        if snapshots:
            packed = await _unpacked_meanwhile(snapshots, pack, changes, job.latest_mtime)
        else:
            packing = pack()
            del changes, pack  # they can be large, and who packs them has them now
            packed = await packing
        blob = Descriptor(layer_type(job.compression), Digest("sha256", packed.digest), packed.size)
        writer.commit(blob.digest, blob.size)
        if departure:
            departure.made(blob, mechanisms.content.path(blob.digest))
    return Layer(Digest("sha256", packed.diff_id), blob), packed.digests


async def _unpacked_meanwhile(snapshots: Snapshotter, pack: Callable[[], Awaitable[Packed]], changes: Changes,
                              latest_mtime: int | None) -> Packed:  # fmt: skip
    """Packs changes, and unpacks their layer. Files may be written to meanwhile: if both have not read the very same, the unpacked
    layer counts for nothing. Nor does it matter if it fails. Whoever needs the layer unpacked can have it from its blob."""
    unpacked: Unnamed | None = None

    async def unpack() -> None:
        nonlocal unpacked
        with suppress(EngineError):
            unpacked = await snapshots.unpack_changes(changes, latest_mtime)

    try:
        packed, _ = await gather(pack, unpack)
        if unpacked and unpacked.digests == packed.digests:
            with suppress(EngineError):
                await snapshots.publish(unpacked, Digest("sha256", packed.diff_id))
    finally:
        if unpacked:
            with anyio.move_on_after(CLEANUP_SECONDS, shield=True), suppress(EngineError):
                await snapshots.abandon(unpacked)
    return packed


async def _snapshots(mechanisms: Mechanisms) -> Snapshotter | None:
    """Where commands are run on layers; None where none can be, as whoever wants to will find out."""
    return await mechanisms.snapshots() if (await mechanisms.workers.environment()).isolation else None
