"""The local cache's roots, as a prune sees them (`engine.content.prune.Holding`): records, and remembered bases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.cache.local import LocalCache
from engine.content.gc import Item
from engine.content.leases import Name
from engine.image.digest import Digest
from engine.image.reference import Reference

RECORD, BASE = "record", "base"


class RecordHolding:
    """Records need their layer's blob, index and unpacked files; bases what was said when they were remembered. By themselves
    they take no space that counts."""

    def __init__(self, cache: LocalCache) -> None:
        self._cache = cache

    async def survey(self) -> None:
        """Writes down what was used, and forgets what is gone."""
        await self._cache.flush()

    def items(self) -> Iterable[Item]:
        """A root for each record and each base."""
        for usage in self._cache.usage():
            needs: tuple[Name, ...] = ()
            if usage.blob and usage.diff_id:
                needs = (("blob", str(usage.blob)), ("layer", str(usage.diff_id)), ("index", str(usage.diff_id)))
            yield Item((RECORD, str(usage.key)), 0, usage.used, root=True, needs=needs)
        for base in self._cache.catalog.bases():
            yield Item((BASE, str(base.reference)), 0, base.used, root=True, needs=base.needs)

    async def detach(self, items: Sequence[Item]) -> None:
        """Forgets records and bases."""
        await self._cache.remove([Digest.parse(item.name[1]) for item in items if item.name[0] == RECORD])
        await self._cache.catalog.forget_bases([Reference.parse(item.name[1]) for item in items if item.name[0] == BASE])

    async def purge(self) -> None:
        """Nothing is left to free."""
