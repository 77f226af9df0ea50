"""Caches in directories: the `Storage` whose references are of `engine.image.reference.CACHE_LAYOUT`.

A directory is an OCI image layout; its `index.json` lists the entries' manifests with their tags. A blob is there before what
points to it, the index is replaced whole and by one writer at a time, so whoever reads, whenever, and whatever was killed, finds
entries that are whole. Readers take no lock and write nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio import from_thread
from msgspec import Struct, field
from msgspec.structs import replace

from engine import codec
from engine.cache.flight import SingleFlight
from engine.cache.layout_files import CHUNK, LayoutFiles, Stamp
from engine.content import claims
from engine.errors import ContentError, EngineError, NotFoundError, StorageError
from engine.image.descriptor import OCI_INDEX, Descriptor
from engine.image.digest import Digest
from engine.image.manifest import MAX_MANIFEST_SIZE, Manifest, parse
from engine.image.reference import CACHE_LAYOUT, Reference
from engine.registry.base import Fetched

REF_NAME = "org.opencontainers.image.ref.name"
_COPIES = 4
"""Blobs that are copied at once."""


class _Layout(Struct):
    """A directory, and what is known of it: the index as it was read last, entries on their way into it, blobs whose bytes were
    found to be wrong."""

    files: LayoutFiles
    stamp: Stamp | None = None
    entries: dict[str, Descriptor] = field(default_factory=dict)
    pending: dict[str, Descriptor] = field(default_factory=dict)
    spoilt: set[Digest] = field(default_factory=set)
    changing: anyio.Lock = field(default_factory=anyio.Lock)
    swept: bool = False


class CacheLayouts:
    """All directories that caches are in. The methods are those of `Storage`."""

    def __init__(self) -> None:
        self._layouts: dict[str, _Layout] = {}
        self._flight = SingleFlight()
        self._copies = anyio.CapacityLimiter(_COPIES)

    def is_there(self, reference: Reference) -> bool:
        """Whether there is a cache to be read, good or bad."""
        return self._layout(reference).files.exists()

    async def resolve(self, reference: Reference) -> Descriptor:
        """The manifest of an entry that is whole; raises what `manifest` raises."""
        return (await self.manifest(reference)).descriptor

    async def manifest(self, reference: Reference) -> Fetched:
        """An entry; raises `NotFoundError`, `StorageError`, and `ContentError` when it is not whole, or lacks its layer."""
        layout = self._layout(reference)
        return await anyio.to_thread.run_sync(_manifest, layout, reference.tag or "", abandon_on_cancel=True)

    async def blob(self, reference: Reference, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """A blob's bytes; raises `NotFoundError` or `ContentError` when they are not those that the digest is of."""
        layout, digest, left = self._layout(reference), hashlib.new(descriptor.digest.algorithm), descriptor.size
        fd = await anyio.to_thread.run_sync(layout.files.open, descriptor)

        def piece() -> bytes:
            data = os.read(fd, CHUNK)
            digest.update(data)
            return data

        try:
            while left > 0 and (data := await anyio.to_thread.run_sync(piece)):
                left -= len(data)
                if left >= 0:
                    yield data
        except OSError as error:
            raise NotFoundError(f"blob {descriptor.digest} in {layout.files.path} cannot be read: {error.strerror}") from error
        finally:
            os.close(fd)
        if left or digest.hexdigest() != descriptor.digest.hex:
            layout.spoilt.add(descriptor.digest)
            raise ContentError(f"blob {descriptor.digest} in {layout.files.path} does not have the digest it is named for")

    async def has_blob(self, reference: Reference, digest: Digest) -> bool:
        """Whether a blob is there, and was not found to be wrong."""
        layout = self._layout(reference)
        return digest not in layout.spoilt and bool(await anyio.to_thread.run_sync(layout.files.size, digest))

    async def push_blob(self, reference: Reference, descriptor: Descriptor, path: Path, *,
                        mount_from: Sequence[Reference] = ()) -> bool:
        """Makes the directory have a blob, from the file or from another directory; see `Storage.push_blob`."""
        layout = self._layout(reference)
        sources = [self._layout(other).files for other in mount_from if other.registry == CACHE_LAYOUT]
        pushed: bool = await self._flight.run((reference.repository, descriptor.digest),
                                              lambda: self._push_blob(layout, descriptor, path, sources))  # fmt: skip
        return pushed

    async def push_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        """Publishes an entry under the reference's tag. Those that come while the index is being written go in together."""
        layout, descriptor = self._layout(reference), Descriptor(media_type, Digest.of(raw), len(raw))
        parsed = parse(raw, media_type)
        kind = parsed.artifact_type if isinstance(parsed, Manifest) else ""
        await self._to_layout(layout, descriptor, raw)
        tag = reference.tag or "latest"
        layout.pending[tag] = replace(descriptor, artifact_type=kind, annotations={REF_NAME: tag})
        async with layout.changing:
            if tag in layout.pending:
                await self._list(layout)
        return descriptor.digest

    def _layout(self, reference: Reference) -> _Layout:
        known = self._layouts.get(reference.repository)
        if known is None:
            known = self._layouts[reference.repository] = _Layout(LayoutFiles(reference.repository))
        return known

    async def _push_blob(self, layout: _Layout, blob: Descriptor, path: Path, others: Sequence[LayoutFiles]) -> bool:
        size = await anyio.to_thread.run_sync(layout.files.size, blob.digest)
        if size == blob.size and blob.digest not in layout.spoilt:
            return False
        if not layout.swept:
            layout.swept = True
            await anyio.to_thread.run_sync(layout.files.sweep)
        ours = await anyio.to_thread.run_sync(_copy, layout.files, blob, path, others, limiter=self._copies)
        layout.spoilt.discard(blob.digest)
        return ours

    async def _to_layout(self, layout: _Layout, descriptor: Descriptor, raw: bytes) -> None:
        if await anyio.to_thread.run_sync(layout.files.size, descriptor.digest) != descriptor.size:
            parts = iter((raw,))
            await anyio.to_thread.run_sync(layout.files.add, descriptor, lambda _: next(parts, b""), lambda: None)

    async def _list(self, layout: _Layout) -> None:
        """Puts what is pending into the index. Other processes wait meanwhile."""
        fd = await anyio.to_thread.run_sync(layout.files.lock)
        try:
            await claims.lock(fd)
            new, layout.pending = layout.pending, {}
            await anyio.to_thread.run_sync(_add_to_index, layout.files, new)
        finally:
            os.close(fd)


def _copy(files: LayoutFiles, blob: Descriptor, path: Path, others: Sequence[LayoutFiles]) -> bool:
    """Copies a blob from the file if it is there, else from another layout; returns whether it was the file."""
    try:
        fd, ours = os.open(path, os.O_RDONLY | os.O_CLOEXEC), True
    except OSError as error:
        found = _open_first(others, blob)
        if found is None:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        fd, ours = found, False
    with open(fd, "rb", buffering=0) as file:
        files.add(blob, file.read, from_thread.check_cancelled)
    return ours


def _open_first(layouts: Sequence[LayoutFiles], blob: Descriptor) -> int | None:
    for files in layouts:
        try:
            return files.open(blob)
        except EngineError:
            continue
    return None


def _resolve(layout: _Layout, tag: str) -> Descriptor:
    data, stamp = layout.files.index(layout.stamp)
    if data is not None:
        layout.entries, layout.stamp = {}, None
        for entry in _listed(layout.files, data)["manifests"]:
            if name := _name(entry):
                layout.entries[name] = _descriptor(layout.files, entry)
        layout.stamp = stamp
    found = layout.entries.get(tag)
    if found is None:
        raise NotFoundError(f"{layout.files.path} has no entry {tag}")
    return found


def _manifest(layout: _Layout, tag: str) -> Fetched:
    descriptor, files = _resolve(layout, tag), layout.files
    manifest = parse(files.read(descriptor, MAX_MANIFEST_SIZE), descriptor.media_type)
    for layer in manifest.layers if isinstance(manifest, Manifest) else ():
        if (size := files.size(layer.digest)) != layer.size:
            raise ContentError(f"blob {layer.digest} in {files.path} has {size} bytes instead of {layer.size}" if size is not None
                               else f"{files.path} has no blob {layer.digest}")  # fmt: skip
    return Fetched(manifest.descriptor, manifest)


def _add_to_index(files: LayoutFiles, new: dict[str, Descriptor]) -> None:
    """Lists entries in place of those with the same tags; whatever else is listed stays."""
    index: dict[str, Any] = {}
    if files.exists():
        index = _listed(files, files.index()[0] or b"")
    kept = [e for e in index.get("manifests", ()) if _name(e) not in new]
    index |= {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": kept + [entry.to_json() for entry in new.values()]}
    files.replace_index(codec.encode(index))


def _listed(files: LayoutFiles, data: bytes) -> dict[str, Any]:
    """An index, of which so much is certain that it is an object with a list of objects; raises `StorageError`."""
    try:
        value = codec.decode(data)
    except ValueError:
        value = None
    manifests = value.get("manifests") if isinstance(value, dict) else None
    if not isinstance(manifests, list) or not all(isinstance(e, dict) for e in manifests):
        raise StorageError(f"{files.path}/index.json is no index of an OCI image layout",
                           hint="remove the directory, or name another one")  # fmt: skip
    assert isinstance(value, dict)
    return value


def _name(entry: dict[str, Any]) -> str:
    annotations = entry.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else ""


def _descriptor(files: LayoutFiles, entry: dict[str, Any]) -> Descriptor:
    try:
        return Descriptor.from_json(entry)
    except EngineError as error:
        raise StorageError(f"{files.path}/index.json is broken: {error}") from error
