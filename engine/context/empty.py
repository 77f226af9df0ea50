"""A context without files: a Dockerfile that came alone."""

from __future__ import annotations

from collections.abc import Sequence

from engine.context.archive import ArchiveTree
from engine.context.faults import show
from engine.errors import ContextError


class EmptyContext:
    """Implements `engine.context.base.Context`. `dockerfile` is what was on standard input or at a URL."""

    rules = None

    def __init__(self, dockerfile: bytes | None = None) -> None:
        self.tree = ArchiveTree(())
        self._dockerfile = dockerfile

    def dockerfile(self, path: str | None) -> tuple[str, bytes] | None:
        """See `Context`."""
        return None if self._dockerfile is None or path is not None else ("Dockerfile", self._dockerfile)

    async def digests(self, paths: Sequence[bytes]) -> dict[bytes, str]:
        """See `Context`."""
        for path in paths:
            raise ContextError(f"{show(path)} is not in the build context: there is none")
        return {}

    async def directory(self, path: bytes) -> str | None:
        """See `Context`."""
        return None

    async def aclose(self) -> None:
        """See `Context`."""
