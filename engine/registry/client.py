"""The registry client: the contract of `engine.registry.base` over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import anyio

from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.registry.base import Fetched, Growing, Progress
from engine.registry.credentials import Credentials
from engine.registry.download import download
from engine.registry.exchange import Timeouts
from engine.registry.flight import SingleFlight
from engine.registry.manifests import Manifests
from engine.registry.retry import Clock, Patience, SystemClock
from engine.registry.stream import Streams
from engine.registry.transport import Transport
from engine.registry.upload import Uploader


class RegistryClient:
    """Implements `Registry` for all registries. To be made inside the event loop and closed with `aclose`.

    `insecure` names registries whose certificate need not be good, or that speak http; loopback ones need not be named.
    `downloads` and `uploads` bound the blobs on the move. `ca_file` holds certificates to trust besides the system's.
    `environment` is where http_proxy, https_proxy and no_proxy are read from. `clock`, `patience` and `timeouts` are for tests.
    """

    def __init__(self, *, credentials: Credentials, insecure: frozenset[str], downloads: anyio.CapacityLimiter,
                 uploads: anyio.CapacityLimiter, ca_file: Path | None = None, user_agent: str = "aniko",
                 environment: Mapping[str, str] = MappingProxyType({}), clock: Clock | None = None,
                 patience: Patience | None = None, timeouts: Timeouts | None = None) -> None:
        self._transport = Transport(credentials, insecure, clock=clock or SystemClock(), patience=patience or Patience(),
                                    timeouts=timeouts or Timeouts(), ca_file=ca_file, user_agent=user_agent,
                                    environment=environment)
        self._downloads = downloads
        self._uploader = Uploader(self._transport, uploads)
        self._streams = Streams(self._transport, self._uploader, uploads)
        self._manifests = Manifests(self._transport)
        self._pushes: SingleFlight[bool] = SingleFlight()

    async def resolve(self, reference: Reference) -> Descriptor:
        """See `Registry.resolve`."""
        return await self._manifests.resolve(reference)

    async def manifest(self, reference: Reference) -> Fetched:
        """See `Registry.manifest`."""
        return await self._manifests.fetch(reference)

    def blob(self, reference: Reference, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """See `Registry.blob`. Who stops before the end closes the generator (`contextlib.aclosing`)."""
        return download(self._transport, self._downloads, reference, descriptor)

    async def has_blob(self, reference: Reference, digest: Digest) -> bool:
        """See `Registry.has_blob`."""
        return await self._uploader.has(reference, digest)

    async def push_blob(self, reference: Reference, descriptor: Descriptor, path: Path, *,
                        mount_from: Sequence[Reference] = (), progress: Progress | None = None) -> bool:
        """See `Registry.push_blob`."""
        report = progress or (lambda _: None)
        uploaded, ours = await self._pushes.run(
            (reference.registry, reference.repository, descriptor.digest),
            lambda: self._uploader.push(reference, descriptor, path, mount_from, report))
        return uploaded and ours

    async def push_growing(self, reference: Reference, growing: Growing) -> Descriptor | None:
        """See `Registry.push_growing`."""
        async with self._streams.follow(reference, growing) as stream:
            written = await growing.outcome()
            if written is None:
                return None
            blob, path = written

            async def finish() -> bool:
                sent = await stream.finish(blob)
                if sent is None:
                    await stream.close()
                    sent = await self._uploader.push(reference, blob, path, (), lambda _: None)
                return sent

            await self._pushes.run((reference.registry, reference.repository, blob.digest), finish)
            return blob

    async def push_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        """See `Registry.push_manifest`."""
        return await self._manifests.push(reference, raw, media_type)

    async def referrers(self, reference: Reference, digest: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """See `Registry.referrers`."""
        return await self._manifests.referrers(reference, digest, artifact_type)

    async def tags(self, reference: Reference) -> tuple[str, ...]:
        """See `Registry.tags`."""
        return await self._manifests.tags(reference)

    async def delete(self, reference: Reference) -> None:
        """See `Registry.delete`."""
        await self._manifests.delete(reference)

    async def aclose(self) -> None:
        """See `Registry.aclose`."""
        self._transport.close()
