"""What a build is asked for, and what it gives back. Pure values; the command line and library users make them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from msgspec import Struct, field

from engine.image.digest import Digest
from engine.image.platform import Platform
from engine.image.reference import Reference
from engine.settings import Compression
from engine.values import Value

OutputKind = Literal["registry", "oci", "docker", "tar", "local"]


class OutputRequest(Struct, frozen=True):
    """A place for the image. `registry` pushes every tag; `oci` and `docker` write an archive to `destination`, or with
    `archive` false a directory; `tar` and `local` write the root filesystem alone. A `destination` of None is standard
    output, where that makes sense."""

    kind: OutputKind
    destination: Path | None = None
    archive: bool = True
    options: Mapping[str, str] = field(default_factory=dict)


class SecretSource(Value, frozen=True):
    """A secret's value: a file, or a value given in memory."""

    UNSHOWN: ClassVar = frozenset({"value"})

    id: str
    file: Path | None = None
    value: bytes | None = None


class SshSource(Struct, frozen=True):
    """An SSH agent's socket, or private key files to be served by an agent of the build's own."""

    id: str
    socket: Path | None = None
    keys: tuple[Path, ...] = ()


class CacheLocation(Struct, frozen=True):
    """A cache beside the state directory: a repository in a registry, or a directory (`engine.image.reference.cache_layout`). What
    is written with mode `min` is the steps whose layers are the image's, with `max` all steps. With `image`, what `repository`
    names may also be an image with a cache in it, as `BuildRequest.cache_inline` makes them."""

    repository: Reference
    mode: Literal["min", "max"] = "min"
    image: bool = False


class BuildRequest(Struct, frozen=True):
    """One build. `context` is a directory, a tar file, a git or http URL, or `-` (then `stdin` is the tar's path or bytes).

    `dockerfile` is a path (relative to the current directory, as with docker; default `Dockerfile` in the context), or None;
    `dockerfile_text` overrides it with a text. `build_args` with a None value were named but have no value.
    A reference among `tags` whose own `tag` is None is pushed by digest, without a tag.
    """

    context: str = "."
    dockerfile: str | None = None
    dockerfile_text: str | None = None
    tags: tuple[Reference, ...] = ()
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    platforms: tuple[Platform, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, SecretSource] = field(default_factory=dict)
    ssh: Mapping[str, SshSource] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    network: Literal["default", "none", "host"] = "default"
    no_cache: bool = False
    pull: bool = False
    outputs: tuple[OutputRequest, ...] = ()
    compression: Compression = "gzip"
    compression_level: int | None = None
    force_compression: bool = False
    """Compress layers that exist in another compression anew, those of the base too."""
    docker_types: bool = False
    """Give the image docker's media types instead of OCI's. They know neither zstd nor annotations."""
    source_date_epoch: int | None = None
    rewrite_timestamp: bool = False
    cache_from: tuple[CacheLocation, ...] = ()
    cache_to: CacheLocation | None = None
    cache_inline: bool = False
    """Put a cache into the image's config; so does the build argument BUILDKIT_INLINE_CACHE=1."""
    cache_scopes: tuple[str, ...] = ()
    """Parts of the caches: the first is written, all are read. Without any, a cache's scope is the tag of its reference."""
    cache_ttl: float | None = None
    """Seconds: entries of caches in registries, directories and images that are older count as absent."""
    cache_mounts_from: tuple[Reference, ...] = ()
    """Repositories that cache mounts are restored from, the first that has one; the tag is a scope, such as a branch."""
    cache_mounts_to: Reference | None = None
    """The repository that the cache mounts of the steps that ran are saved to."""
    explain: bool = False
    """Say of each step where its result was found, or why it was not."""


class BuildResult(Value, frozen=True):
    """`digest` names the image's manifest, or the index when several platforms were built. `image_id` is the config's digest
    (of the first platform). `cached` and `ran` count layer steps."""

    UNSHOWN: ClassVar = frozenset({"manifest"})

    digest: Digest
    image_id: Digest
    media_type: str
    size: int
    manifest: bytes
    names: tuple[str, ...] = ()
    cached: int = 0
    ran: int = 0
