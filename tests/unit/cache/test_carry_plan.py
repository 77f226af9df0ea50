"""Which packs a state takes over: little is sent anew, and little of what is there is dead."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence

from engine.cache.carry.artifact import Place, place
from engine.cache.carry.listing import Chunk, Listing
from engine.cache.carry.plan import LITTLE, MOST_LITTLE, Kept, compose, keep
from engine.image.reference import Reference
from engine.layer.entries import Entry

FULL = 4 << 20
ROOT = Entry(b"", "dir", 0o755)


def digest(text: object) -> bytes:
    return hashlib.sha256(repr(text).encode()).digest()


def packed(chunks: Mapping[bytes, int]) -> list[list[tuple[bytes, int]]]:
    """Chunks in packs, as a worker fills them."""
    packs: list[list[tuple[bytes, int]]] = []
    room = 0
    for name, size in chunks.items():
        if room <= 0:
            packs.append([])
            room = FULL
        packs[-1].append((name, size))
        room -= size
    return packs


def saved(base: Sequence[Chunk], files: Mapping[bytes, tuple[bytes, int]]) -> tuple[Listing, int, Kept]:
    """A save of files of one chunk each: the listing, and how many bytes travelled."""
    known = {chunk.digest for chunk in base}
    new = {name: size for name, size in files.values() if name not in known}
    live = {name for name, _ in files.values()}
    kept = keep(base, live, full=FULL)
    again = {name: size for name, size in files.values() if name not in kept.chunks and name not in new}
    entries = [ROOT, *(Entry(path, "file", size=size) for path, (_, size) in sorted(files.items()))]
    listing = compose(entries, {path: (each,) for path, each in files.items()}, kept, packed(new) + packed(again))
    return listing, sum(new.values()) + sum(again.values()), kept


def files_of(count: int, size: int) -> dict[bytes, tuple[bytes, int]]:
    return {b"%06d" % n: (digest(n), size) for n in range(count)}


def test_one_percent_replaced_each_time_sends_about_two_and_keeps_little_that_is_dead() -> None:
    chance = random.Random(5)
    files = files_of(600, 200_000)
    listing, sent, _ = saved((), files)
    assert sent == 120_000_000
    total = 0
    for generation in range(150):
        for path in chance.sample(sorted(files), 6):
            files[path] = digest((generation, path)), 200_000
        listing, sent, _ = saved(listing.table, files)
        total += sent
        there = sum(chunk.size for chunk in listing.table)
        assert there < 2.2 * 120_000_000
        assert len({chunk.pack for chunk in listing.table}) < 2.2 * 120_000_000 / LITTLE
        assert [listing.table[n[0]].digest for n in listing.chunks[1:]] == [files[path][0] for path in sorted(files)]
    assert total / 150 < 0.025 * 120_000_000


def test_many_small_packs_are_put_together() -> None:
    files = files_of(1, 1000)
    listing, _, _ = saved((), files)
    most = 0
    for n in range(1, 200):
        files[b"%06d" % n] = digest(n), 1000
        listing, _, _ = saved(listing.table, files)
        most = max(most, len({chunk.pack for chunk in listing.table}))
    assert most <= MOST_LITTLE + 1
    assert LITTLE > 200 * 1000


def test_what_is_dead_may_live_again() -> None:
    files = files_of(100, 100_000)
    listing, _, _ = saved((), files)
    gone = files.pop(b"000003")
    listing, sent, _ = saved(listing.table, files)
    assert sent == 0
    assert gone[0] in {chunk.digest for chunk in listing.table}
    files[b"back"] = gone
    assert saved(listing.table, files)[1] == 0


def test_a_file_without_chunks_is_left_out_with_its_links() -> None:
    entries = [ROOT, Entry(b"a", "file", size=1), Entry(b"b", "hardlink", link=b"a"), Entry(b"c", "file"),
               Entry(b"d", "hardlink", link=b"c"), Entry(b"e", "file", size=1), Entry(b"f", "symlink", link=b"a")]
    listing = compose(entries, {b"e": ((digest("lost"), 1),)}, Kept({}, ()), [])
    assert [entry.path for entry in listing.entries] == [b"", b"c", b"d", b"f"]


def test_no_two_mounts_or_scopes_have_one_tag() -> None:
    repository = Reference.parse("reg.example/mounts")
    names = [hashlib.sha256(text).hexdigest() for text in (b"a", b"b")]
    scopes = ["", "main", "main-x", "a/b", "a-b", "a?b", "x" * 41, "x" * 42, names[0]]
    tags = {str(Place(repository, scope).state(name)) for scope in scopes for name in names}
    assert len(tags) == len(scopes) * len(names)
    assert all(len(str(Reference.parse(tag).tag)) <= 128 for tag in tags)
    assert (place(repository).scope, place(repository.with_tag("main")).scope) == ("", "main")
