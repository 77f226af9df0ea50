"""OCI image layouts as a place to pull from: what `oci-layout://DIR[:TAG|@DIGEST]` names (OCI image spec, image-layout.md).

See `engine.image.reference.layout_reference` for the references.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path

import aiofiles

from engine import codec
from engine.errors import ContentError, NotFoundError
from engine.image.descriptor import Descriptor
from engine.image.manifest import MAX_MANIFEST_SIZE, parse
from engine.image.reference import Reference
from engine.registry.base import Fetched

REF_NAME = "org.opencontainers.image.ref.name"
_CHUNK = 1 << 20


class OciLayouts:
    """Reads layouts. Its methods are those of `engine.registry.base.Registry` that pull."""

    async def resolve(self, reference: Reference) -> Descriptor:
        """What the layout's index says of a tag or digest, or its only image when the reference has neither."""
        entries = self._index(reference)
        if reference.digest is not None:
            found = [e for e in entries if e.digest == reference.digest]
            return found[0] if found else Descriptor("", reference.digest, 0)
        if reference.tag is not None:
            entries = tuple(e for e in entries if e.annotations.get(REF_NAME, "").rpartition(":")[2] == reference.tag)
        if len(entries) != 1:
            raise NotFoundError(f"{reference.repository}: {'no image' if not entries else 'several images'} in the OCI layout"
                                + (f" with the tag {reference.tag}" if reference.tag else ""),
                                hint="name one with :TAG or @DIGEST")  # fmt: skip
        return entries[0]

    async def manifest(self, reference: Reference) -> Fetched:
        """A manifest or index of the layout."""
        found = await self.resolve(reference)
        raw = b"".join([part async for part in self.blob(reference, found)])
        manifest = parse(raw, found.media_type)
        return Fetched(manifest.descriptor, manifest)

    async def blob(self, reference: Reference, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """A blob's bytes, verified at their end."""
        path = Path(reference.repository, "blobs", descriptor.digest.algorithm, descriptor.digest.hex)
        digest = hashlib.new(descriptor.digest.algorithm)
        try:
            async with aiofiles.open(path, "rb") as file:
                while data := await file.read(_CHUNK):
                    digest.update(data)
                    yield data
        except OSError as error:
            raise NotFoundError(f"{path}: {error.strerror}") from error
        if digest.hexdigest() != descriptor.digest.hex:
            raise ContentError(f"{path} does not have the digest it is named for")

    @staticmethod
    def _index(reference: Reference) -> tuple[Descriptor, ...]:
        path = Path(reference.repository, "index.json")
        try:
            with path.open("rb") as file:
                value = codec.decode(file.read(MAX_MANIFEST_SIZE))
            return tuple(Descriptor.from_json(entry) for entry in value["manifests"])
        except OSError as error:
            raise NotFoundError(f"{reference.repository} is no OCI layout: {error.strerror}: index.json") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ContentError(f"{path} is no index of an OCI layout: {error}") from error
