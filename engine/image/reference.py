"""Image references: `[registry/]repository[:tag][@digest]`, completed as docker does (distribution's reference grammar)."""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from engine.errors import ContentError, UsageError
from engine.image.digest import Digest

DOCKER_HUB = "docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
                       r"|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class Reference(Struct, frozen=True):
    """A repository in a registry, and a tag or digest (or both, then the digest decides) in it."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """`busybox` is docker.io/library/busybox:latest; raises `UsageError` when the text is no reference."""
        name, at, digest_text = text.partition("@")
        try:
            digest = Digest.parse(digest_text) if at else None
        except ContentError as error:
            raise UsageError(f"invalid reference {text!r}: {error}") from error
        head, slash, rest = name.partition("/")
        if slash and ("." in head or ":" in head or head == "localhost" or head != head.lower()):
            registry, path = head, rest
        else:
            registry, path = DOCKER_HUB, name
        path, colon, tag = path.partition(":")
        if registry in (DOCKER_HUB, "index.docker.io"):
            registry = DOCKER_HUB
            path = path if "/" in path else f"library/{path}"
        if path != path.lower():
            raise UsageError(f"invalid reference {text!r}: repository name must be lowercase")
        if not _REGISTRY.fullmatch(registry) or not _REPOSITORY.fullmatch(path) or len(path) > 255:
            raise UsageError(f"invalid reference {text!r}: invalid reference format")
        if colon and not _TAG.fullmatch(tag):
            raise UsageError(f"invalid reference {text!r}: invalid tag {tag!r}")
        return cls(registry, path, tag if colon else (None if digest else "latest"), digest)

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository and tag, pinned to a digest."""
        return replace(self, digest=digest)

    def with_tag(self, tag: str) -> Reference:
        """Another tag of the same repository; any digest is dropped."""
        return replace(self, tag=tag, digest=None)

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What a manifest request asks for: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else (self.tag or "latest")

    @property
    def familiar(self) -> str:
        """As a person would write it: without docker.io and library/."""
        text = str(self)
        return text.removeprefix(f"{DOCKER_HUB}/").removeprefix("library/") if self.registry == DOCKER_HUB else text

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


OCI_LAYOUT = "oci-layout"
"""The registry of references to OCI image layouts on disk, whose repository is the layout's directory."""


def layout_reference(spec: str) -> Reference:
    """The reference for `oci-layout://DIR`, with `:TAG` or `@DIGEST` or neither; raises `UsageError`."""
    directory, at, digest = spec.removeprefix(f"{OCI_LAYOUT}://").partition("@")
    tag = None
    if not at and ":" in directory.rpartition("/")[2]:
        directory, _, tag = directory.rpartition(":")
    if not directory:
        raise UsageError(f"invalid OCI layout {spec!r}", hint="write oci-layout://DIR, oci-layout://DIR:TAG or oci-layout://DIR@DIGEST")
    return Reference(OCI_LAYOUT, directory, tag, Digest.parse(digest) if at else None)


CACHE_LAYOUT = "cache-layout"
"""The registry of references to directories that hold a cache as an OCI image layout, whose repository is the directory's absolute
path. They are read with more suspicion than images that somebody chose to build from: nothing in them is followed elsewhere."""


def cache_layout(directory: str, tag: str | None = None) -> Reference:
    """The reference for a cache in a directory, which is an absolute path; raises `UsageError`. The tag is the cache's scope."""
    if not directory.startswith("/") or "\0" in directory:
        raise UsageError(f"invalid directory of a cache: {directory!r}")
    if tag is not None and not _TAG.fullmatch(tag):
        raise UsageError(f"invalid tag {tag!r} of a cache in a directory")
    return Reference(CACHE_LAYOUT, directory, tag)
