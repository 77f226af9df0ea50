"""Unpacked layers and their indexes as a prune sees them (`engine.content.prune.Holding`): both can be made again from blobs."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field

from engine.content import claims
from engine.content.faults import storing
from engine.content.gc import Item
from engine.layer.index import IndexStore

LAYER, INDEX = "layer", "index"
_OWN, _CHAINS = ("diff", "needs"), ("chain", "moved", "fix")
_DRAFT_SECONDS = 3600.0
"""Age from which on an index that was never finished is somebody's who was killed."""


class _Layer(Struct):
    """What belongs to one layer, and when the newest of it was made."""

    paths: list[Path] = field(default_factory=list)
    made: float = 0.0


class LayerHolding:
    """The layer stores of a state directory: one item for each layer, with all directories that show its files (see
    `engine.snapshot.layers`). Chains whose layer is not on record count as layers that nobody needs. `measure` and `remove` are
    given paths, and do what they are called whoever owns the files."""

    def __init__(self, directory: Path, measure: Callable[[list[str]], Awaitable[list[int]]],
                 remove: Callable[[list[str]], Awaitable[None]]) -> None:  # fmt: skip
        self._directory = directory
        self._trash = directory / "trash"
        self._measure = measure
        self._remove = remove
        self._sizes: dict[Path, int] = {}

    async def survey(self) -> None:
        """Measures all directories."""
        paths = [path for layer in self._layers().values() for path in layer.paths]
        if paths:
            self._sizes = dict(zip(paths, await self._measure([str(path) for path in paths]), strict=True))

    def items(self) -> Iterable[Item]:
        """One item for each layer."""
        for name, layer in self._layers().items():
            yield Item((LAYER, name), sum(self._sizes.get(path, 0) for path in layer.paths), layer.made)

    async def detach(self, items: Sequence[Item]) -> None:
        """Moves directories into the trash."""
        names = {item.name[1] for item in items if item.name[0] == LAYER}
        if not names:
            return
        for name, layer in self._layers().items():
            for path in layer.paths if name in names else ():
                with storing(path), suppress(FileNotFoundError):
                    self._trash.mkdir(exist_ok=True)
                    os.rename(path, self._trash / claims.unique())
                    (path.parent.parent / "of" / path.name).unlink(missing_ok=True)

    async def purge(self) -> None:
        """Deletes what is in the trash."""
        paths = [str(path) for path in claims.entries(self._trash)]
        if paths:
            await self._remove(paths)

    def _layers(self) -> dict[str, _Layer]:
        found: dict[str, _Layer] = {}
        for store in claims.entries(self._directory):
            if store == self._trash:
                continue
            for kind in (*_OWN, *_CHAINS):
                for path in claims.entries(store / kind):
                    name = f"sha256:{path.name}" if kind in _OWN else _layer_of(store, path.name)
                    layer = found.setdefault(name, _Layer())
                    with suppress(OSError):
                        layer.made = max(layer.made, path.stat().st_ctime)
                        layer.paths.append(path)
        return found


def _layer_of(store: Path, chain: str) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return (store / "of" / chain).read_text().strip() or f"chain {chain}"
    return f"chain {chain}"


class IndexHolding:
    """The indexes of an index store."""

    def __init__(self, indexes: IndexStore) -> None:
        self._indexes = indexes

    async def survey(self) -> None:
        """Nothing takes long here."""

    def items(self) -> Iterable[Item]:
        """One item for each index."""
        for algorithm in claims.entries(self._indexes.directory):
            for path in claims.entries(algorithm):
                with suppress(OSError):
                    status = path.stat()
                    if not path.name.startswith("."):
                        yield Item((INDEX, f"{algorithm.name}:{path.name}"), status.st_size, status.st_ctime)

    async def detach(self, items: Sequence[Item]) -> None:
        """Removes indexes."""
        for item in items:
            if item.name[0] == INDEX:
                algorithm, _, name = item.name[1].partition(":")
                path = self._indexes.directory / algorithm / name
                with storing(path):
                    path.unlink(missing_ok=True)

    async def purge(self) -> None:
        """Removes what killed processes have begun."""
        for algorithm in claims.entries(self._indexes.directory):
            for path in claims.entries(algorithm):
                with suppress(OSError):
                    if path.name.startswith(".") and time.time() - path.stat().st_mtime > _DRAFT_SECONDS:
                        path.unlink()
