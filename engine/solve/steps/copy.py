"""COPY and ADD: a layer made of files of a context, another state, an archive or the network. No root filesystem is needed."""

from __future__ import annotations

import time
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio.to_thread
from msgspec import Struct

from engine.context.base import Context, SubtreeContext
from engine.errors import CopyError
from engine.layer.accounts import lookup_chown
from engine.layer.archive import scan_archive
from engine.layer.base import FileTree, Layer, Subtree, Subtrees
from engine.layer.columns import Columns
from engine.layer.entries import Change
from engine.layer.pack import Changes
from engine.layer.tree import Tree
from engine.plan.base import CopyOp, Step
from engine.solve.copying.copies import Copies, in_order
from engine.solve.copying.draft import EmptyTree
from engine.solve.copying.plan import CopyPlan
from engine.solve.copying.request import Copied
from engine.solve.copying.sources import find_sources
from engine.solve.inputs import Inputs, copy_request
from engine.solve.mechanisms import Job
from engine.solve.remote import is_remote
from engine.solve.state import State
from engine.solve.steps.pack import Depart, make_layer

Locate = Callable[[bytes], tuple[bytes, int]]
"""Where the file at a path lies: an absolute path, and an offset."""
States = Callable[[bytes], tuple[int, int] | None] | None
"""What `Subtrees.state` gives."""

MANY = 4 << 20
"""Bytes. For fewer it does not pay to find out digests while packing."""


async def copy(job: Job, step: Step, op: CopyOp, states: Mapping[str, State], inputs: Inputs,
               depart: Depart | None = None) -> Layer:  # fmt: skip
    """The layer that the instruction makes on its parent; raises `CopyError` when it cannot."""
    return await _Copy(job, step, op, states, inputs).run(depart)


class Unread(Struct, frozen=True):
    """A layer of files that were read only once. `keep` has their digests kept for later builds."""

    layer: Layer
    keep: Callable[[], Awaitable[None]]


async def copy_unread(job: Job, step: Step, op: CopyOp, states: Mapping[str, State], inputs: Inputs,
                      depart: Depart | None = None) -> Unread | None:  # fmt: skip
    """As `copy`, of files of a context of which not one has been read. The context learns their digests from the packing. None, and
    nothing done, if they are few, or not on disk."""
    return await _Copy(job, step, op, states, inputs).run_unread(depart)


class _Copy:
    def __init__(self, job: Job, step: Step, op: CopyOp, states: Mapping[str, State], inputs: Inputs) -> None:
        self._job, self._op, self._states, self._inputs = job, op, states, inputs
        self._parent = states[step.parent]

    async def run(self, depart: Depart | None) -> Layer:
        rows, _ = await self._rows(await self._below(), unread=False)
        layer, _ = await make_layer(self._job, rows.take(), own_files=self._op.source.state is None, depart=depart)
        return layer

    async def run_unread(self, depart: Depart | None) -> Unread | None:
        below = await self._inputs.beside_survey(self._op, self._below)
        rows, context = await self._rows(below, unread=True)
        if not isinstance(context, SubtreeContext) or rows.size < MANY:
            return None
        began = time.time_ns()
        layer, packed = await make_layer(self._job, rows.take(), own_files=True, hash_files=True, depart=depart)
        files, subtrees = rows.digests(packed)
        context.learn(files, subtrees)
        return Unread(layer, lambda: context.keep(files, [subtree for subtree, _ in subtrees], began))

    async def _below(self) -> Tree | EmptyTree:
        """What is copied onto."""
        if self._op.link and not (self._op.chmod or self._op.chown):
            return EmptyTree()
        return await self._job.mechanisms.trees.tree(self._parent.chain)

    async def _rows(self, below: Tree | EmptyTree, *, unread: bool) -> tuple[Rows, Context | None]:
        """What the layer is to be, and the context that files are taken from."""
        op, job = self._op, self._job
        if op.checksum and not any(is_remote(s) for s in op.sources):
            raise CopyError("checksum requires HTTP(S) or Git sources")
        owner = lookup_chown(op.chown, below) if op.chown else None
        plan = CopyPlan(copy_request(op, owner, job.made_mtime), below)
        tree, context = await self._inputs.source_tree(op.source, self._states) if self._local else (EmptyTree(), None)
        await self._add_all(plan, tree, context)
        copies = plan.result()
        locate, kept = await self._places(copies.own, tree, below)
        states = tree.state if isinstance(tree, Subtrees) and not unread else None  # of what was read it must be what is packed
        return await anyio.to_thread.run_sync(Rows, copies, locate, kept, states), context

    @property
    def _local(self) -> bool:
        """Whether anything is taken from a tree."""
        return any(not (self._op.add and is_remote(s)) for s in self._op.sources)

    async def _add_all(self, plan: CopyPlan, tree: FileTree, context: Context | None) -> None:
        op = self._op
        if not op.add:
            await anyio.to_thread.run_sync(plan.add_sources, tree)
        else:
            for text in op.sources:
                if is_remote(text):
                    await self._inputs.remotes.add(plan, text, op.checksum, op.keep_git_dir, op.unpack)
                else:
                    await self._add_local(plan, tree, text.encode("utf-8", "surrogateescape"))
                    plan.locate(tree)
        for heredoc in op.heredocs:
            plan.add_file(*self._inputs.heredoc(heredoc))

    async def _add_local(self, plan: CopyPlan, tree: FileTree, text: bytes) -> None:
        """One source of ADD: archives are extracted, unless that is refused."""
        for source in find_sources(tree, text):
            members: Sequence[Change] | None = None
            if source.entry.kind == "file" and self._op.unpack is not False and source.entry.size:
                path, _ = tree.source(source.path)
                members = await self._job.mechanisms.workers.call(scan_archive, path.decode("utf-8", "surrogateescape"),
                                                                  str(self._job.scratch))  # fmt: skip
            if members is None:
                plan.add_source(tree, source)
            else:
                plan.add_archive(members)

    async def _places(self, copied: Sequence[Copied], tree: FileTree, below: Tree | EmptyTree) -> tuple[Locate, Locate]:
        """Where the bytes lie of what is copied one by one: of files of the source, and of the image below."""
        op = self._op
        locate: Locate = tree.source
        if op.source.state is not None and isinstance(tree, Tree):
            paths = [c.from_path for c in copied if c.from_path is not None]
            locate = (await self._inputs.locate(self._states[op.source.state], tree, paths)).__getitem__
        held: Mapping[bytes, tuple[bytes, int]] = {}
        if isinstance(below, Tree):
            held = await self._inputs.locate(self._parent, below, [c.below for c in copied if c.below is not None])
        return locate, held.__getitem__


class Rows:
    """The changes of a copy, by columns."""

    def __init__(self, copies: Copies, locate: Locate, kept: Locate, states: States) -> None:
        """`locate` and `kept` say where files lie. With `states` files of the source must be as they were when they were listed."""
        self._copies = copies
        own = copies.own
        columns = Columns.of(copied.entry for copied in own)
        places = [_place(copied, locate, kept) for copied in own]
        sources, offsets = [place for place, _ in places], array("q", [offset for _, offset in places])
        seen: array[int] | None = None
        if states is not None:
            seen = array("q")
            for copied in own:
                seen.extend((copied.from_path is not None and states(copied.from_path)) or (0, 0))
        for graft in copies.grafts:
            more = graft.columns()
            sources += graft.sources(more)
            columns.extend(more)
            offsets.extend(array("q", [0]) * len(more))
            if seen is not None:
                seen.extend(graft.subtree.states())
        order = self._order = in_order(columns) if copies.grafts else None
        if order is not None:
            columns, sources = columns.reordered(order), list(map(sources.__getitem__, order))
            offsets = array("q", map(offsets.__getitem__, order))
            if seen is not None:
                seen = array("q", [number for at in order for number in seen[2 * at : 2 * at + 2]])
        self._changes: list[Changes] = [Changes.by_columns(columns, sources, offsets, seen)]
        self.size = self._changes[0].size
        """Bytes of all files."""

    def take(self) -> Changes:
        """The changes, in their order. They can be had once: they are large."""
        return self._changes.pop()

    def digests(self, packed: bytes) -> tuple[dict[bytes, bytes], list[tuple[Subtree, bytes]]]:
        """Digests of the changes, 32 bytes for each in their order, as `SubtreeContext.learn` takes them."""
        each = [packed[at : at + 32] for at in range(0, len(packed), 32)]
        if self._order is not None:
            placed = each.copy()
            for new, old in enumerate(self._order):
                placed[old] = each[new]
            each = placed
        own = self._copies.own
        files = {copied.from_path: digest for copied, digest in zip(own, each, strict=False) if copied.from_path is not None}
        at, subtrees = len(own), []
        for graft in self._copies.grafts:
            end = at + len(graft.subtree)
            subtrees.append((graft.subtree, b"".join(each[at:end])))
            at = end
        return files, subtrees


def _place(copied: Copied, locate: Locate, kept: Locate) -> tuple[bytes, int]:
    if copied.from_path is not None:
        return locate(copied.from_path)
    if copied.below is not None:
        return kept(copied.below)
    return copied.source or (b"", 0)
