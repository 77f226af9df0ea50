"""A command that begins before the layer below it is packed.

What the command before it has left lies in that one's root, and nothing writes there any more: to run the next one on it takes
neither a blob nor a digest. Only the key of its step and what is done after it need them, and by then they are most often there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
from anyio.abc import TaskGroup

from engine.errors import EngineError, IsolationError
from engine.layer.accounts import Account, lookup_account
from engine.layer.base import Chain
from engine.layer.resolve import resolve
from engine.layer.tree import Tree
from engine.plan.base import RunOp, Step
from engine.snapshot.base import CLEANUP_SECONDS, Active, Snapshotter
from engine.solve.mechanisms import Job
from engine.solve.state import State
from engine.solve.steps.command import run_command
from engine.solve.steps.mounts import prepare_mounts

_ACCOUNTS = (b"etc/passwd", b"etc/group")


class EarlyCommand:
    """A command on its way, in the root that another one has left: `below`. `run` is a task of its own, which owns both roots."""

    def __init__(self, job: Job, step: Step, op: RunOp, account: Account, states: Mapping[str, State], snapshots: Snapshotter,
                 below: Active, active: Active) -> None:
        self._job, self._step, self._op, self._account, self._states = job, step, op, account, states
        self._snapshots = snapshots
        self._below, self._active = below, active
        self._chain: Chain | None = None
        self._scope = anyio.CancelScope()
        self._ended, self._over, self._released, self._gone = (anyio.Event() for _ in range(4))
        self._failure: Exception | None = IsolationError("the command was given up")

    def hand_over(self, chain: Chain) -> None:
        """Says which state the root below is, now that it is packed; it is this one's to commit."""
        self._chain = chain

    @asynccontextmanager
    async def ran(self) -> AsyncIterator[Active]:
        """Waits for the end of the command, and gives its root, on the state that was handed over. The end of the block waits until
        the kernel has taken down what the root was mounted with. Raises what running the command has raised."""
        await self._ended.wait()
        if self._failure is None:
            yield await self._settled()
            await self._over.wait()
        if self._failure is not None:
            raise self._failure

    def release(self) -> None:
        """Says that the command's root has been committed."""
        self._released.set()

    async def abandon(self) -> None:
        """Ends the command, if it has not ended, and removes its root. Its output does not count."""
        self._scope.cancel()
        with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
            await self._gone.wait()

    async def run(self) -> None:
        """Runs the command, and keeps its root until it is released."""
        try:
            with self._scope:
                await self._run()
                await self._released.wait()
        finally:
            with anyio.move_on_after(CLEANUP_SECONDS, shield=True), suppress(EngineError):
                await self._settled()
                if not self._released.is_set():
                    await self._snapshots.discard(self._active)
            self._gone.set()

    async def _run(self) -> None:
        steps = self._job.mechanisms.limiters.steps
        try:
            async with AsyncExitStack() as stack:
                mounts = await prepare_mounts(self._job, self._step, self._op, self._account, self._states, stack)
                async with run_command(self._job, self._step, self._op, self._active, self._account, mounts):
                    self._failure = None
                    self._ended.set()
        except Exception as error:
            self._failure = error
        finally:
            steps.release_on_behalf_of(self)
            self._ended.set()
            self._over.set()

    async def _settled(self) -> Active:
        """The root, on the state of the one below, which is committed; to be called when the command has ended."""
        if self._chain is not None:
            chain, self._chain = self._chain, None
            await self._snapshots.commit(self._below, chain)
            self._active = await self._snapshots.rebased(self._active, chain)
        return self._active


async def begin(job: Job, step: Step, op: RunOp, states: Mapping[str, State], below: Active, tree: Tree, tasks: TaskGroup,
                began: Callable[[], None]) -> EarlyCommand | None:  # fmt: skip
    """Begins a command in the root that another has left, `below`, which was made on the state of `tree`. None if it has to wait:
    there is no room for another step, or who it is run as is known from the layer only. `began` is called before it says anything.
    """
    steps = job.mechanisms.limiters.steps
    if not steps.available_tokens or any(resolve(tree, path) != path for path in _ACCOUNTS):
        return None
    with suppress(EngineError):  # the step will meet it again
        account = lookup_account(op.user, tree)
        snapshots = await job.mechanisms.snapshots()
        active = await snapshots.prepare_on(below, tree, _ACCOUNTS)
        if active is not None:
            command = EarlyCommand(job, step, op, account, states, snapshots, below, active)
            try:
                steps.acquire_on_behalf_of_nowait(command)
            except anyio.WouldBlock:
                await snapshots.discard(active)
                return None
            began()
            tasks.start_soon(command.run)
            return command
    return None
