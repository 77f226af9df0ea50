"""The end of every step: changes become a layer in the content store, with its index."""

from __future__ import annotations

from collections.abc import Awaitable

import anyio.to_thread

from engine.image.descriptor import Descriptor, layer_type
from engine.image.digest import Digest
from engine.layer.base import Layer
from engine.layer.pack import Changes, Packed, pack_changes
from engine.solve.mechanisms import Job

SMALL, FEW = 1 << 20, 200
"""Bytes and files. Less than this, readable by everybody's own user, is packed in a thread: a worker process would take longer to
start."""


async def make_layer(job: Job, changes: Changes, *, own_files: bool, hash_files: bool = False) -> tuple[Layer, bytes]:
    """Packs changes; with `hash_files` also gives digests of them (`Packed.digests`). `own_files`: the engine's own user may read
    the sources (they lie in a context, not in a root).

    Raises `ContextError` when a source changes meanwhile, `StorageError` when there is no space.
    """
    mechanisms = job.mechanisms
    with mechanisms.content.writer(written_elsewhere=True) as writer:
        arguments = (str(writer.path), job.compression, job.compression_level, str(mechanisms.indexes.directory), job.latest_mtime,
                     hash_files)  # fmt: skip
        packing: Awaitable[Packed]
        if not changes.count or (own_files and changes.count < FEW and changes.size < SMALL):
            packing = anyio.to_thread.run_sync(pack_changes, changes, *arguments, limiter=mechanisms.limiters.workers)
        else:
            packing = mechanisms.workers.call(pack_changes, changes, *arguments)
        del changes  # they can be large, and who packs them has them now
        packed = await packing
        digest = Digest("sha256", packed.digest)
        writer.commit(digest, packed.size)
    layer = Layer(Digest("sha256", packed.diff_id), Descriptor(layer_type(job.compression), digest, packed.size))
    return layer, packed.digests
