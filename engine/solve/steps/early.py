"""A command that begins before the layer below it is packed.

What the command before it has left lies in that one's root, and nothing writes there any more: to run the next one on it takes
neither a blob nor a digest. Only the key of its step and what is done after it need them, and by then they are most often there.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
from anyio.abc import TaskGroup

from engine.errors import EngineError, IsolationError
from engine.layer.accounts import Account, lookup_account
from engine.layer.base import Chain
from engine.layer.index import CONSULTED
from engine.layer.resolve import resolve
from engine.layer.tree import Tree
from engine.plan.base import RunOp, Step
from engine.snapshot.base import CLEANUP_SECONDS, Active, Snapshotter
from engine.solve.mechanisms import Job
from engine.solve.state import State
from engine.solve.steps.command import run_command
from engine.solve.steps.mounts import prepare_mounts


class EarlyCommand:
    """A command on its way, in the root that another one has left: `below`. `run` is a task of its own. The command's root is its
    until it is released, and the one below from when it is handed over."""

    def __init__(self, job: Job, step: Step, op: RunOp, account: Account, states: Mapping[str, State], snapshots: Snapshotter,
                 below: Active, active: Active, slot: object) -> None:
        """`slot` has borrowed a token of the limiter of steps."""
        self._job, self._step, self._op, self._account, self._states = job, step, op, account, states
        self._snapshots = snapshots
        self._below, self._active = below, active
        self._chain: Chain | None = None
        self._slot: object | None = slot
        self._scope = anyio.CancelScope()
        self._ended, self._over, self._released, self._gone = (anyio.Event() for _ in range(4))
        self._failure: Exception | None = IsolationError("the command was given up")
        self.began = time.time_ns()

    def hand_over(self, chain: Chain) -> None:
        """Says which state the root below is, now that it is packed. It will be committed when nobody is above it any more."""
        self._chain = chain

    @asynccontextmanager
    async def ran(self) -> AsyncIterator[Active]:
        """Waits for the end of the command, and gives its root, on the state that was handed over. The end of the block waits until
        the kernel has taken down what the root was mounted with. Raises what running the command has raised."""
        self._give_back()  # the step itself has a token by now
        await self._ended.wait()
        if self._failure is None:
            await self._commit_below()
            yield self._active
            await self._over.wait()
        if self._failure is not None:
            raise self._failure

    def release(self) -> None:
        """Says that the command's root has been committed, or handed over."""
        self._released.set()

    async def abandon(self) -> None:
        """Ends the command, if it has not ended, and removes its root. Its output does not count."""
        self._scope.cancel()
        with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
            await self._gone.wait()

    async def run(self) -> None:
        """Runs the command, and waits until its root is released or abandoned."""
        try:
            with self._scope:
                await self._run()
                await self._released.wait()
        finally:
            with anyio.move_on_after(CLEANUP_SECONDS, shield=True), suppress(EngineError):
                if not self._released.is_set():
                    await self._snapshots.discard(self._active)
                await self._commit_below()
            self._gone.set()

    async def _run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                mounts = await prepare_mounts(self._job, self._step, self._op, self._account, self._states, stack)
                async with run_command(self._job, self._step, self._op, self._active, self._account, mounts):
                    self._failure = None
                    self._ended.set()
        except Exception as error:
            self._failure = error
        finally:
            self._give_back()
            self._ended.set()
            self._over.set()

    def _give_back(self) -> None:
        """Gives the token back, unless that has been done."""
        slot, self._slot = self._slot, None
        if slot is not None:
            self._job.mechanisms.limiters.steps.release_on_behalf_of(slot)

    async def _commit_below(self) -> None:
        """Makes the root below the state that it is, and that state what this root is on; nothing runs here any more. That the
        kernel may still be at the mount does not matter: it knows directories, not names. The root below is gone in any case."""
        chain, self._chain = self._chain, None
        if chain is None:
            return
        with anyio.CancelScope(shield=True):
            try:
                await self._snapshots.commit(self._below, chain)
                self._active = await self._snapshots.rebased(self._active, chain)
            except EngineError:
                await self._snapshots.discard(self._below)
                raise


async def begin(job: Job, step: Step, op: RunOp, states: Mapping[str, State], below: Active, tree: Tree, tasks: TaskGroup,
                began: Callable[[], None]) -> EarlyCommand | None:  # fmt: skip
    """Begins a command in the root that another has left, `below`, which was made on the state of `tree`. None if it has to wait:
    there is no room for another step, or who it is run as is known from the layer only. `began` is called before it says anything.
    """
    if any(resolve(tree, path) != path for path in CONSULTED):
        return None
    steps, slot = job.mechanisms.limiters.steps, object()
    try:
        steps.acquire_on_behalf_of_nowait(slot)
    except anyio.WouldBlock:
        return None
    command: EarlyCommand | None = None
    try:
        with suppress(EngineError):  # the step will meet it again
            account = lookup_account(op.user, tree)
            snapshots = await job.mechanisms.snapshots()
            active = await snapshots.prepare_on(below, tree, tuple(CONSULTED))
            if active is not None:
                command = EarlyCommand(job, step, op, account, states, snapshots, below, active, slot)
    finally:
        if command is None:
            steps.release_on_behalf_of(slot)
    if command:
        began()
        tasks.start_soon(command.run)
    return command
