"""Which packs a new state takes over from an earlier one, and the listing that comes of it. Pure.

As a log-structured filesystem does, chunks stay in the packs they are in, dead ones too, until less than half of a pack is alive:
then what lives in it is written anew. So where one percent of the files is replaced each time, about two percent travel, and no
more than half of what a fresh machine fetches is dead. Each save adds a pack that may be small; when there are many of those, they
are put together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from engine.cache.carry.listing import Chunk, Listing
from engine.layer.entries import Entry

LITTLE = 1 << 20
"""Bytes, before compression, below which a pack is a small one."""
MOST_LITTLE = 16
"""Small packs that a state takes over. When there are more, what is in them is written anew."""

Digests = tuple[tuple[bytes, int], ...]
"""A file's chunks: digest and size of each."""


class Kept(Struct, frozen=True):
    """What is taken over: the chunks that are where they were, and the numbers of the packs they are in."""

    chunks: Mapping[bytes, Chunk]
    packs: tuple[int, ...]
    dead: tuple[Chunk, ...] = ()
    """What else is in these packs. It is listed on, so that it counts next time, and may come to life again."""


def keep(table: Sequence[Chunk], live: Collection[bytes], *, full: int) -> Kept:
    """Chooses packs of an earlier state by what of them is alive; `full` is the size of a pack that is not small."""
    sizes: dict[int, int] = {}
    alive: dict[int, int] = {}
    for chunk in table:
        sizes[chunk.pack] = sizes.get(chunk.pack, 0) + chunk.size
        if chunk.digest in live:
            alive[chunk.pack] = alive.get(chunk.pack, 0) + chunk.size
    packs = {pack for pack, size in alive.items() if 2 * size >= sizes[pack]}
    little = [pack for pack in packs if sizes[pack] < min(LITTLE, full)]
    if len(little) > MOST_LITTLE:
        packs.difference_update(little)
    chunks: dict[bytes, Chunk] = {}
    for chunk in table:
        if chunk.pack in packs and chunk.digest in live:
            chunks.setdefault(chunk.digest, chunk)
    used = {chunk.pack for chunk in chunks.values()}
    dead = tuple(chunk for chunk in table if chunk.pack in used and chunk.digest not in chunks)
    return Kept(chunks, tuple(sorted(used)), dead)


def compose(entries: Iterable[Entry], files: Mapping[bytes, Digests], kept: Kept,
            packs: Sequence[Sequence[tuple[bytes, int]]]) -> Listing:  # fmt: skip
    """The listing of entries whose files have these chunks (by path), which lie in the packs that are kept and then in new `packs`.
    A file that is not among them, or has a chunk that is in no pack, is left out, with what links to it."""
    at: dict[bytes, tuple[int, int]] = {}
    for number, contents in enumerate(packs, len(kept.packs)):
        offset = 0
        for digest, size in contents:
            at.setdefault(digest, (number, offset))
            offset += size
    numbers = {pack: number for number, pack in enumerate(kept.packs)}
    table: dict[bytes, Chunk] = {}
    order: dict[bytes, int] = {}
    there: set[bytes] = set()
    out: list[tuple[Entry, tuple[int, ...]]] = []
    for entry in entries:
        chunks = files.get(entry.path, () if not entry.size else None) if entry.kind == "file" else ()
        lost = chunks is None or any(digest not in kept.chunks and digest not in at for digest, _ in chunks)
        if chunks is None or lost or (entry.kind == "hardlink" and entry.link not in there):
            continue
        if entry.kind == "file":
            there.add(entry.path)
        for digest, size in chunks:
            if digest not in table:
                old = kept.chunks.get(digest)
                where = (numbers[old.pack], old.offset) if old else at[digest]
                order[digest] = len(table)
                table[digest] = Chunk(digest, size, *where)
        out.append((entry, tuple(order[digest] for digest, _ in chunks)))
    for chunk in kept.dead:
        table.setdefault(chunk.digest, chunk._replace(pack=numbers[chunk.pack]))
    return Listing(tuple(entry for entry, _ in out), tuple(chunks for _, chunks in out), tuple(table.values()))
