"""A mount's state as an OCI artifact: a manifest whose config is the listing and whose layers are the packs. The listing may be a
patch of an earlier one, which is then the first layer. Pure.

It lies under a tag that is made of what tells the mount apart and of a scope, so builds with other mounts, and branches, do not
meet. Whoever writes a tag last has it, with the whole state it refers to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from engine.errors import ContentError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.manifest import Index, Manifest, make_manifest
from engine.image.reference import Reference

ARTIFACT = "application/vnd.aniko.cache.mount.v1"
LISTING = "application/vnd.aniko.cache.mount.listing.v1+zstd"
PATCH = "application/vnd.aniko.cache.mount.listing.v1+zstd-patch"
PACK = "application/vnd.aniko.cache.mount.pack.v1+zstd"
MOST_PACKED = 64 << 20
"""Bytes of a compressed pack or listing that are fetched at all."""

_ID, _CREATED = "dev.aniko.cache.mount.id", "dev.aniko.cache.created"
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,40}")


class Place(Struct, frozen=True):
    """Where the states of mounts are: a repository (its tag and digest do not matter), and a scope in it, such as a branch."""

    repository: Reference
    scope: str = ""

    def state(self, name: str) -> Reference:
        """The reference of a mount's state; `name` is a sha256 in hexadecimal. No two scopes share a tag."""
        if not self.scope:
            return self.repository.with_tag(f"m-{name}")
        if _PLAIN.fullmatch(self.scope):
            return self.repository.with_tag(f"ms-{self.scope}-{name}")
        slug = re.sub(r"[^A-Za-z0-9_.-]", "-", self.scope)[:24]
        digest = hashlib.sha256(self.scope.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        return self.repository.with_tag(f"mh-{slug}-{digest}-{name}")

    def __str__(self) -> str:
        return self.repository.name + (f" ({self.scope})" if self.scope else "")


def place(reference: Reference) -> Place:
    """The place that a reference on the command line means: its tag is the scope."""
    return Place(reference, "" if reference.tag in (None, "latest") else str(reference.tag))


class State(Struct, frozen=True):
    """What a manifest says: where it was found, its digest, when it was made (seconds since the epoch), listing and packs."""

    place: Place
    digest: Digest
    created: float
    listing: Descriptor
    packs: tuple[Descriptor, ...]
    base: Descriptor | None = None
    """The listing that this one is a patch of."""


def to_manifest(id: str, created: float, listing: Descriptor, packs: Sequence[Descriptor],
                base: Descriptor | None = None) -> Manifest:  # fmt: skip
    """The manifest of a state; the id is for people."""
    layers = [*([base] if base else []), *packs]
    return make_manifest(listing, layers, annotations={_ID: id[:1000], _CREATED: repr(created)}, artifact_type=ARTIFACT)


def from_manifest(manifest: Manifest | Index, digest: Digest, where: Place) -> State:
    """The state that a manifest is of; raises `ContentError` when it is of none."""
    if not isinstance(manifest, Manifest) or manifest.artifact_type != ARTIFACT:
        raise ContentError(f"{where}: not the state of a cache mount")
    created = -1.0
    with suppress(ValueError):
        created = float(manifest.annotations.get(_CREATED, ""))
    if not 0 <= created < 1e11:
        raise ContentError(f"{where}: the state of a cache mount without a time")
    patched = manifest.config.media_type == PATCH
    base, packs = (manifest.layers[:1], manifest.layers[1:]) if patched else ((), manifest.layers)
    kinds = [(manifest.config, PATCH if patched and base else LISTING), *((each, LISTING) for each in base)]
    for blob, kind in [*kinds, *((layer, PACK) for layer in packs)]:
        if blob.media_type != kind or blob.size > MOST_PACKED:
            raise ContentError(f"{where}: the state of a cache mount with a blob of {blob.size} bytes of type {blob.media_type}")
    return State(where, digest, created, manifest.config, packs, base[0] if base else None)
