"""Build contexts: where COPY, ADD and bind mounts take files from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from engine.context.rules import IgnoreRules
from engine.layer.base import FileTree, Subtree


class Context(Protocol):
    """A place with files. It lives until `aclose`, which removes what was fetched or unpacked for it. Raises `ContextError` for
    what cannot be read."""

    @property
    def tree(self) -> FileTree:
        """What may be copied: without the files that the ignore file names."""

    @property
    def rules(self) -> IgnoreRules | None:
        """What of it is left out, None for nothing."""

    def dockerfile(self, path: str | None) -> tuple[str, bytes] | None:
        """The Dockerfile's name for people and its bytes (default: `Dockerfile`, else `dockerfile`); None if it is not there.
        Ignore rules do not count here."""

    async def digests(self, paths: Sequence[bytes]) -> dict[bytes, str]:
        """Digests (hexadecimal) of regular files' contents, from the store of earlier digests where inode, size, mtime and ctime
        say that nothing changed."""

    async def directory(self, path: bytes) -> str | None:
        """For bind mounts: an absolute path of a directory on disk that has, at and below the same `path`, what may be copied and
        nothing else. It may be the context's own; it lives as long as the context. None for an empty context."""

    async def aclose(self) -> None:
        """Removes temporary files."""


@runtime_checkable
class SubtreeContext(Context, Protocol):
    """A context whose tree has subtrees (`engine.layer.base.Subtrees`)."""

    async def digest_below(self, subtree: Subtree) -> Callable[[], Awaitable[None]]:
        """Finds out the digests of all files in a subtree, which has them from then on; gives what has them kept for later builds.
        Raises `ContextError`."""

    def learn(self, files: Mapping[bytes, bytes], subtrees: Sequence[tuple[Subtree, bytes]]) -> None:
        """Takes up digests of files that somebody else has read: by path, and for subtrees 32 bytes for each row of their
        columns."""

    async def keep(self, files: Iterable[bytes], subtrees: Sequence[Subtree], read_after: int) -> None:
        """Keeps the digests of such files for later builds; they were read after a time (nanoseconds since the epoch)."""
