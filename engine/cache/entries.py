"""Records as OCI artifacts: a manifest whose one layer is the record's layer, and whose annotations say the rest. Pure.

Whoever can write to the repository can write what they like, so nothing of an entry is taken on trust but what a record in it
can do anyway: name a layer. The layer's blob is verified against its digest when it is fetched, and against its diff id when
it is unpacked.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from contextlib import suppress

from engine import codec
from engine.cache.base import Record
from engine.errors import ContentError
from engine.image.descriptor import OCI_EMPTY, Descriptor
from engine.image.digest import Digest
from engine.image.manifest import Index, Manifest, make_manifest
from engine.layer.base import Layer

ARTIFACT = "application/vnd.aniko.cache.record.v1"
EMPTY = b"{}"
EMPTY_DESCRIPTOR = Descriptor(OCI_EMPTY, Digest.of(EMPTY), len(EMPTY))
"""The config of every entry, and the layer of one whose step made none (OCI image spec, manifest.md, "Guidance for an Empty
Descriptor")."""

_KEY, _STEP, _CREATED = "dev.aniko.cache.key", "dev.aniko.cache.step", "dev.aniko.cache.created"
_DIFF_ID, _INGREDIENTS = "dev.aniko.cache.diff-id", "dev.aniko.cache.ingredients"
_MOST_PACKED, _MOST_UNPACKED = 64 << 10, 16 << 20
_TAG = re.compile(r"(k|s-.+|h-.+)-[0-9a-f]{64}")
_PLAIN_SCOPE = re.compile(r"[A-Za-z0-9_.-]{1,40}")


def tag(key: Digest, scope: str = "") -> str:
    """The tag of a key's entry in a scope; no two scopes share a tag."""
    if not scope:
        return f"k-{key.hex}"
    if _PLAIN_SCOPE.fullmatch(scope):
        return f"s-{scope}-{key.hex}"
    slug = re.sub(r"[^A-Za-z0-9_.-]", "-", scope)[:24]
    return f"h-{slug}-{hashlib.sha256(scope.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}-{key.hex}"


def is_tag(text: str) -> bool:
    """Whether a tag can be an entry's."""
    return _TAG.fullmatch(text) is not None


def created(manifest: Manifest | Index) -> float | None:
    """When the record of an entry was made, in seconds since the epoch; None if it is no entry."""
    if not isinstance(manifest, Manifest) or manifest.artifact_type != ARTIFACT:
        return None
    with suppress(ValueError):
        return float(manifest.annotations.get(_CREATED, ""))
    return None


def to_manifest(record: Record) -> Manifest:
    """A record's entry. Ingredients that take more than 64 KiB even compressed are left out: they only explain."""
    annotations = {_KEY: str(record.key), _STEP: record.step[:4096], _CREATED: repr(record.created)}
    if record.layer:
        annotations[_DIFF_ID] = str(record.layer.diff_id)
    packed = base64.b64encode(zlib.compress(codec.encode_canonical(dict(record.ingredients)), 9)).decode()
    if len(packed) <= _MOST_PACKED:
        annotations[_INGREDIENTS] = packed
    layers = [record.layer.blob if record.layer else EMPTY_DESCRIPTOR]
    return make_manifest(EMPTY_DESCRIPTOR, layers, annotations=annotations, artifact_type=ARTIFACT)


def from_manifest(manifest: Manifest | Index, key: Digest) -> Record:
    """The record of an entry that was found under a key; raises `ContentError` when it is not one, or another key's."""
    if not isinstance(manifest, Manifest) or manifest.artifact_type != ARTIFACT or len(manifest.layers) != 1:
        raise ContentError("not a cache entry")
    notes = manifest.annotations
    if notes.get(_KEY) != str(key):
        raise ContentError(f"a cache entry of the key {notes.get(_KEY)!r}")
    try:
        created = float(notes.get(_CREATED, ""))
    except ValueError as error:
        raise ContentError("a cache entry without a time") from error
    diff_id = notes.get(_DIFF_ID)
    layer = Layer(Digest.parse(diff_id), manifest.layers[0]) if diff_id else None
    return Record(key, layer, created, str(notes.get(_STEP, "")), _ingredients(notes.get(_INGREDIENTS, "")))


def _ingredients(packed: str) -> dict[str, str]:
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(packed, validate=True), _MOST_UNPACKED)
        value = codec.decode(data)
        return {str(name): str(text) for name, text in value.items()}
    except (ValueError, zlib.error, AttributeError):
        return {}
