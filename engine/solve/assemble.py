"""States → images: the config and manifest of what a plan made. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from msgspec.structs import replace

from engine.cache import inline
from engine.errors import UsageError
from engine.image.config import History, ImageConfig
from engine.image.descriptor import Descriptor, compression_of, layer_type
from engine.image.digest import Digest
from engine.image.manifest import Manifest, config_type, make_index, make_manifest
from engine.image.reference import Reference
from engine.layer.base import Chain, Layer
from engine.output.base import Built, BuiltImage
from engine.plan.base import Plan
from engine.solve.state import State

COMMENT = "aniko.dockerfile.v0"


def rfc3339(seconds: float) -> str:
    """A time as image configs write it, in UTC, to the microsecond where there is one."""
    time = datetime.fromtimestamp(seconds, UTC)
    return time.strftime("%Y-%m-%dT%H:%M:%S") + (f".{time.microsecond:06d}" if time.microsecond else "") + "Z"


def assemble(plan: Plan, states: Mapping[str, State], *, origins: Mapping[Digest, Reference], annotations: Mapping[str, str],
             epoch: int | None, base_created: str = "", cache: Sequence[inline.Made] | None = None, chain: Chain | None = None,
             docker: bool = False) -> BuiltImage:  # fmt: skip
    """The image of a plan whose states are known. `origins` says which repository a base layer came from, `cache` what is to be in
    the cache that it carries, `chain` its layers if they are other than the result's. With `docker` it has docker's media types
    instead of OCI's; raises `UsageError` for layers that those have no name for."""
    chain = states[plan.result].chain if chain is None else chain
    created = base_created if epoch is None else rfc3339(epoch)
    history = list(_complete(plan.config.history, len(plan.config.diff_ids), created))
    for planned in plan.history:
        if planned.step is not None and epoch is None:
            created = rfc3339(states[planned.step].created)
        history.append(History(planned.created_by, created, COMMENT, empty_layer=planned.step is None))
    extra = inline.without(plan.config.extra) | ({inline.FIELD: inline.field(cache)} if cache is not None else {})
    config = replace(plan.config, created=created, diff_ids=tuple(layer.diff_id for layer in chain), history=tuple(history),
                     extra=extra)  # fmt: skip
    return _image(plan, config, chain, origins, annotations, docker)


def _complete(history: tuple[History, ...], layers: int, created: str) -> tuple[History, ...]:
    """A base's history with an entry for each of its layers: some tools write none, and readers count on it."""
    missing = layers - sum(not h.empty_layer for h in history)
    return (*history, *(History("", created, COMMENT) for _ in range(missing)))


def _image(plan: Plan, config: ImageConfig, chain: tuple[Layer, ...], origins: Mapping[Digest, Reference],
           annotations: Mapping[str, str], docker: bool) -> BuiltImage:  # fmt: skip
    raw = config.encode()
    descriptor = Descriptor(config_type(docker=docker), Digest.of(raw), len(raw))
    kinds = [compression_of(layer.blob.media_type) for layer in chain]
    if docker and "zstd" in kinds:
        layer = chain[kinds.index("zstd")].blob.digest
        raise UsageError(f"layer {layer} is compressed with zstd, which docker's media types do not know",
                         hint="leave oci-mediatypes=false out, or add compression=gzip,force-compression=true")
    layers = [Descriptor(layer_type(kind, docker=docker), x.blob.digest, x.blob.size) for kind, x in zip(kinds, chain, strict=True)]
    manifest: Manifest = make_manifest(descriptor, layers, annotations=annotations, docker=docker)
    return BuiltImage(plan.platform, manifest, config, raw, chain, tuple(origins.get(x.blob.digest) for x in chain))


def bundle(images: tuple[BuiltImage, ...], tags: tuple[Reference, ...], *, indexed: bool,
           annotations: Mapping[str, str] | None = None, docker: bool = False) -> Built:  # fmt: skip
    """One image alone, or several under an index (with `docker`, a manifest list)."""
    if not indexed:
        return Built(images, None, tags)
    manifests = [replace(i.manifest.descriptor, platform=i.config.platform) for i in images]
    return Built(images, make_index(manifests, annotations=annotations, docker=docker), tags)
