"""Scratch space: temporary files and directories of a running process, which outlive neither it nor the next one's start.

Each process has one directory below the root, claimed while it lives (see `claims`). Whoever finds one whose owner is gone
may remove it, beside any number of running builds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from engine.content import claims
from engine.content.faults import storing
from engine.errors import EngineError

RemoveTree = Callable[[Path], Awaitable[None]]
"""Removes a directory tree, whoever owns what is in it, and raises `OSError` or `EngineError` when it cannot."""


class Scratch:
    """One process's temporary space below `root` (the state directory's `tmp`). Nothing is made before it is asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._fd = -1
        self._own: Path | None = None
        self._count = 0

    def directory(self, prefix: str = "") -> Path:
        """A new empty directory (mode 0700); raises `StorageError`."""
        path = self._next(prefix)
        with storing(path):
            path.mkdir(mode=0o700)
        return path

    def file(self, prefix: str = "") -> Path:
        """A new empty file (mode 0600); raises `StorageError`."""
        path = self._next(prefix)
        with storing(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return path

    def close(self) -> None:
        """Removes the space and gives up its claim. What this user cannot remove (others' files) stays for `reclaim`."""
        if self._own is not None:
            with suppress(RecursionError):  # others' directories can be deeper than it can go
                shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._fd)
            self._fd, self._own = -1, None

    async def aclose(self, remove_tree: RemoveTree) -> None:
        """Like `close`, for a space in which steps may have left files of other owners."""
        if self._own is not None:
            with suppress(OSError, EngineError):
                await remove_tree(self._own)
        self.close()

    async def reclaim(self, remove_tree: RemoveTree) -> int:
        """Removes the spaces of processes that are gone; returns how many. One that cannot be removed is left for later."""
        count = 0
        for path in claims.entries(self._root):
            if path == self._own:
                continue
            with claims.abandoned(path) as dead:
                if dead:
                    with suppress(OSError, EngineError):
                        await remove_tree(path)
                        count += 1
        return count

    def _next(self, prefix: str) -> Path:
        if self._own is None:
            with storing(self._root):
                self._fd, self._own = claims.new_directory(self._root)
        self._count += 1
        return self._own / f"{prefix}{self._count}"

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
