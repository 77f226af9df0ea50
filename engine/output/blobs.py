"""The blobs that an image is made of, and how those that nobody had to fetch so far come into the content store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from msgspec import Struct

from engine.content.base import ContentStore
from engine.errors import ContentError, EngineError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.layer.base import Layer
from engine.output.base import Built

Fetch = Callable[[Layer, Reference | None], Awaitable[None]]
"""Makes a layer's blob be in the content store; the repository it came from may be known. Raises `RegistryError`."""

Progress = Callable[[str, int, int], None]
"""Told what moves (a digest), how many bytes have moved, and of how many."""


class LayerBlob(Struct, frozen=True):
    """A layer to be written: where its blob lies if it is in the content store, and the repository that it came from."""

    layer: Layer
    origin: Reference | None
    path: Path

    @property
    def descriptor(self) -> Descriptor:
        """What the manifest says of the blob."""
        return self.layer.blob


def layers_of(built: Built, content: ContentStore) -> tuple[LayerBlob, ...]:
    """Every layer of all images once, in the order of the images."""
    found: dict[Digest, LayerBlob] = {}
    for image in built.images:
        for layer, origin in zip(image.layers, image.origins, strict=True):
            found.setdefault(layer.blob.digest, LayerBlob(layer, origin, content.path(layer.blob.digest)))
    return tuple(found.values())


def documents_of(built: Built) -> Iterator[tuple[Descriptor, bytes]]:
    """The small blobs with their bytes, each once, what is pointed to before what points to it: configs, manifests, index."""
    seen: set[Digest] = set()
    pairs = [(image.manifest.config, image.config_raw) for image in built.images]
    pairs += [(image.manifest.descriptor, image.manifest.raw) for image in built.images]
    pairs += [(built.index.descriptor, built.index.raw)] if built.index else []
    for descriptor, raw in pairs:
        if descriptor.digest not in seen:
            seen.add(descriptor.digest)
            yield descriptor, raw


def is_here(blob: LayerBlob, content: ContentStore) -> bool:
    """Whether a layer's blob is in the content store, whole."""
    return content.size(blob.descriptor.digest) == blob.descriptor.size


async def fetch_missing(blobs: tuple[LayerBlob, ...], content: ContentStore, fetch: Fetch) -> None:
    """Makes all layers be in the content store; raises what `fetch` raises, `ContentError` when that did not help."""
    missing = [blob for blob in blobs if not is_here(blob, content)]

    async def one(blob: LayerBlob) -> None:
        await fetch(blob.layer, blob.origin)
        if not is_here(blob, content):
            raise ContentError(f"layer blob {blob.descriptor.digest} is not in the state directory, or damaged",
                               hint="build again with --no-cache")

    with single_error():
        async with anyio.create_task_group() as group:
            for blob in missing:
                group.start_soon(one, blob)


@contextmanager
def single_error() -> Iterator[None]:
    """Around a task group: of the errors of its tasks, only the first comes out."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group.subgroup(EngineError) or group.subgroup(Exception) or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
