"""What an OCI image layout says beside its blobs, and what docker reads of one (OCI image spec, image-layout.md; docker's image
tarballs). Pure: descriptors and names in, JSON out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from engine import codec
from engine.errors import ContentError, UsageError
from engine.image.descriptor import OCI_INDEX
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.output.base import Built, BuiltImage

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
MANIFEST_FILE = "manifest.json"
REPOSITORIES_FILE = "repositories"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
"""The whole name, for containerd and docker; `REF_NAME` holds the tag alone, as BuildKit writes it and skopeo asks for it."""


def blob_name(digest: Digest) -> str:
    """Where a blob lies in a layout."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def index_json(built: Built, existing: bytes | None = None) -> bytes:
    """The `index.json` of a layout with an entry for each tag, or one without a name. `existing` is the layout's index so far:
    its entries stay, but for those that have a name of ours (or are the same unnamed image). Raises `ContentError`."""
    ours = _entries(built)
    names = {entry["annotations"][REF_NAME] for entry in ours if "annotations" in entry}
    index = _object(existing) if existing is not None else {}
    kept = [e for e in _list(index, "manifests") if not _gives_way(e, names, str(built.top.digest))]
    index |= {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": kept + ours}
    return codec.encode(index)


def manifest_json(built: Built, existing: bytes | None = None) -> bytes:
    """docker's `manifest.json`; of `existing`, images whose names we take lose those, and without names they go. Raises
    `UsageError` for several platforms, `ContentError`."""
    image = single(built)
    tags = [tag.familiar for tag in built.tags]
    kept = []
    for entry in _list({"images": _decode(existing) if existing is not None else []}, "images"):
        left = [tag for tag in entry.get("RepoTags") or () if tag not in tags]
        if left:
            kept.append(entry | {"RepoTags": left})
    ours = {"Config": blob_name(image.manifest.config.digest), "RepoTags": tags,
            "Layers": [blob_name(layer.digest) for layer in image.manifest.layers]}  # fmt: skip
    return codec.encode([*kept, ours])


def repositories_json(built: Built, existing: bytes | None = None) -> bytes:
    """docker's `repositories`, from before there was a `manifest.json`: tags by name, each with the id of the last layer."""
    layers = single(built).manifest.layers
    value = _object(existing) if existing is not None else {}
    for tag in built.tags:
        name = Reference(tag.registry, tag.repository).familiar
        known = value.get(name)
        value[name] = (known if isinstance(known, dict) else {}) | {tag.tag or "latest": layers[-1].digest.hex if layers else ""}
    return codec.encode(value)


def single(built: Built) -> BuiltImage:
    """The one image; raises `UsageError` when there are several, for docker's format has no place for them."""
    if len(built.images) != 1:
        raise UsageError("docker exporter does not currently support exporting manifest lists",
                         hint="write several platforms with type=oci, or push them")
    return built.images[0]


def _entries(built: Built) -> list[dict[str, Any]]:
    top = built.top if built.index else replace(built.top, platform=built.images[0].platform)
    if not built.tags:
        return [top.to_json()]
    entries = []
    for tag in dict.fromkeys(built.tags):
        names = {IMAGE_NAME: f"{tag.name}:{tag.tag or 'latest'}", REF_NAME: tag.tag or "latest"}
        entries.append(replace(top, annotations=names).to_json())
    return entries


def _gives_way(entry: Any, names: set[str], digest: str) -> bool:
    if not isinstance(entry, dict):
        raise ContentError(f"the layout's {INDEX_FILE} is broken")
    name = (entry.get("annotations") or {}).get(REF_NAME)
    return name in names if name else entry.get("digest") == digest


def _decode(data: bytes) -> Any:
    try:
        return codec.decode(data)
    except ValueError as error:
        raise ContentError(f"a file of the layout is not JSON: {error}") from error


def _object(data: bytes) -> dict[str, Any]:
    value = _decode(data)
    if not isinstance(value, dict):
        raise ContentError("a file of the layout is not a JSON object")
    return value


def _list(value: dict[str, Any], key: str) -> Sequence[Any]:
    found = value.get(key) or []
    if not isinstance(found, list) or not all(isinstance(x, dict) for x in found):
        raise ContentError(f"a file of the layout is broken: {key} is no list of objects")
    return found
