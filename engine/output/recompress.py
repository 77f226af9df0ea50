"""Layers in another compression than they have: for images all of whose layers are to have the same (`force-compression`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

import anyio
from msgspec import Struct
from msgspec.structs import replace

from engine.cache.base import Cache, Record
from engine.content.base import ContentStore
from engine.errors import ContentError, StorageError
from engine.image.descriptor import Descriptor, compression_of, layer_type
from engine.image.digest import Digest
from engine.layer.base import Chain, Layer
from engine.layer.decompress import open_decompressor
from engine.layer.sink import BlobSink, Written
from engine.output.blobs import single_error
from engine.plan.keys import KeyBuilder
from engine.settings import Compression
from engine.workers.base import Workers


class Ensure(Protocol):
    """Gets layer blobs into the content store."""

    async def ensure(self, blob: Descriptor) -> None:
        """Makes the blob be in the content store; raises `RegistryError` or `ContentError`."""


class Recompressor(Struct, frozen=True):
    """Makes layers anew in one compression. What it made is remembered in `cache`, and found there."""

    content: ContentStore
    blobs: Ensure
    workers: Workers
    cache: Cache
    clock: Callable[[], float]
    compression: Compression
    level: int | None = None

    async def chain(self, chain: Chain) -> Chain:
        """The layers, those of another compression made anew; their content is the same. Raises `RegistryError`, `ContentError` and
        `StorageError`."""
        done: dict[int, Layer] = {}

        async def one(n: int) -> None:
            done[n] = await self._layer(chain[n])

        with single_error():
            async with anyio.create_task_group() as tasks:
                for n, layer in enumerate(chain):
                    if compression_of(layer.blob.media_type) != self.compression:
                        tasks.start_soon(one, n)
        return tuple(done.get(n, layer) for n, layer in enumerate(chain))

    async def _layer(self, layer: Layer) -> Layer:
        builder = KeyBuilder("1", "recompress").add("layer", layer.diff_id).add("compression", self.compression)
        key = builder.add("level", self.level).digest()
        record = await self.cache.get(key)
        if record is not None and record.layer is not None:
            known = record.layer
            if known.diff_id == layer.diff_id and self.content.size(known.blob.digest) == known.blob.size:
                return known
        await self.blobs.ensure(layer.blob)
        source = str(self.content.path(layer.blob.digest))
        with self.content.writer(written_elsewhere=True) as writer:
            made = await self.workers.call(recompress, source, str(writer.path), self.compression, self.level)
            if made.diff_id != layer.diff_id.hex and layer.diff_id.algorithm == "sha256":
                raise ContentError(f"layer blob {layer.blob.digest} has not the content {layer.diff_id} that its image names")
            digest = Digest("sha256", made.digest)
            writer.commit(digest, made.size)
        new = replace(layer, blob=Descriptor(layer_type(self.compression), digest, made.size))
        record = Record(key, new, self.clock(), f"recompress {layer.blob.digest}", builder.ingredients)
        with suppress(StorageError):  # what cannot be remembered is made again next time
            await self.cache.put(record, replace=True)
        return new


def recompress(source: str, target: str, compression: str, level: int | None) -> Written:
    """A worker's job: writes a blob's content in another compression. Raises `ContentError`, `StorageError`."""
    with open(source, "rb", buffering=0) as file, BlobSink(target, compression, level) as sink:
        for chunk in _chunks(open_decompressor(file.read), sink.chunk_size):
            sink.write(chunk)
        return sink.finish()


def _chunks(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The bytes of some pieces in chunks of one size; the last may be shorter."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= size:
            yield bytes(waiting[:size])
            del waiting[:size]
    if waiting:
        yield bytes(waiting)
