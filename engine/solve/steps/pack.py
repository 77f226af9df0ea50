"""The end of every step: changes become a layer in the content store, with its index."""

from __future__ import annotations

from collections.abc import Sequence

import anyio.to_thread

from engine.image.descriptor import Descriptor, layer_type
from engine.image.digest import Digest
from engine.layer.base import Layer
from engine.layer.entries import Change
from engine.layer.pack import Packed, pack, pack_columns, to_columns
from engine.solve.mechanisms import Job

SMALL = 1 << 20
"""Bytes. Less than this, readable by everybody's own user, is packed in a thread: a worker process would take longer to start."""


async def make_layer(job: Job, changes: Sequence[Change], *, own_files: bool) -> Layer:
    """Packs changes. `own_files`: the engine's own user may read the sources (they lie in a context, not in a root).

    Raises `ContextError` when a source changes meanwhile, `StorageError` when there is no space.
    """
    mechanisms = job.mechanisms
    with mechanisms.content.writer(written_elsewhere=True) as writer:
        arguments = (str(writer.path), job.compression, job.compression_level, str(mechanisms.indexes.directory), job.latest_mtime)
        small = not changes or (own_files and len(changes) < 200 and sum(c.entry.size for c in changes) < SMALL)
        packed: Packed
        if small:
            packed = await anyio.to_thread.run_sync(lambda: pack(changes, *arguments), limiter=mechanisms.limiters.workers)
        else:
            columns = to_columns(changes)
            del changes  # unless the caller keeps them, which is not to be while they are packed: they can be many
            packed = await mechanisms.workers.call(pack_columns, columns, *arguments)
        digest = Digest("sha256", packed.digest)
        writer.commit(digest, packed.size)
    return Layer(Digest("sha256", packed.diff_id), Descriptor(layer_type(job.compression), digest, packed.size))
