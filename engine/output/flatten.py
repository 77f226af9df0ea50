"""A root filesystem out of its layers, without unpacking them: each blob is read once, and only what is left of it at the end is
given on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from engine.errors import ContentError
from engine.image.digest import Digest
from engine.layer.base import Layer
from engine.layer.contents import Contents, show
from engine.layer.entries import Entry, join
from engine.layer.index import Index, collector_paused
from engine.layer.inflate import Inflated
from engine.layer.tarstream import TarStream
from engine.layer.tree import Tree, walk


class Part(Struct, frozen=True):
    """A layer, and which of its files are in the root: by their path in the layer, as what entry."""

    layer: Layer
    files: dict[bytes, Entry]


class Flat(Struct, frozen=True):
    """All entries of a root but the root itself. In the order of the fields every directory comes before what is in it, and
    every hard link after its file."""

    plain: tuple[Entry, ...]
    """What has no content, sorted by path."""
    parts: tuple[Part, ...]
    links: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for part in self.parts for entry in part.files.values())

    def below(self, directory: bytes) -> Flat:
        """The same in a directory, which is added."""
        parts = tuple(Part(p.layer, {at: _moved(e, directory) for at, e in p.files.items()}) for p in self.parts)
        plain = (Entry(directory, "dir", 0o755), *(_moved(e, directory) for e in self.plain))
        return Flat(plain, parts, tuple(_moved(e, directory) for e in self.links))


def flatten(layers: Sequence[tuple[Layer, Index]]) -> Flat:
    """What a chain of layers comes to; raises `ContentError` when it makes no sense. Layers of which nothing is left are none of
    its parts."""
    with collector_paused():
        tree = Tree.empty()
        for layer, index in layers:
            tree = tree.extended(layer, index)
        return _flatten(tree, layers)


def _flatten(tree: Tree, layers: Sequence[tuple[Layer, Index]]) -> Flat:
    plain: list[Entry] = []
    links: list[Entry] = []
    files: list[dict[bytes, Entry]] = [{} for _ in layers]
    names: dict[object, bytes] = {}
    targets: dict[int, dict[bytes, bytes]] = {}
    for entry in walk(tree):
        path = entry.path
        if entry.kind != "file":
            plain.append(entry)
            continue
        number, at = tree.locate(path)
        if (identity := tree.identity(path)) is not None:
            if identity in names:
                links.append(entry._replace(kind="hardlink", link=names[identity], size=0))
                continue
            names[identity] = path
            if number not in targets:
                targets[number] = {e.path: e.link for e in layers[number][1].entries if e.kind == "hardlink"}
            at = targets[number].get(at, at)  # in the tar the content is with the name that comes first
        files[number][at] = entry
    parts = tuple(Part(layer, found) for (layer, _), found in zip(layers, files, strict=True) if found)
    return Flat(tuple(plain[1:]), parts, tuple(links))


def contents(part: Part, blob_path: str) -> Iterator[tuple[Entry, Iterator[bytes | memoryview]]]:
    """The files of a part as they come out of the blob, each with its bytes, to be read before the next.

    A path that a layer has twice comes twice, the one that counts last. Raises `ContentError` for a blob that is broken or has not
    the diff id and the files that it should have, `StorageError` when it cannot be read.
    """
    missing, wanted = set(part.files), part.files
    algorithm = part.layer.diff_id.algorithm
    layer = Contents()
    with Inflated(blob_path, algorithm=algorithm) as tar:
        stream = TarStream(tar.chunk)
        while member := stream.next():
            entry = layer.entry(member)
            if entry is None:
                continue
            if entry.kind == "file" and (found := wanted.get(entry.path)) is not None:
                missing.discard(entry.path)
                yield found._replace(size=entry.size), stream.content(member)
            layer.add(entry)
        stream.drain()
        if Digest(algorithm, tar.diff_id()) != part.layer.diff_id:
            raise ContentError(f"layer blob {part.layer.blob.digest} does not hold {part.layer.diff_id} as its config says")
    if missing:
        raise ContentError(f"layer {part.layer.diff_id} does not hold {show(min(missing))}, of which its index tells")


def _moved(entry: Entry, directory: bytes) -> Entry:
    link = join(directory, entry.link) if entry.kind == "hardlink" else entry.link
    return entry._replace(path=join(directory, entry.path), link=link)
