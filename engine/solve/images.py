"""Images that others made: what a reference stands for, as manifest, config and state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from msgspec import Struct

from engine.cache.flight import SingleFlight
from engine.content.base import ContentStore
from engine.errors import ContentError, EngineError
from engine.image.config import ImageConfig
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.manifest import Index, Manifest, parse
from engine.image.platform import Platform
from engine.image.reference import Reference
from engine.layer.base import Layer
from engine.registry.base import Puller
from engine.solve.state import Blobs, State


class BaseImage(Struct, frozen=True):
    """One platform's image in a registry. `reference` is pinned to the manifest's digest."""

    reference: Reference
    manifest: Manifest
    config: ImageConfig

    @property
    def state(self) -> State:
        """Its root filesystem. It counts as older than anything made on it."""
        layers = zip(self.config.diff_ids, self.manifest.layers, strict=True)
        return State(tuple(Layer(diff_id, blob) for diff_id, blob in layers))


class Images:
    """Resolves references, each once a build; manifests and configs are kept in the content store, tags are asked for anew.
    `used` is told of each image."""

    def __init__(self, content: ContentStore, puller: Callable[[Reference], Puller], blobs: Blobs,
                 used: Callable[[BaseImage], Awaitable[None]] | None = None) -> None:  # fmt: skip
        self._content = content
        self._puller = puller
        self._blobs = blobs
        self._used = used
        self._known: dict[tuple[Reference, Platform], BaseImage] = {}
        self._flight: SingleFlight = SingleFlight()

    async def resolve(self, reference: Reference, platform: Platform) -> BaseImage:
        """The image for a platform; raises `RegistryError`, `PlatformError` or `ContentError` that name the reference. What is no
        index is given whatever platform it is for: see `require_platform`."""
        key = (reference, platform)
        if key not in self._known:
            self._known[key] = await self._flight.run(key, lambda: self._resolve(reference, platform))
        return self._known[key]

    async def _resolve(self, reference: Reference, platform: Platform) -> BaseImage:
        try:
            manifest = await self._manifest(reference)
            if isinstance(manifest, Index):
                chosen = manifest.select(platform)
                reference = reference.with_digest(chosen.digest)
                manifest = await self._manifest(reference, chosen)
            if not isinstance(manifest, Manifest):
                raise ContentError("an image index inside an image index has no platform of its own")
            if manifest.artifact_type:
                raise ContentError(f"is an artifact of type {manifest.artifact_type}, not an image")
            reference = reference.with_digest(manifest.descriptor.digest)
            config = ImageConfig.parse(await self._small_blob(reference, manifest.config))
            if len(config.diff_ids) != len(manifest.layers):
                raise ContentError(f"has {len(manifest.layers)} layers but its config names {len(config.diff_ids)}")
        except EngineError as error:
            if str(reference.repository) not in error.message:
                error.message = f"{reference.familiar}: {error.message}"
            raise
        for descriptor in manifest.layers:
            self._blobs.remember(reference, descriptor)
        image = BaseImage(reference, manifest, config)
        if self._used:
            await self._used(image)
        return image

    async def _manifest(self, reference: Reference, known: Descriptor | None = None) -> Manifest | Index:
        digest = reference.digest
        if digest is None:
            known = await self._puller(reference).resolve(reference)
            digest = known.digest
        raw = self._content.get(digest)
        if raw is not None:
            return parse(raw, known.media_type if known else "")
        fetched = await self._puller(reference).manifest(reference.with_digest(digest))
        self._content.put(fetched.manifest.raw)
        return fetched.manifest

    async def _small_blob(self, reference: Reference, descriptor: Descriptor, limit: int = 8 << 20) -> bytes:
        if descriptor.size > limit:
            raise ContentError(f"its config of {descriptor.size} bytes is larger than the limit of {limit}")
        raw = self._content.get(descriptor.digest)
        if raw is None:
            async with aclosing(self._puller(reference).blob(reference, descriptor)) as parts:
                raw = b"".join([part async for part in parts])
            if Digest.of(raw) != descriptor.digest and descriptor.digest.algorithm == "sha256":
                raise ContentError(f"its config does not have the digest {descriptor.digest}")
            self._content.put(raw)
        return raw
