"""Outputs: where a finished image goes."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from msgspec import Struct

from engine.image.config import ImageConfig
from engine.image.descriptor import Descriptor
from engine.image.manifest import Index, Manifest
from engine.image.platform import Platform
from engine.image.reference import Reference
from engine.layer.base import Layer
from engine.registry.base import Growing


class BuiltImage(Struct, frozen=True):
    """One platform's image: manifest, config bytes (what the manifest's config descriptor is of) and layers. `origin` is the
    repository each base layer came from (same index as `layers`; None for layers this engine made), for mounts and for blobs
    that nobody had to fetch."""

    platform: Platform
    manifest: Manifest
    config: ImageConfig
    config_raw: bytes
    layers: tuple[Layer, ...]
    origins: tuple[Reference | None, ...]


class Built(Struct, frozen=True):
    """What a build made: an image for each platform, and an index over them when there are several (or one was asked for)."""

    images: tuple[BuiltImage, ...]
    index: Index | None
    tags: tuple[Reference, ...]

    @property
    def top(self) -> Descriptor:
        """What a tag points to."""
        return self.index.descriptor if self.index else self.images[0].manifest.descriptor


class Output(Protocol):
    """A place for an image. `write` publishes whole or not at all, and says for people where."""

    @property
    def name(self) -> str:
        """What it is, for people: `registry`, `oci layout`, `docker archive` …"""

    async def write(self, built: Built) -> str:
        """Writes the image; raises `StorageError` or `RegistryError`."""


@runtime_checkable
class EagerOutput(Output, Protocol):
    """An output that can begin before the image is finished."""

    async def ahead(self, layer: Layer) -> None:
        """Makes a layer, which is in the content store and will most likely be one of the image's, be where the image goes. Raises
        as `write` does, which makes up for it."""

    async def along(self, layer: Growing) -> None:
        """Does as `ahead` with a layer's blob that is still being written, and sends it meanwhile if that can be."""
