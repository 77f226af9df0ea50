"""The snapshotter's contract: root filesystem states, made from layers, and what a step changed in one.

A state is named by its chain of layers. `prepare` makes an *active* snapshot from a chain: a root to run in. After the step,
`changes` says what it did; when those changes have been packed into a layer, `commit` makes the active snapshot the state of
the longer chain, so that the next `prepare` costs nothing. `discard` forgets an active snapshot. A layer can be unpacked
ahead and in any order with `unpack`, as soon as its blob arrives in the content store, or with `unpack_changes` before there is
one; `prepare` needs all blobs of the chain to be there. Two processes may do the same at the same time: results are published by
rename.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from engine.image.digest import Digest
from engine.isolate.base import IdMap, Root
from engine.layer.arriving import Arriving
from engine.layer.base import Chain, FileTree, Layer
from engine.layer.changes import Changes
from engine.layer.entries import Entry
from engine.layer.tree import Tree

if TYPE_CHECKING:
    from engine.layer.disk import Style


CLEANUP_SECONDS = 30
"""How long the removal of what a build was making may take after it was cancelled."""


class Active(Struct, frozen=True):
    """A root that one step may write to. `id` names it in the state directory."""

    id: str
    root: Root
    chain: Chain


class Landing(Struct, frozen=True):
    """Where a layer's directory is made, by a worker: in a scratch directory, to be published in a layer store; and how owners and
    whiteouts are on disk."""

    store: str
    scratch: str
    style: Style
    ids: IdMap


class Needs(Struct, frozen=True):
    """How a layer leans on the layers below: directories it does not describe, and hard links to files that it does not have."""

    implicit: tuple[bytes, ...]
    links: tuple[Entry, ...]


class Unnamed(Struct, frozen=True):
    """A layer that is unpacked, and has no name yet."""

    landing: Landing
    needs: Needs
    digests: bytes
    """Of the files' contents, as in `Packed`."""


class Snapshotter(Protocol):
    """Root filesystem states by overlayfs, or by plain directories and walks."""

    async def missing(self, chain: Chain) -> Sequence[Layer]:
        """The layers whose blobs `prepare` and `view` of the chain need, and that `unpack` has work with: none for a state that is
        there."""

    async def unpack(self, layer: Layer, arriving: Arriving | None = None) -> None:
        """Unpacks one layer's blob into the layer store (and stores its index), unless it is there; verifies its diff id. The blob
        may be on its way to the content store still, `arriving`."""

    async def unpack_changes(self, changes: Changes, latest_mtime: int | None) -> Unnamed | None:
        """Unpacks a layer that is being packed, from the changes that it is of: for `publish`, when its diff id is known, or for
        `abandon`. None if that would be of no use. `latest_mtime` is as in `Changes.take`. What fails leaves nothing behind."""

    async def publish(self, unnamed: Unnamed, diff_id: Digest) -> None:
        """Makes what `unpack_changes` has made what `unpack` would make of the layer's blob, whose `digests` must be the same."""

    async def abandon(self, unnamed: Unnamed) -> None:
        """Removes what `unpack_changes` has made."""

    async def prepare(self, chain: Chain, tree: FileTree) -> Active:
        """A root with the chain's files. `tree` is the merged view of the chain."""

    async def prepare_on(self, below: Active, tree: FileTree, untouched: Sequence[bytes]) -> Active | None:
        """A root with the files of another one, in which nothing runs any more, before that is the state of a longer chain. `tree`
        is the merged view of the chain of the one below. None where there can be none, and if one of the paths `untouched` has been
        touched in it."""

    async def rebased(self, active: Active, chain: Chain) -> Active:
        """The same snapshot, when the one that it was prepared on has been committed as `chain`."""

    async def changes(self, active: Active, tree: Tree) -> Changes:
        """What was done in the root since `prepare`, sorted by path, parents first, with the metadata of parents. `tree` is the
        state before."""

    async def commit(self, active: Active, chain: Chain) -> None:
        """The root now is the state of `chain`, which is the active snapshot's chain and one layer more."""

    async def discard(self, active: Active) -> None:
        """Removes a root. Never raises for a root that is gone."""

    async def view(self, chain: Chain, tree: Tree) -> Root:
        """A root with the chain's files for reading only (a bind mount's origin). It lives as long as the state directory."""

    async def files(self, chain: Chain, tree: Tree, paths: Sequence[bytes]) -> Mapping[bytes, tuple[bytes, int]]:
        """Where the bytes of regular files of a state lie on disk: absolute path and offset for each path. Unpacks no layer that
        holds none of them."""

    async def aclose(self) -> None:
        """Removes the snapshots that are still active. Unpacked layers stay."""
