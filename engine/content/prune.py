"""Pruning: asks everyone who holds something in the state directory, decides (see `gc`), and has it removed."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import anyio.to_thread

from engine.content import claims
from engine.content.faults import storing
from engine.content.gc import Item, Policy, Verdict, decide
from engine.content.leases import Leases
from engine.content.store import DirectoryStore
from engine.errors import StorageError
from engine.image.digest import Digest


class Holding(Protocol):
    """One sort of things in the state directory. Builds wait while things are listed and detached, and not for the rest."""

    async def survey(self) -> None:
        """Finds out what takes long to find out, such as the size of big trees."""

    def items(self) -> Iterable[Item]:
        """All things there are now."""

    async def detach(self, items: Sequence[Item]) -> None:
        """Makes some of its things be gone for everyone who looks; quick: a rename or a transaction. Things of other holdings
        may be among the items."""

    async def purge(self) -> None:
        """Frees the space of what was detached, by this process or by one that was killed before it got there."""


async def prune(leases: Leases, holdings: Sequence[Holding], policy: Policy, now: float, *, dry: bool = False) -> Verdict:
    """Removes what a policy lets go of, or with `dry` only says what that is. Safe beside running builds and other prunes;
    raises `StorageError` when something cannot be removed. Holdings of roots come before those of what roots need, so that
    a prune that is killed leaves no root without its needs. A holding that cannot let go of its things, for instance since the
    disk has no room for the transaction, is asked again when the others have freed theirs."""
    for holding in holdings:
        await holding.survey()
    async with leases.exclusive() as leased:
        verdict = decide((item for holding in holdings for item in holding.items()), leased, policy, now)
        late = [] if dry else [holding for holding in holdings if not await _detached(holding, verdict.remove)]
    if dry:
        return verdict
    for holding in holdings:
        await holding.purge()
    if late:
        async with leases.exclusive() as leased:
            for holding in late:
                await holding.detach([item for item in verdict.remove if item.name not in leased.names])
        for holding in late:
            await holding.purge()
    return verdict


async def _detached(holding: Holding, items: Sequence[Item]) -> bool:
    try:
        await holding.detach(items)
    except StorageError:
        return False
    return True


class ScratchHolding:
    """What processes that were killed have left in some directories, whose entries are claimed while their owners live. Builds
    remove it, too, when they come to need such a directory themselves. `measure` and `remove` are given paths, and do what they
    are called whoever owns the files."""

    kind = "scratch"

    def __init__(self, directories: Sequence[Path], measure: Callable[[list[str]], Awaitable[list[int]]],
                 remove: Callable[[list[str]], Awaitable[None]]) -> None:  # fmt: skip
        self._directories = directories
        self._measure = measure
        self._remove = remove
        self._sizes: dict[Path, int] = {}

    async def survey(self) -> None:
        """Measures what is left."""
        paths: list[Path] = []
        for directory in self._directories:
            for path in claims.entries(directory):
                with claims.abandoned(path) as dead:
                    paths += [path] if dead else []
        sizes = await self._measure([str(path) for path in paths]) if paths else []
        self._sizes = dict(zip(paths, sizes, strict=True))

    def items(self) -> Iterable[Item]:
        """One item for each; nobody needs it, however young it is."""
        for path, size in self._sizes.items():
            yield Item((self.kind, f"{path.parent.name}/{path.name}"), size + _blocks(path), 0.0)

    async def detach(self, items: Sequence[Item]) -> None:
        """Nothing is to be done: nobody looks at it."""

    async def purge(self) -> None:
        """Removes what was found, unless another one does."""
        for path in self._sizes:
            with claims.abandoned(path) as dead:
                if dead:
                    await self._remove([str(path)])
        self._sizes = {}


def _blocks(path: Path) -> int:
    """The bytes that a file or a directory itself takes on disk."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


class BlobHolding:
    """The blobs of a content store. None of them is kept for its own sake."""

    kind = "blob"

    def __init__(self, store: DirectoryStore, trash: Path) -> None:
        self._store = store
        self._trash = trash

    async def survey(self) -> None:
        """Nothing takes long here."""

    def items(self) -> Iterable[Item]:
        """One item for each blob, used when it was stored."""
        return [Item((self.kind, str(digest)), size, used) for digest, size, used in self._store.blobs()]

    async def detach(self, items: Sequence[Item]) -> None:
        """Moves blobs into the trash; one that was stored anew meanwhile goes back."""
        for item in items:
            if item.name[0] != self.kind:
                continue
            path = self._store.path(Digest.parse(item.name[1]))
            grave = self._trash / claims.unique()
            with storing(path), suppress(FileNotFoundError):
                self._trash.mkdir(parents=True, exist_ok=True)
                os.rename(path, grave)
                if grave.stat().st_mtime > item.used:
                    os.rename(grave, path)

    async def purge(self) -> None:
        """Empties the trash."""

        def empty() -> None:
            for path in claims.entries(self._trash):
                with storing(path):
                    path.unlink(missing_ok=True)

        await anyio.to_thread.run_sync(empty)
