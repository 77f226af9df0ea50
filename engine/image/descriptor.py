"""Descriptors and media types (OCI image spec: descriptor.md, media-types.md; docker's image manifest v2, schema 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from engine.errors import ContentError
from engine.image.digest import Digest
from engine.image.platform import Platform

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"
OCTETS = "application/octet-stream"

INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)


class Descriptor(Struct, frozen=True):
    """What some content is called, what type it has and how many bytes it is."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    artifact_type: str = ""

    def __hash__(self) -> int:
        return hash((self.media_type, self.digest, self.size))

    @classmethod
    def from_json(cls, value: Any) -> Descriptor:
        """Raises `ContentError` when a field is missing or of the wrong type."""
        try:
            size = value["size"]
            if not isinstance(size, int) or size < 0:
                raise ContentError(f"invalid descriptor: size {size!r}")
            platform = value.get("platform")
            return cls(str(value.get("mediaType") or OCTETS), Digest.parse(value["digest"]), size,
                       {str(k): str(v) for k, v in (value.get("annotations") or {}).items()},
                       Platform.from_json(platform) if platform else None, str(value.get("artifactType") or ""))
        except (KeyError, TypeError, AttributeError) as error:
            raise ContentError(f"invalid descriptor: {error!r}") from error

    def to_json(self) -> dict[str, Any]:
        """The JSON object, without what is empty."""
        out: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        if self.platform:
            out["platform"] = self.platform.to_json()
        if self.artifact_type:
            out["artifactType"] = self.artifact_type
        return out


def compression_of(media_type: str) -> str:
    """`gzip`, `zstd` or `none`: how a layer of this media type is compressed. A reader checks the bytes all the same."""
    if media_type.endswith(("+gzip", ".gzip")):
        return "gzip"
    return "zstd" if media_type.endswith(("+zstd", ".zstd")) else "none"


def layer_type(compression: str, *, docker: bool = False) -> str:
    """The media type of a layer compressed as `gzip`, `zstd` or `none`."""
    oci, dock = {"gzip": (OCI_LAYER_GZIP, DOCKER_LAYER_GZIP), "zstd": (OCI_LAYER_ZSTD, DOCKER_LAYER_ZSTD),
                 "none": (OCI_LAYER, DOCKER_LAYER)}[compression]  # fmt: skip
    return dock if docker else oci
