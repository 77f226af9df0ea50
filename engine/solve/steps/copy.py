"""COPY and ADD: a layer made of files of a context, another state, an archive or the network. No root filesystem is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import anyio.to_thread

from engine.errors import CopyError
from engine.layer.accounts import lookup_chown
from engine.layer.archive import scan_archive
from engine.layer.base import FileTree, Layer, Subtrees
from engine.layer.entries import Change
from engine.layer.tree import Tree
from engine.plan.base import CopyOp, Step
from engine.solve.copying.copies import Copies
from engine.solve.copying.draft import EmptyTree
from engine.solve.copying.plan import CopyPlan
from engine.solve.copying.request import Copied
from engine.solve.copying.sources import find_sources
from engine.solve.inputs import Inputs, copy_request
from engine.solve.mechanisms import Job
from engine.solve.remote import is_remote
from engine.solve.state import State
from engine.solve.steps.pack import Depart, make_layer
from engine.solve.steps.rows import Locate, Rows


async def copy(job: Job, step: Step, op: CopyOp, states: Mapping[str, State], inputs: Inputs,
               depart: Depart | None = None, *, run_on: bool = False) -> Layer:  # fmt: skip
    """The layer that the instruction makes on its parent; raises `CopyError` when it cannot. `depart` and `run_on` as for
    `make_layer`."""
    return await Copying(job, step, op, states, inputs).run(depart, run_on=run_on)


class Planned(NamedTuple):
    """What a layer is to be, which tree its files are from, and which it is on."""

    copies: Copies
    tree: FileTree
    below: Tree | EmptyTree


class Copying:
    """One COPY or ADD on its way to be a layer."""

    def __init__(self, job: Job, step: Step, op: CopyOp, states: Mapping[str, State], inputs: Inputs) -> None:
        self._job, self._op, self._states, self._inputs = job, op, states, inputs
        self._parent = states[step.parent]
        self._made_mtime = job.made_mtime

    async def run(self, depart: Depart | None, *, run_on: bool) -> Layer:
        rows = await self.rows(await self.plan(await self.below()))
        layer, _ = await make_layer(self._job, rows.take(), own_files=self._op.source.state is None, run_on=run_on, depart=depart)
        return layer

    async def below(self) -> Tree | EmptyTree:
        """What is copied onto."""
        if self._op.link and not (self._op.chmod or self._op.chown):
            return EmptyTree()
        return await self._job.mechanisms.trees.tree(self._parent.chain)

    async def plan(self, below: Tree | EmptyTree) -> Planned:
        """What the layer is to be, on a tree."""
        op = self._op
        if op.checksum and not any(is_remote(s) for s in op.sources):
            raise CopyError("checksum requires HTTP(S) or Git sources")
        owner = lookup_chown(op.chown, below) if op.chown else None
        plan = CopyPlan(copy_request(op, owner, self._made_mtime), below)
        tree, _ = await self._inputs.source_tree(op.source, self._states) if self._local else (EmptyTree(), None)
        await self._add_all(plan, tree)
        return Planned(plan.result(), tree, below)

    async def rows(self, planned: Planned) -> Rows:
        """The layer's changes. Files of a context must be what they were when it was listed: by that the key is known again, and
        other copies of them share their digests."""
        copies, tree, below = planned
        locate, kept = await self._places(copies.own, tree, below)
        states = tree.state if isinstance(tree, Subtrees) else None
        return await anyio.to_thread.run_sync(Rows, copies, locate, kept, states)

    @property
    def _local(self) -> bool:
        """Whether anything is taken from a tree."""
        return any(not (self._op.add and is_remote(s)) for s in self._op.sources)

    async def _add_all(self, plan: CopyPlan, tree: FileTree) -> None:
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
