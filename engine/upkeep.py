"""Looking after a state directory: what is in it, what of it can go, whether it is sound. Safe beside running builds."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.cache import entries, instances
from engine.cache.holdings import RecordHolding
from engine.content.gc import Item, Policy, Verdict
from engine.content.prune import BlobHolding, Holding, ScratchHolding, prune
from engine.content.reserve import Reserve
from engine.errors import ContentError, ContextError, EngineError, NotFoundError, RegistryError, UsageError
from engine.image.config import ImageConfig
from engine.image.digest import Digest
from engine.image.manifest import Manifest, parse
from engine.layer.apply import Unpacked, scan
from engine.layer.hashing import blob_digest
from engine.snapshot.holdings import IndexHolding, LayerHolding

if TYPE_CHECKING:
    from engine.cache.base import Record
    from engine.cache.catalog import Base
    from engine.cache.local import Usage
    from engine.cache.mounts import Usage as MountUsage
    from engine.image.reference import Reference
    from engine.registry.base import Registry
    from engine.settings import Settings
    from engine.wiring import Wiring

ROOTS = ("record", "base", "mount")
"""The kinds that are kept for their own sake, and that a policy can name."""
KINDS = (*ROOTS, "layer", "blob", "index", "scratch")
_NOT_ALLOWED = 405  # the status for what a registry does not do
_REMOVALS = 16
"""Entries of a registry cache that are looked at, or removed, at once."""


class KindUsage(Struct, frozen=True):
    """All things of one kind: how many, their bytes, and the bytes that could go if nothing was kept for its own sake."""

    kind: str
    count: int
    size: int
    reclaimable: int


class Finding(Struct, frozen=True):
    """What is not as it should be. It has been removed, and will be made or fetched again when it is needed."""

    kind: str
    name: str
    problem: str


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Upkeep]:
    """The care for a state directory, on a full disk with the help of the room that is kept for it there."""
    from engine.wiring import Wiring

    reserve = Reserve(settings.state_dir / "reserve")
    reserve.spend()
    try:
        async with Wiring(settings) as wiring:
            yield Upkeep(wiring)
    finally:
        reserve.keep()


class _Layer(Struct, frozen=True):
    """A layer as records and manifests have it: `size` is the blob's, in bytes."""

    diff_id: Digest
    blob: Digest
    size: int


class Upkeep:
    """The care for one state directory."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        state, workers = wiring.settings.state_dir, wiring.workers

        async def measure(paths: list[str]) -> list[int]:
            return await workers.call(instances.measure, paths)

        async def remove(paths: list[str]) -> None:
            await workers.call(instances.remove, paths)

        self._holdings: tuple[Holding, ...] = (
            RecordHolding(wiring.records), wiring.mechanisms.cache_mounts, LayerHolding(state / "layers", measure, remove),
            IndexHolding(wiring.indexes), BlobHolding(wiring.content, state / "trash"),
            ScratchHolding([state / name for name in ("roots", "ingest", "tmp")], measure, remove),
        )  # fmt: skip

    async def usage(self, now: float) -> list[KindUsage]:
        """What there is of each kind."""
        removable = {item.name for item in (await self.prune(Policy(all=True), now, dry=True)).remove}
        items = [item for holding in self._holdings for item in holding.items()]
        return [_sum(kind, [i for i in items if i.name[0] == kind], removable) for kind in KINDS]

    async def prune(self, policy: Policy, now: float, *, dry: bool = False) -> Verdict:
        """Removes what a policy lets go of and then nothing needs any more; with `dry` only says what that is."""
        unknown = policy.kinds - set(ROOTS)
        if unknown:
            raise UsageError(f"{', '.join(sorted(unknown))}: no kind that a policy can be about",
                             hint=f"the kinds are {', '.join(ROOTS)}; what only they need goes with them")
        return await prune(self._wiring.leases, self._holdings, policy, now, dry=dry)

    def records(self) -> list[Usage]:
        """All records, the least recently used first."""
        return list(self._wiring.records.usage())

    def bases(self) -> list[Base]:
        """The images that builds started from."""
        return self._wiring.records.catalog.bases()

    async def mounts(self) -> list[MountUsage]:
        """The cache mounts."""
        return await self._wiring.mechanisms.cache_mounts.usage()

    async def record(self, prefix: str) -> Record:
        """The record whose key begins so (with or without `sha256:`); raises `UsageError` if there is none, or several."""
        wanted = prefix.removeprefix("sha256:")
        found = [usage.key for usage in self.records() if usage.key.hex.startswith(wanted)] if wanted else []
        if len(found) != 1:
            raise UsageError(f"{'no record has' if not found else f'{len(found)} records have'} a key that begins with {prefix!r}",
                             hint="see aniko cache ls")  # fmt: skip
        record = await self._wiring.records.get(found[0])
        if record is None:
            raise NotFoundError(f"the layer of record {found[0]} is gone")
        return record

    async def verify(self, sample: int | None = None) -> tuple[int, list[Finding]]:
        """Reads blobs again (all, or a random sample) and compares them with their digests, and those that are layers of records
        or bases with their diff ids and indexes. What is wrong is removed: it heals when it is needed. Returns how many blobs
        were read, and what was wrong."""
        content = self._wiring.content
        blobs = [digest for digest, _, _ in content.blobs()]
        if sample is not None and sample < len(blobs):
            blobs = random.sample(blobs, sample)
        findings: list[Finding] = []
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(self._wiring.leases.hold())
            await lease.protect(("blob", str(digest)) for digest in blobs)
            for digest in blobs:
                if problem := await self._blob_problem(digest):
                    content.remove(digest)
                    findings.append(Finding("blob", str(digest), problem))
            read = set(blobs)
            for layer, keys in self._layers().items():
                if layer.blob in read:
                    findings += await self._verify_layer(layer, keys)
        return len(blobs), findings

    def _layers(self) -> dict[_Layer, list[Digest]]:
        """The layers of all records and bases, and the keys of the records."""
        found: dict[_Layer, list[Digest]] = {}
        for usage in self.records():
            if usage.blob and usage.diff_id:
                found.setdefault(_Layer(usage.diff_id, usage.blob, usage.size), []).append(usage.key)
        for base in self.bases():
            for layer in self._layers_of(base.digest):
                found.setdefault(layer, [])
        return found

    def _layers_of(self, image: Digest) -> list[_Layer]:
        """The layers of an image whose manifest and config are here."""
        content = self._wiring.content
        with suppress(ContentError):  # it will be fetched anew
            manifest = parse(content.get(image) or b"")
            if isinstance(manifest, Manifest) and (raw := content.get(manifest.config.digest)):
                pairs = zip(ImageConfig.parse(raw).diff_ids, manifest.layers, strict=False)
                return [_Layer(diff_id, blob.digest, blob.size) for diff_id, blob in pairs]
        return []

    async def _verify_layer(self, layer: _Layer, keys: Sequence[Digest]) -> list[Finding]:
        """What is wrong with a layer whose blob has its digest: it may still be another than its records say."""
        content, indexes = self._wiring.content, self._wiring.indexes
        if content.size(layer.blob) != layer.size:
            return []
        index = indexes.get(layer.diff_id)
        look = _scan_hashed if index is not None and any(index.columns.known) else scan
        try:
            scanned = await self._wiring.workers.call(look, str(content.path(layer.blob)), str(layer.diff_id))
        except ContentError as error:
            indexes.path(layer.diff_id).unlink(missing_ok=True)
            await self._wiring.records.remove(keys)
            return [Finding("record", str(key), str(error)) for key in keys]
        if index is None or scanned.index.to_bytes() == index.to_bytes():
            return []
        indexes.path(layer.diff_id).unlink(missing_ok=True)
        return [Finding("index", str(layer.diff_id), "it is not the index of the layer")]

    async def _blob_problem(self, digest: Digest) -> str:
        content = self._wiring.content
        size = content.size(digest)
        if size is None:
            return "it is empty" if content.path(digest).exists() else ""
        if digest.algorithm != "sha256":
            return ""
        with suppress(ContextError):
            found = await self._wiring.workers.call(blob_digest, bytes(content.path(digest)), size)
            return "" if found == digest.hex else f"its bytes have the digest sha256:{found}"
        return "it cannot be read"

    async def collect(self, cache: Reference, older_than: float, now: float, *, dry: bool = False) -> tuple[int, list[str]]:
        """Removes the entries of a registry cache that were made more than so many seconds ago; returns how many entries there
        are, and the tags that go. What only they needed is for the registry's own garbage collection. Raises `RegistryError`."""
        import anyio

        registry = self._wiring.registry()
        tags = [tag for tag in await registry.tags(cache) if entries.is_tag(tag)]
        old: list[str] = []
        limit = anyio.CapacityLimiter(_REMOVALS)

        async def look(tag: str) -> None:
            async with limit:
                place = cache.with_tag(tag)
                with suppress(NotFoundError):
                    created = entries.created((await registry.manifest(place)).manifest)
                    if created is not None and now - created > older_than:
                        old.append(tag)
                        if not dry:
                            await _delete(registry, place)

        try:
            async with anyio.create_task_group() as group:
                for tag in tags:
                    group.start_soon(look, tag)
        except BaseExceptionGroup as failures:
            known = failures.subgroup(EngineError)
            raise (known.exceptions[0] if known else failures) from None
        return len(tags), sorted(old)


async def _delete(registry: Registry, place: Reference) -> None:
    try:
        await registry.delete(place)
    except RegistryError as error:
        if error.status == _NOT_ALLOWED and error.hint is None:
            error.hint = "the registry does not let anything be removed: see its settings, such as storage.delete.enabled"
        raise


def _scan_hashed(blob: str, diff_id: str) -> Unpacked:
    """As `scan`, with digests of the files. A job for a worker."""
    return scan(blob, diff_id, hash_files=True)


def _sum(kind: str, items: Sequence[Item], removable: set[tuple[str, str]]) -> KindUsage:
    return KindUsage(kind, len(items), sum(item.size for item in items), sum(i.size for i in items if i.name in removable))
