"""RUN: a command in a root made of the parent's layers, and the layer of what it changed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from engine.errors import IsolationError
from engine.image.descriptor import Descriptor
from engine.layer.accounts import lookup_account
from engine.layer.base import Layer
from engine.layer.tree import Tree
from engine.plan.base import RunOp, Step
from engine.snapshot.base import CLEANUP_SECONDS, Active, Snapshotter
from engine.solve.mechanisms import Job
from engine.solve.state import State
from engine.solve.steps.command import run_command
from engine.solve.steps.mounts import prepare_mounts
from engine.solve.steps.pack import Depart, make_layer
from engine.solve.steps.unpack import unpack

if TYPE_CHECKING:
    from engine.solve.steps.early import EarlyCommand

SHORT = 0.1
"""Seconds. A command that takes no longer will most likely have changed little, of which the tree can be asked as it is."""
MANY, LARGE = 2_000, 8 << 20
"""Files and bytes. A layer of less is packed before the next command would have begun on it."""

_SECOND = 1_000_000_000

Follow = Callable[[Active, Tree], Awaitable["EarlyCommand | None"]]
"""May begin the next command. It is given a root in which nothing runs any more, and the tree of the state that it was made on."""


async def run(job: Job, step: Step, op: RunOp, states: Mapping[str, State], depart: Depart | None = None, *,
              early: EarlyCommand | None = None, follow: Follow | None = None) -> Layer:  # fmt: skip
    """Runs the command; raises `RunError` when it fails, `IsolationError` when it cannot be started here. `early` is the command if
    it has been begun. `follow` is asked to begin the next one, if it takes time to pack what this one has left."""
    environment = await job.mechanisms.workers.environment()
    if environment.isolation is None:
        raise IsolationError("RUN is not possible here: " + "; ".join(environment.reasons),
                             hint="builds without RUN work all the same")  # fmt: skip
    for reason in environment.reasons:
        job.report.note(reason)
    chain = states[step.parent].chain
    snapshots = await job.mechanisms.snapshots()

    def progress(blob: Descriptor, done: int) -> None:
        job.report.progress(step.id, str(blob.digest), done, blob.size)

    if early is None:
        await unpack(job, chain, progress)
    tree = await job.mechanisms.trees.tree(chain)
    following: EarlyCommand | None = None
    began = early.began if early else time.time_ns()
    async with AsyncExitStack() as mounted:
        if early is None:
            account = lookup_account(op.user, tree)
            mounts = await prepare_mounts(job, step, op, account, states, mounted)
            active = await snapshots.prepare(chain, tree)
            command = run_command(job, step, op, active, account, mounts)
        else:
            command = early.ran()
        try:
            async with put_together(tree) as done, command as active:
                await done()
                changes = await snapshots.changes(active, tree)
            await mounted.aclose()  # while the layer is packed others may have the mounts
            # What is older may be a layer that somebody knows already, and so may be what comes of the next command.
            if follow and (changes.count >= MANY or changes.size >= LARGE) and changes.newest >= began // _SECOND * _SECOND:
                following = await follow(active, tree)
            layer, _ = await make_layer(job, changes, own_files=False, depart=depart)
            if following:
                following.hand_over((*chain, layer))
            elif job.latest_mtime is None:
                await snapshots.commit(active, (*chain, layer))
            else:  # what lies on disk has other times than the layer
                await _discard(snapshots, active)
        except BaseException:
            if following:
                await following.abandon()
            if early is None:  # which would see to its root itself
                await _discard(snapshots, active)
            raise
    if early:
        early.release()
    return layer


async def _discard(snapshots: Snapshotter, active: Active) -> None:
    with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
        await snapshots.discard(active)


@asynccontextmanager
async def put_together(tree: Tree) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Has the layers of a tree put together beside the block, if that lasts longer than `SHORT`. The block is given what to call at
    its end, to wait for it. If it cannot be done, the block is cancelled, and what came of it does not count."""
    over, ended = anyio.Event(), anyio.Event()
    failures: list[Exception] = []

    async def grow() -> None:
        with anyio.move_on_after(SHORT):
            await over.wait()
        try:
            if not over.is_set():
                await anyio.to_thread.run_sync(tree.grow)
        except Exception as error:
            failures.append(error)
            tasks.cancel_scope.cancel()
        ended.set()

    async def done() -> None:
        over.set()
        await ended.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(grow)
        try:
            yield done
        except Exception as error:
            failures.append(error)
        over.set()
    if failures:
        raise failures[0]
