"""A cache in memory: the first tier of a process that builds more than once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from engine.cache.base import Record
from engine.content.base import ContentStore
from engine.image.digest import Digest


class MemoryCache:
    """The records that were used last, at most `limit` of them. With a content store, only those whose blobs it has."""

    def __init__(self, content: ContentStore | None = None, limit: int = 10_000) -> None:
        self._content = content
        self._limit = limit
        self._records: OrderedDict[Digest, Record] = OrderedDict()

    async def get(self, key: Digest) -> Record | None:
        """The record, if there is one and its blob is here."""
        record = self._records.get(key)
        if record is None:
            return None
        if self._content and record.layer and self._content.size(record.layer.blob.digest) != record.layer.blob.size:
            del self._records[key]
            return None
        self._records.move_to_end(key)
        return record

    async def get_many(self, keys: Sequence[Digest]) -> dict[Digest, Record]:
        """The records there are for some keys."""
        return {key: record for key in keys if (record := await self.get(key))}

    async def put(self, *records: Record, replace: bool = False) -> None:
        """Keeps records, those whose keys have one already only if that is to be replaced."""
        for record in records:
            if replace or await self.get(record.key) is None:
                self._records[record.key] = record
                if len(self._records) > self._limit:
                    self._records.popitem(last=False)
