"""A layer's index, from its blob."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from engine.errors import ContentError
from engine.image.digest import Digest
from engine.layer.arriving import Arriving
from engine.layer.contents import Contents
from engine.layer.entries import Entry
from engine.layer.hashing import content_hash
from engine.layer.index import CONSULTED, MOST_CONSULTED, Index, IndexStore, collector_paused
from engine.layer.inflate import Inflated
from engine.layer.tarstream import TarStream


class Unpacked(Struct, frozen=True):
    """What a layer's blob turned out to hold."""

    diff_id: str
    """The digest of the tar, hexadecimal."""
    tar_size: int
    """Bytes of the tar."""
    index: Index
    """Empty when it was written to a store instead."""
    implicit: tuple[bytes, ...] = ()
    """Directories the layer has files in but no entry for: root's, mode 755, unless a lower layer says otherwise."""
    foreign_links: tuple[Entry, ...] = ()
    """Hard links to files of lower layers. They are not on disk."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The layer's entries, also those that could not be on disk."""
        return self.index.entries


Pieces = Iterable[bytes | memoryview]
Use = Callable[[Iterator[bytes | memoryview]], None]


class Expected(Struct, frozen=True):
    """What is known of a layer before it is read, and where its index is to go: strings, since it crosses to a worker."""

    diff_id: str = ""
    """`algorithm:hex`, or empty; a layer that has another one is a `ContentError`."""
    index_dir: str = ""
    """The directory of an `IndexStore` that the index is put into, once the diff id is verified. It is not returned then."""

    @property
    def algorithm(self) -> str:
        """What the tar is digested with."""
        return Digest.parse(self.diff_id).algorithm if self.diff_id else "sha256"

    def verify(self, hexadecimal: str) -> Digest:
        """The diff id that was found; raises `ContentError` when it is not the one that was expected."""
        found = Digest(self.algorithm, hexadecimal)
        if self.diff_id and str(found) != self.diff_id:
            raise ContentError(f"a layer's content is {found}, and its image says {self.diff_id}")
        return found


class Look:
    """Looks at the contents of files that go by: digests them, and keeps those that an index holds."""

    def __init__(self, *, hash_files: bool) -> None:
        self._new = content_hash() if hash_files else None
        self._kept: dict[bytes, bytes] = {}

    def wants(self, entry: Entry) -> bool:
        """Whether a file is to be looked at."""
        return self._new is not None or entry.path in CONSULTED

    def through(self, entry: Entry, pieces: Pieces, use: Use) -> Entry:
        """Lets `use` have the pieces, and returns the entry with its digest if digests are asked for."""
        digest = self._new() if self._new else None
        parts: list[bytes] | None = [] if entry.path in CONSULTED and entry.size <= MOST_CONSULTED else None

        def watched() -> Iterator[bytes | memoryview]:
            for piece in pieces:
                if digest is not None:
                    digest.update(piece)
                if parts is not None:
                    parts.append(bytes(piece))
                yield piece

        use(watched())
        if parts is not None:
            self._kept[entry.path] = b"".join(parts)
        return entry._replace(digest=digest.hexdigest()) if digest is not None else entry

    def files(self, entries: dict[bytes, Entry]) -> dict[bytes, bytes]:
        """The contents that were kept, of files that are still there."""
        return {path: data for path, data in self._kept.items() if path in entries and entries[path].kind == "file"}


def scan(blob_path: str, diff_id: str = "", index_dir: str = "", arriving: Arriving | None = None, *,
         hash_files: bool = False) -> Unpacked:
    """A layer's index without unpacking it; with `hash_files` the entries have digests. `diff_id` and `index_dir` are as in
    `Expected`; the blob may be `arriving`. Raises `ContentError` for a broken layer, one that climbs out of the root or has
    another diff id, and `StorageError`
    when the blob cannot be read."""
    expected = Expected(diff_id, index_dir)
    contents, look = Contents(), Look(hash_files=hash_files)
    with collector_paused(), Inflated(blob_path, algorithm=expected.algorithm, arriving=arriving) as tar:
        stream = TarStream(tar.chunk)
        while member := stream.next():
            entry = contents.entry(member)
            if entry is None:
                continue
            if entry.kind == "file" and look.wants(entry):
                entry = look.through(entry, stream.content(member), _nothing)
            contents.add(entry)
        return unpacked(stream, tar, contents, look, expected)


def unpacked(stream: TarStream, tar: Inflated, contents: Contents, look: Look, expected: Expected) -> Unpacked:
    """The result of a layer all of whose members have been read."""
    stream.drain()
    diff_id = expected.verify(tar.diff_id())
    index = Index(contents.result(), look.files(contents.entries))
    if expected.index_dir:
        IndexStore(Path(expected.index_dir)).put(diff_id, index)
        index = Index(())
    return Unpacked(diff_id.hex, tar.size, index, tuple(contents.implicit), contents.foreign())


def _nothing(pieces: Iterator[bytes | memoryview]) -> None:
    for _ in pieces:
        pass
