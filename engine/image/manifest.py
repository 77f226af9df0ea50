"""Image manifests and indexes (OCI image spec: manifest.md, image-index.md; docker schema 2 and manifest lists).

The raw bytes travel with what was parsed from them: a digest is of bytes, never of a re-encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from msgspec import field

from engine import codec
from engine.errors import ContentError, PlatformError
from engine.image.descriptor import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from engine.image.digest import Digest
from engine.image.platform import Platform
from engine.values import Value

MAX_MANIFEST_SIZE = 8 << 20
"""Bytes; the limit registries keep to is 4 MiB, and a manifest is held in memory."""


class Manifest(Value, frozen=True):
    """One image (or artifact): a config and layers."""

    UNSHOWN: ClassVar = frozenset({"raw"})

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    subject: Descriptor | None = None

    @property
    def descriptor(self) -> Descriptor:
        """What an index or a tag says to point to this manifest."""
        return Descriptor(self.media_type, Digest.of(self.raw), len(self.raw), artifact_type=self.artifact_type)


class Index(Value, frozen=True):
    """Several manifests, usually one for each platform."""

    UNSHOWN: ClassVar = frozenset({"raw"})

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> Descriptor:
        """What a tag or an outer index says to point to this index."""
        return Descriptor(self.media_type, Digest.of(self.raw), len(self.raw))

    def select(self, platform: Platform) -> Descriptor:
        """The best manifest for a platform; raises `PlatformError` that lists what there is."""
        for wanted in platform.runs():
            for entry in self.manifests:
                have = entry.platform
                if have and (have.os, have.architecture, have.variant) == (wanted.os, wanted.architecture, wanted.variant):
                    return entry
        unnamed = [m for m in self.manifests if m.platform is None and m.media_type in MANIFEST_TYPES]
        if len(self.manifests) == 1 and unnamed:
            return unnamed[0]
        have_all = sorted({str(m.platform) for m in self.manifests if m.platform and m.platform.os != "unknown"})
        raise PlatformError(f"no match for platform {platform} in the image index",
                            hint=f"it has: {', '.join(have_all) or 'nothing'}")


def parse(raw: bytes, media_type: str = "") -> Manifest | Index:
    """What a manifest body stands for. `media_type` is the transport's word; the body's own, where it has one, must agree.

    Raises `ContentError` when it is neither an image manifest nor an index of a known version.
    """
    if len(raw) > MAX_MANIFEST_SIZE:
        raise ContentError(f"manifest of {len(raw)} bytes is larger than the limit of {MAX_MANIFEST_SIZE}")
    try:
        value = codec.decode(raw)
    except ValueError as error:
        raise ContentError(f"manifest is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ContentError("manifest is not a JSON object")
    media_type = media_type.partition(";")[0].strip()
    own = str(value.get("mediaType") or "")
    kind = own or (media_type if media_type in INDEX_TYPES + MANIFEST_TYPES else "")
    if not kind:
        kind = OCI_INDEX if "manifests" in value else OCI_MANIFEST
    if value.get("schemaVersion") != 2 or (kind not in INDEX_TYPES + MANIFEST_TYPES):
        raise ContentError(f"unsupported manifest: media type {own or media_type or 'unknown'}, "
                           f"schema version {value.get('schemaVersion')!r}")
    if (kind in INDEX_TYPES) != ("manifests" in value) or (kind in INDEX_TYPES and "layers" in value):
        raise ContentError(f"manifest says it is {kind} but its fields are those of another type")
    try:
        return _index(raw, kind, value) if kind in INDEX_TYPES else _manifest(raw, kind, value)
    except (KeyError, TypeError, AttributeError) as error:
        raise ContentError(f"invalid manifest: {error!r}") from error


def _index(raw: bytes, kind: str, value: dict[str, Any]) -> Index:
    return Index(raw, kind, tuple(Descriptor.from_json(m) for m in value["manifests"] or ()),
                 dict(value.get("annotations") or {}))


def _manifest(raw: bytes, kind: str, value: dict[str, Any]) -> Manifest:
    subject = value.get("subject")
    return Manifest(raw, kind, Descriptor.from_json(value["config"]),
                    tuple(Descriptor.from_json(x) for x in value.get("layers") or ()), dict(value.get("annotations") or {}),
                    str(value.get("artifactType") or ""), Descriptor.from_json(subject) if subject else None)


def make_manifest(config: Descriptor, layers: Sequence[Descriptor], *, annotations: Mapping[str, str] | None = None,
                  artifact_type: str = "", subject: Descriptor | None = None, docker: bool = False) -> Manifest:
    """A new manifest; its bytes depend on the arguments only."""
    kind = DOCKER_MANIFEST if docker else OCI_MANIFEST
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": kind}
    if artifact_type:
        value["artifactType"] = artifact_type
    value |= {"config": config.to_json(), "layers": [x.to_json() for x in layers]}
    if subject:
        value["subject"] = subject.to_json()
    if annotations:
        value["annotations"] = dict(sorted(annotations.items()))
    return Manifest(codec.encode(value), kind, config, tuple(layers), dict(annotations or {}), artifact_type, subject)


def make_index(manifests: Sequence[Descriptor], *, annotations: Mapping[str, str] | None = None, docker: bool = False) -> Index:
    """A new index over some manifests: OCI's, or docker's manifest list."""
    kind = DOCKER_LIST if docker else OCI_INDEX
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": kind, "manifests": [m.to_json() for m in manifests]}
    if annotations:
        value["annotations"] = dict(sorted(annotations.items()))
    return Index(codec.encode(value), kind, tuple(manifests), dict(annotations or {}))


def config_type(*, docker: bool = False) -> str:
    """The media type of an image config."""
    return DOCKER_CONFIG if docker else OCI_CONFIG
