"""The layer store: layers unpacked once, each into a directory of its own that never changes after, for all builds of a state
directory. (Not so the store of `engine.snapshot.walk`, whose layers are for the first root that takes them.)

    diff/<diff id>      the layer, as unpacked from its blob or from what that was packed of; whoever has it in a chain uses it
    needs/<diff id>     there if the layer leans on what is below it: parents without entries, links to lower files
    chain/<chain id>    the upper directory of the step that made the chain's last layer; used instead of the layer's own
    moved/<chain id>    the layer, by hard links, with what lies below a lower layer's symlink in the right place
    fix/<chain id>      what has to lie above such a layer in this chain: parents with their real owners, modes and times,
                        copies of files that it links to
    of/<chain id>       the diff id of the chain's last layer, so that a prune knows what the chain's directories belong to

Directories appear by rename, whole; two processes that make the same one use the one that was first, and unpacking a blob is done
under a lock, so that the second waits instead. What was left by a process that died is in the scratch space, which the next one
reclaims.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
from msgspec import Struct

from engine.content.base import ContentStore
from engine.content.faults import storing
from engine.content.scratch import Scratch
from engine.errors import ContentError, StorageError
from engine.image.digest import Digest
from engine.isolate.base import IdMap
from engine.layer.apply import Style
from engine.layer.arriving import Arriving
from engine.layer.base import Chain, Layer, chain_id, chain_ids
from engine.layer.changes import Changes
from engine.layer.entries import Change, Entry, ancestors
from engine.layer.index import Index, IndexStore
from engine.layer.resolve import resolve
from engine.layer.tree import Tree
from engine.snapshot import jobs
from engine.snapshot.base import CLEANUP_SECONDS, Landing, Unnamed
from engine.snapshot.jobs import remove_root as remove_tree
from engine.tasks import gather
from engine.workers.base import Workers

__all__ = ["LayerDirs", "Place", "blob_path", "chain_name", "remove_tree"]

T = TypeVar("T")


class Place(Struct, frozen=True):
    """Where things are: the layer store's directory, its scratch space, and how owners and whiteouts are on disk."""

    directory: Path
    scratch: Scratch
    style: Style
    ids: IdMap


def chain_name(chain: Chain) -> str:
    """The name of a chain's directories; chains have at least one layer."""
    digest = chain_id([layer.diff_id for layer in chain])
    return digest.hex if digest else "scratch"


def chain_names(chain: Chain) -> list[str]:
    """The names of a chain's beginnings: of its first layer, of the first two, and so on."""
    return [digest.hex for digest in chain_ids([layer.diff_id for layer in chain])]


class LayerDirs:
    """The layer store."""

    def __init__(self, place: Place, content: ContentStore, workers: Workers, indexes: IndexStore) -> None:
        self._place = place
        self._content = content
        self._workers = workers
        self._indexes = indexes
        self._turns: dict[str, anyio.Lock] = {}
        for name in ("diff", "needs", "chain", "moved", "fix", "of", "locks"):
            (place.directory / name).mkdir(parents=True, exist_ok=True)

    def path(self, kind: str, name: str) -> Path:
        """Where a directory is or would be: see the module's list."""
        return self._place.directory / kind / name

    async def ensure(self, layer: Layer, arriving: Arriving | None = None) -> None:
        """Unpacks a layer unless that has been done, and stores its index; the blob may be `arriving`. Raises `ContentError` if
        the blob is not what it should be, `StorageError` if it is not there or the disk is full."""
        name = layer.diff_id.hex
        turn = self._turns.setdefault(name, anyio.Lock())
        async with turn:
            if not self.path("diff", name).is_dir() or not self._indexes.path(layer.diff_id).exists():
                blob = self._content.path(layer.blob.digest) if arriving else blob_path(self._content, layer)
                landing = self._landing()
                await self._land(landing, jobs.unpack_layer, jobs.UnpackTask(
                    blob=str(blob), arriving=arriving, diff_id=layer.diff_id, index_dir=str(self._indexes.directory),
                    landing=landing))
        self._turns.pop(name, None)

    def _landing(self) -> Landing:
        """Where the directory of one layer can be made."""
        place = self._place
        return Landing(str(place.directory), str(place.scratch.directory("unpack-")), place.style, place.ids)

    async def unpack_changes(self, changes: Changes, latest_mtime: int | None) -> Unnamed:
        """See `Snapshotter.unpack_changes`."""
        landing = self._landing()
        return await self._land(landing, jobs.unpack_changed, landing, changes, latest_mtime)

    async def _land(self, landing: Landing, function: Callable[..., T], *arguments: object) -> T:
        """A worker's job that makes a directory in a landing's scratch. Nothing is left there if it fails or is cancelled."""
        try:
            return await self._workers.call(function, *arguments)
        except BaseException:
            with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
                await self._workers.call(jobs.remove_root, landing.scratch)
            raise

    async def publish(self, unnamed: Unnamed, diff_id: Digest) -> None:
        """See `Snapshotter.publish`."""
        await self._workers.call(jobs.publish_unnamed, unnamed, diff_id)

    async def abandon(self, unnamed: Unnamed) -> None:
        """See `Snapshotter.abandon`."""
        await self._workers.call(jobs.remove_root, unnamed.landing.scratch)

    def note(self, chain: Chain) -> None:
        """Writes down which layer the directories of a chain belong to; to be called before they are made. Raises
        `StorageError`."""
        path = self.path("of", chain_name(chain))
        with storing(path):
            path.write_text(str(chain[-1].diff_id))

    def missing(self, chain: Chain) -> list[Layer]:
        """The layers of a chain that have to be unpacked before it can be stacked."""
        top = self._place.directory
        return [layer for layer, name in zip(chain, chain_names(chain), strict=True)
                if not os.path.isdir(f"{top}/chain/{name}")
                and not (os.path.isdir(f"{top}/diff/{layer.diff_id.hex}") and self._indexes.path(layer.diff_id).exists())]

    async def lowers(self, chain: Chain) -> tuple[str, ...]:
        """The directories that make up a chain's files, topmost first; unpacks what is missing, side by side. None comes twice,
        which overlayfs refuses (ELOOP): of a layer that does, what lies lower changes nothing."""
        names = chain_names(chain)
        top = self._place.directory
        own = [os.path.isdir(f"{top}/chain/{name}") for name in names]
        await self._ensure_all({layer for layer, done in zip(chain, own, strict=True) if not done})
        out: list[str] = []
        for i, name in enumerate(names):
            if own[i]:
                out.append(f"{top}/chain/{name}")
            elif i and self.path("needs", chain[i].diff_id.hex).exists():
                out += await self._fitted(chain[: i + 1], name)
            else:
                out.append(str(self.path("diff", chain[i].diff_id.hex)))
        return tuple(dict.fromkeys(reversed(out)))

    async def files(self, chain: Chain, tree: Tree, paths: Sequence[bytes]) -> Mapping[bytes, tuple[bytes, int]]:
        """See `Snapshotter.files`."""
        located = {path: tree.locate(path) for path in paths}
        directories: dict[int, bytes] = {}
        missing: set[Layer] = set()
        names = chain_names(chain)
        for i in {number for number, _ in located.values()}:
            directory = self.path("chain", names[i])
            if not directory.is_dir():
                directory = self.path("diff", chain[i].diff_id.hex)
                missing.add(chain[i])
            directories[i] = bytes(directory)
        await self._ensure_all(missing)
        return {path: (directories[number] + b"/" + at, 0) for path, (number, at) in located.items()}

    async def _ensure_all(self, layers: set[Layer]) -> None:
        """Unpacks those of the layers that are not, side by side."""
        await gather(*(partial(self.ensure, layer) for layer in layers if not self.path("diff", layer.diff_id.hex).is_dir()))

    async def _fitted(self, chain: Chain, name: str) -> list[str]:
        """The directories, lowest first, of a chain's last layer, which leans on the layers below."""
        diff, moved, fix = self.path("diff", chain[-1].diff_id.hex), self.path("moved", name), self.path("fix", name)
        if not fix.is_dir():
            self.note(chain)
            below = self._tree(chain[:-1])
            needs = jobs.read_needs(self.path("needs", chain[-1].diff_id.hex))
            moves = {path: real for path in needs.implicit if (real := resolve(below, path)) != path}
            changes = _parents({moves.get(path, path) for path in needs.implicit}, below)
            if needs.links:
                changes += await self._copies(chain[:-1], below, needs.links)
            if moves and not moved.is_dir():
                await self._workers.call(jobs.move_layer, str(diff), self._scratch(), str(moved), moves)
            await self._workers.call(jobs.make_directory, changes, self._scratch(), str(fix), self._place.ids)
        return [str(moved if moved.is_dir() else diff), str(fix)]

    async def _copies(self, chain: Chain, below: Tree, links: Sequence[Entry]) -> list[Change]:
        """The changes that make hard links to lower files copies of those files."""
        wanted = {link.path: resolve(below, link.link, follow_last=False) for link in links}
        entries = {path: below.get(target) for path, target in wanted.items()}
        missing = [path for path, entry in entries.items() if entry is None or entry.kind == "dir"]
        if missing:
            raise ContentError(f"a layer has a hard link to nothing: {missing[0].decode(errors='backslashreplace')}")
        regular = [target for path, target in wanted.items() if (entry := entries[path]) and entry.kind == "file"]
        sources = await self.files(chain, below, regular)
        return [Change(entry._replace(path=path), *sources.get(wanted[path], (None, 0)))
                for path, entry in entries.items() if entry is not None]

    def _tree(self, chain: Chain) -> Tree:
        tree = Tree.empty()
        for layer in chain:
            tree = tree.extended(layer, self._index(layer))
        return tree

    def _index(self, layer: Layer) -> Index:
        index = self._indexes.get(layer.diff_id)
        if index is None:
            raise StorageError(f"the index of layer {layer.diff_id} is missing", hint="run the build again")
        return index

    def _scratch(self) -> str:
        return str(self._place.scratch.directory("make-"))


def blob_path(content: ContentStore, layer: Layer) -> Path:
    """Where a layer's blob is; raises `StorageError` when it is not here."""
    if not content.has(layer.blob.digest):
        raise StorageError(f"the blob {layer.blob.digest} of a layer is not in the state directory")
    return content.path(layer.blob.digest)


def _parents(paths: set[bytes], below: Tree) -> list[Change]:
    """The lower layers' directories at the paths and above them."""
    wanted = paths.union(*(ancestors(path) for path in paths)) - {b""}
    entries = [entry for path in sorted(wanted) if (entry := below.get(path)) is not None and entry.kind == "dir"]
    return [Change(entry) for entry in entries]
