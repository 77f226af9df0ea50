"""What the local cache remembers beside records: where blobs were seen, what tags stood for, what was built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from msgspec import Struct

from engine import codec
from engine.cache.database import Database
from engine.content.leases import Name
from engine.errors import EngineError
from engine.image.digest import Digest
from engine.image.reference import Reference

TRUST = 900.0
"""Seconds for which a blob that was seen in a registry is counted on without asking again."""

_USE_PRECISION = 3600.0
"""Seconds by which the last use of a base may be too early on record."""


class Base(Struct, frozen=True):
    """A reference, what it stood for when it was `seen`, and what of its image is in the state directory (manifest, config and
    layer blobs, unpacked layers). Times are seconds since the epoch."""

    reference: Reference
    digest: Digest
    seen: float
    used: float
    needs: tuple[Name, ...] = ()


class Catalog:
    """Three tables in the local cache's database. Reading them for a build never fails; writing raises `StorageError`."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def origins(self, blob: Digest) -> tuple[Reference, ...]:
        """The repositories in which a blob was seen, the latest first: where it can be fetched, or mounted from."""
        found = self._database.read("SELECT registry, repository FROM origins WHERE blob = ? ORDER BY seen DESC", (str(blob),))
        return tuple(Reference(registry, repository) for registry, repository in found)

    def is_elsewhere(self, blob: Digest) -> bool:
        """Whether a registry had the blob within the last `TRUST` seconds."""
        query = "SELECT 1 FROM origins WHERE blob = ? AND seen > ? LIMIT 1"
        return bool(self._database.read(query, (str(blob), self._clock() - TRUST)))

    async def saw(self, repository: Reference, blobs: Iterable[Digest]) -> None:
        """Remembers that a repository has some blobs."""
        now = self._clock()
        await self._database.execute("REPLACE INTO origins (blob, registry, repository, seen) VALUES (?,?,?,?)",
                                     [(str(blob), repository.registry, repository.repository, now) for blob in blobs])

    async def missed(self, repository: Reference, blobs: Iterable[Digest]) -> None:
        """Forgets that a repository has some blobs: it turned out that it has not."""
        await self._database.execute("DELETE FROM origins WHERE blob = ? AND registry = ? AND repository = ?",
                                     [(str(blob), repository.registry, repository.repository) for blob in blobs])

    def base(self, reference: Reference) -> Base | None:
        """What is remembered of a reference, at any age."""
        columns = "SELECT reference, digest, seen, used, needs FROM bases WHERE reference = ?"
        return next((base for row in self._database.read(columns, (str(reference),)) if (base := _base(row))), None)

    def bases(self) -> list[Base]:
        """All that is remembered of references; raises `StorageError` when it cannot be read."""
        found = self._database.read("SELECT reference, digest, seen, used, needs FROM bases ORDER BY reference", needed=True)
        return [base for row in found if (base := _base(row))]

    async def remember_base(self, reference: Reference, digest: Digest, needs: Sequence[Name]) -> None:
        """Remembers what a reference stands for now, and what of its image must stay as long as it is remembered."""
        now = self._clock()
        await self._database.execute(
            "REPLACE INTO bases (reference, digest, seen, used, needs) VALUES (?,?,?,?,?)",
            [(str(reference), str(digest), now, now, codec.encode([list(need) for need in needs]).decode())])

    async def use_base(self, reference: Reference, digest: Digest, needs: Sequence[Name]) -> None:
        """As `remember_base`, but writes nothing when that was done within the last hour."""
        known = self.base(reference)
        if known is None or known.digest != digest or self._clock() - known.used > _USE_PRECISION:
            await self.remember_base(reference, digest, needs)

    async def used_bases(self, references: Iterable[Reference]) -> None:
        """Notes that references were used without being asked about anew."""
        now = self._clock()
        await self._database.execute("UPDATE bases SET used = ? WHERE reference = ?", [(now, str(r)) for r in references])

    async def forget_bases(self, references: Iterable[Reference]) -> None:
        """Forgets references."""
        await self._database.execute("DELETE FROM bases WHERE reference = ?", [(str(r),) for r in references])

    def images(self) -> list[tuple[Reference, Digest, float]]:
        """What was built: name, manifest digest and when (seconds since the epoch), the latest first."""
        found = self._database.read("SELECT name, digest, built FROM images ORDER BY built DESC")
        out: list[tuple[Reference, Digest, float]] = []
        for name, digest, built in found:
            with suppress(EngineError):
                out.append((Reference.parse(name), Digest.parse(digest), built))
        return out

    async def built(self, names: Iterable[Reference], digest: Digest) -> None:
        """Remembers what names stand for since a build that has just ended."""
        now = self._clock()
        await self._database.execute("REPLACE INTO images (name, digest, built) VALUES (?,?,?)",
                                     [(str(name), str(digest), now) for name in names])


def _base(row: tuple[object, ...]) -> Base | None:
    reference, digest, seen, used, needs = row
    try:
        return Base(Reference.parse(str(reference)), Digest.parse(str(digest)), float(str(seen)), float(str(used)),
                    tuple((str(kind), str(identity)) for kind, identity in codec.decode(str(needs))))
    except (EngineError, ValueError, TypeError):
        return None
