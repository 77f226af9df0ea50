"""The registry client's contract (OCI distribution spec 1.1)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.manifest import Index, Manifest
from engine.image.reference import Reference

Progress = Callable[[int], None]
"""Called with the number of bytes moved so far, which may go down when a transfer starts again."""


class Fetched(Struct, frozen=True):
    """A manifest as a registry gave it, verified against its digest."""

    descriptor: Descriptor
    manifest: Manifest | Index


class Growing(Protocol):
    """A blob that is still being written, into a file that only grows."""

    def open(self) -> int:
        """A descriptor to read the file with, the caller's to close; raises `OSError` when there is no file any more."""

    async def more(self, have: int) -> int:
        """How many bytes there are. Waits until it is worth while to send those after `have`, or the writing has ended."""

    async def outcome(self) -> tuple[Descriptor, Path] | None:
        """What has been written, and where it lies for good, when the writing has ended; None when nothing came of it."""


class Puller(Protocol):
    """Where images are read from: registries, or OCI layouts."""

    async def resolve(self, reference: Reference) -> Descriptor:
        """What a tag or digest stands for now."""

    async def manifest(self, reference: Reference) -> Fetched:
        """A manifest or index."""

    def blob(self, reference: Reference, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """A blob's bytes, verified at their end."""


class Registry(Protocol):
    """All registries, by reference. Every call retries what is transient, and raises `RegistryError`, `NotFoundError`,
    `AuthError` or `ContentError` that names the registry and what was asked of it."""

    async def resolve(self, reference: Reference) -> Descriptor:
        """What a tag or digest stands for now (HEAD, or GET where a registry answers HEAD badly)."""

    async def manifest(self, reference: Reference) -> Fetched:
        """A manifest or index."""

    def blob(self, reference: Reference, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """A blob's bytes as they arrive, resumed after a broken connection; at its end the size and digest are verified, and
        `ContentError` raised when they do not match. Who may stop before the end uses `contextlib.aclosing`: the connection
        and the place among the downloads are held until then."""

    async def has_blob(self, reference: Reference, digest: Digest) -> bool:
        """Whether the repository has a blob."""

    async def push_blob(self, reference: Reference, descriptor: Descriptor, path: Path, *,
                        mount_from: Sequence[Reference] = (), progress: Progress | None = None) -> bool:
        """Makes the repository have a blob: asks whether it does, tries to mount it from other repositories of the registry,
        else uploads the file. Returns whether bytes were uploaded. Equal pushes at one time are one. The file need not be there
        unless it comes to an upload; `StorageError` when it is missing then."""

    async def push_growing(self, reference: Reference, growing: Growing) -> Descriptor | None:
        """Makes the repository have a blob that is still being written: sends what there is of it as it comes, if the registry
        takes that, and at the end does what is left of `push_blob`. Returns what was written; None, with nothing left at the
        registry, when nothing came of it. Raises as `push_blob`."""

    async def push_manifest(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        """Puts a manifest under the reference's tag (or by digest); returns its digest."""

    async def referrers(self, reference: Reference, digest: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """The manifests whose subject is `digest`; with the fallback tag where a registry lacks the API."""

    async def tags(self, reference: Reference) -> tuple[str, ...]:
        """All tags of a repository."""

    async def delete(self, reference: Reference) -> None:
        """Deletes a manifest (or tag)."""

    async def aclose(self) -> None:
        """Closes the connections."""
