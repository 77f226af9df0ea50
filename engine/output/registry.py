"""Pushes images: blobs first, then what points to them, the tags last; so a tag never points to what is not there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence

import anyio
from msgspec import Struct

from engine.content.base import ContentStore
from engine.errors import AuthError, NotFoundError, StorageError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.layer.base import Layer
from engine.output.base import Built
from engine.output.blobs import Fetch, LayerBlob, Progress, is_here, layers_of, single_error
from engine.registry.base import Growing, Registry


class _Target(Struct, frozen=True):
    """A repository to push to, under some tags. `nearby`: repositories of the same registry that are pushed to before."""

    repository: Reference
    tags: tuple[Reference, ...]
    nearby: tuple[Reference, ...]


class RegistryOutput:
    """Implements `Output`: pushes to the repositories of all tags.

    Nothing is uploaded where the image is there already. A layer that is not in the content store is mounted from the repository
    it came from; where that is not possible it is fetched and uploaded. `registry` is called when the first request is due.
    """

    name = "registry"

    def __init__(self, registry: Callable[[], Registry], content: ContentStore, fetch: Fetch,
                 progress: Progress | None = None, tags: Sequence[Reference] = ()) -> None:
        """`tags` are those that the image will have, as far as they are known by now."""
        self._registry = registry
        self._content = content
        self._fetch = fetch
        self._progress = progress
        self._tags = tags
        self._sent: set[tuple[Reference, Digest]] = set()

    async def ahead(self, layer: Layer) -> None:
        """Uploads a layer to the first repository of each registry: the others can mount it from there."""
        registry, path = self._registry(), self._content.path(layer.blob.digest)

        async def send(repository: Reference) -> None:
            await registry.push_blob(repository, layer.blob, path)
            self._sent.add((repository, layer.blob.digest))

        await self._to_first(send)

    async def along(self, layer: Growing) -> None:
        """As `ahead`, while the layer is being made."""
        registry = self._registry()

        async def send(repository: Reference) -> None:
            blob = await registry.push_growing(repository, layer)
            if blob:
                self._sent.add((repository, blob.digest))

        await self._to_first(send)

    async def _to_first(self, send: Callable[[Reference], Coroutine[None, None, None]]) -> None:
        with single_error():
            async with anyio.create_task_group() as group:
                for target in _targets(self._tags):
                    if not target.nearby:
                        group.start_soon(send, target.repository)

    async def write(self, built: Built) -> str:
        """Pushes the image, to several registries at the same time; raises `RegistryError`, `AuthError`, `StorageError`."""
        by_registry: dict[str, list[_Target]] = {}
        for target in _targets(built.tags):
            by_registry.setdefault(target.repository.registry, []).append(target)
        push = _Push(self._registry(), self._content, self._fetch, self._progress, built, self._sent)
        with single_error():
            async with anyio.create_task_group() as group:
                for targets in by_registry.values():
                    group.start_soon(push.all, targets)
        return ", ".join(str(tag.with_digest(built.top.digest)) for tag in built.tags)


def _targets(tags: Sequence[Reference]) -> list[_Target]:
    grouped: dict[tuple[str, str], list[Reference]] = {}
    for tag in dict.fromkeys(tags):
        grouped.setdefault((tag.registry, tag.repository), []).append(tag)
    out: list[_Target] = []
    for (registry, repository), own in grouped.items():
        nearby = tuple(t.repository for t in out if t.repository.registry == registry)
        out.append(_Target(Reference(registry, repository), tuple(own), nearby))
    return out


class _Push:
    """One image on its way."""

    def __init__(self, registry: Registry, content: ContentStore, fetch: Fetch, progress: Progress | None, built: Built,
                 sent: Collection[tuple[Reference, Digest]]) -> None:  # fmt: skip
        self._registry = registry
        self._sent = sent
        self._content = content
        self._fetch = fetch
        self._progress = progress
        self._built = built
        self._top = built.index or built.images[0].manifest

    async def all(self, targets: Sequence[_Target]) -> None:
        """Pushes to repositories of one registry, one after the other: what the first one gets the others can mount."""
        for target in targets:
            await self._one(target)

    async def _one(self, target: _Target) -> None:
        missing = await self._missing(target)
        if not missing:
            return
        if not await self._is(target.repository.with_digest(self._built.top.digest)):
            await self._content_of(target)
        with single_error():
            async with anyio.create_task_group() as group:
                for tag in missing:
                    group.start_soon(self._registry.push_manifest, tag, self._top.raw, self._top.media_type)

    async def _missing(self, target: _Target) -> list[Reference]:
        """The tags that do not point to the image yet; the digest is one of them where the image is pushed by digest."""
        there: set[Reference] = set()

        async def one(tag: Reference) -> None:
            if await self._is(tag if tag.tag else tag.with_digest(self._built.top.digest)):
                there.add(tag)

        with single_error():
            async with anyio.create_task_group() as group:
                for tag in target.tags:
                    group.start_soon(one, tag)
        return [tag for tag in target.tags if tag not in there]

    async def _is(self, reference: Reference) -> bool:
        try:
            return (await self._registry.resolve(reference)).digest == self._built.top.digest
        except (NotFoundError, AuthError):
            return False  # some registries refuse to say what is in a repository that does not exist; the push will tell

    async def _content_of(self, target: _Target) -> None:
        built = self._built
        with single_error():
            async with anyio.create_task_group() as group:
                for blob in layers_of(built, self._content):
                    group.start_soon(self._layer, target, blob)
                for config, raw in {i.manifest.config.digest: (i.manifest.config, i.config_raw) for i in built.images}.values():
                    group.start_soon(self._config, target, config, raw)
        if built.index is None:
            return
        with single_error():
            async with anyio.create_task_group() as group:
                for manifest in {i.manifest.descriptor.digest: i.manifest for i in built.images}.values():
                    place = target.repository.with_digest(manifest.descriptor.digest)
                    group.start_soon(self._registry.push_manifest, place, manifest.raw, manifest.media_type)

    async def _layer(self, target: _Target, blob: LayerBlob) -> None:
        if (target.repository, blob.descriptor.digest) in self._sent:
            return
        sources = (*target.nearby, *((blob.origin,) if blob.origin else ()))
        if is_here(blob, self._content):
            return await self._blob(target, blob.descriptor, blob, sources)
        try:
            await self._blob(target, blob.descriptor, blob, sources)
        except StorageError:
            # The repository neither had it nor could mount it, so the file was wanted, and there is none yet
            if is_here(blob, self._content):
                raise
            await self._fetch(blob.layer, blob.origin)
            await self._blob(target, blob.descriptor, blob, sources)

    async def _config(self, target: _Target, config: Descriptor, raw: bytes) -> None:
        self._content.put(raw)
        path = self._content.path(config.digest)
        await self._registry.push_blob(target.repository, config, path, mount_from=target.nearby)

    async def _blob(self, target: _Target, descriptor: Descriptor, blob: LayerBlob, sources: Sequence[Reference]) -> None:
        told = self._progress

        def progress(done: int) -> None:
            if told:
                told(str(descriptor.digest), done, descriptor.size)

        await self._registry.push_blob(target.repository, descriptor, blob.path, mount_from=sources, progress=progress)
