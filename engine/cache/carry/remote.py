"""States of mounts in registries, as builds see them: found, fetched, pushed. Nothing here is tried twice but what the registry
client itself tries again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
import anyio.to_thread

from engine.cache.carry import artifact, listing
from engine.cache.carry.artifact import Place, State
from engine.cache.carry.listing import Listing
from engine.cache.carry.unpacking import joined
from engine.content import claims
from engine.content.base import ContentStore
from engine.content.faults import storing
from engine.errors import ContentError, NotFoundError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.layer.compress import compress
from engine.layer.decompress import open_decompressor
from engine.layer.patch import patch, unpatch
from engine.registry.base import Registry

_WORTH = 4
"""A patch is at most this part of what it patches: a machine that has nothing fetches both."""


class Remote:
    """The registries of one build; `scratch` is a directory for files that are on their way. `sent` and `received` count the bytes
    of blobs and manifests."""

    def __init__(self, registry: Callable[[], Registry], scratch: Path, content: ContentStore) -> None:
        self._registry = registry
        self._scratch = scratch
        self._content = content
        self.sent = 0
        self._steps = 0
        self.received = 0

    def file(self, prefix: str) -> Path:
        """A name for a new file in the scratch directory."""
        return self._scratch / claims.unique(f"{prefix}-")

    async def find(self, place: Place, name: str) -> State | None:
        """A mount's state; None if there is none. Raises `RegistryError`, `ContentError`."""
        try:
            fetched = await self._registry().manifest(place.state(name))
        except NotFoundError:
            return None
        self.received += fetched.descriptor.size
        return artifact.from_manifest(fetched.manifest, fetched.descriptor.digest, place)

    async def listing(self, state: State) -> Listing:
        """What is in a state; raises `RegistryError`, `ContentError`."""
        data = await self._small(state.place, state.listing, keep=state.base is None)
        base = await self._small(state.place, state.base, keep=True) if state.base else None
        return await anyio.to_thread.run_sync(_decode, data, base, len(state.packs))

    async def _small(self, place: Place, wanted: Descriptor, *, keep: bool = False) -> bytes:
        """A blob in memory; one that later ones will be patches of is kept in the content store."""
        if keep and (data := self._content.get(wanted.digest, artifact.MOST_PACKED)) is not None:
            return data
        parts = []
        async with aclosing(self._registry().blob(place.repository, wanted)) as blob:
            async for part in blob:
                self.received += len(part)
                parts.append(part)
        data = b"".join(parts)
        if keep:
            self._content.put(data)
        return data

    async def fetch(self, state: State, pack: Descriptor) -> Path:
        """A pack in a file of its own, verified. Raises `RegistryError`, `ContentError`, `StorageError`."""
        path = self.file("pack")
        try:
            with storing(path), path.open("xb", buffering=0) as file:
                async with aclosing(self._registry().blob(state.place.repository, pack)) as blob:
                    async for part in blob:
                        self.received += len(part)
                        file.write(part)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    async def push(self, place: Place, blob: Descriptor, path: Path) -> None:
        """Makes the repository have a blob, and removes its file."""
        try:
            if await self._registry().push_blob(place.repository, blob, path, progress=self.step):
                self.sent += blob.size
        finally:
            path.unlink(missing_ok=True)

    def step(self, done: int = 0) -> None:
        """Something went on, here or on the way."""
        self._steps += 1

    def moves(self) -> int:
        """A number that is another one whenever something has gone on."""
        return self._steps + self.received

    async def publish(self, place: Place, name: str, id: str, created: float, found: Listing,
                      packs: Sequence[Descriptor], before: State | None = None) -> State:  # fmt: skip
        """Publishes a state whose packs are there; its listing as a patch of that of the state before, in the same repository, if
        that is at hand. Raises `RegistryError`."""
        base = (before.base or before.listing) if before else None
        known = self._content.get(base.digest, artifact.MOST_PACKED) if base else None
        data, patched = await anyio.to_thread.run_sync(_encode, found, known)
        base = base if patched else None
        path = self.file("listing")
        with storing(path):
            path.write_bytes(data)
        if not patched:
            self._content.put(data)
        kind = artifact.PATCH if patched else artifact.LISTING
        blob = Descriptor(kind, Digest("sha256", hashlib.sha256(data).hexdigest()), len(data))
        await self.push(place, blob, path)
        manifest = artifact.to_manifest(id, created, blob, packs, base)
        digest = await self._registry().push_manifest(place.state(name), manifest.raw, manifest.media_type)
        self.sent += len(manifest.raw)
        return State(place, digest, created, blob, tuple(packs), base)


def _decode(data: bytes, base: bytes | None, packs: int) -> Listing:
    raw = _inflate(data) if base is None else unpatch(data, _inflate(base), listing.MOST_BYTES)
    return listing.decode(raw, packs)


def _inflate(data: bytes) -> bytes:
    source = memoryview(data)
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        at += size
        return bytes(source[at - size : at])

    return joined(open_decompressor(read), listing.MOST_BYTES)


def _encode(found: Listing, base: bytes | None) -> tuple[bytes, bool]:
    """A listing as a blob, and whether that is a patch of the base: it is, unless it is too much of one."""
    data = listing.encode(found)
    if base is not None and len(data) <= listing.MOST_BYTES:
        patched = patch(data, _inflate(base))
        if len(patched) * _WORTH < len(base):
            return patched, True
    packed = compress(data, "zstd")
    if len(data) > listing.MOST_BYTES or len(packed) > artifact.MOST_PACKED:
        raise ContentError(f"there are too many files ({len(found.entries)}) in a cache mount")
    return packed, False
