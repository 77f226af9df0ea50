"""RUN: a command in a root made of the parent's layers, and the layer of what it changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import anyio.to_thread

from engine.content.faults import full_hint
from engine.errors import IsolationError, RunError
from engine.image.descriptor import Descriptor
from engine.isolate.base import RunSpec
from engine.layer.accounts import Account, lookup_account
from engine.layer.base import Layer
from engine.layer.tree import Tree
from engine.plan.base import RunOp, Step
from engine.plan.scope import DEFAULT_PATH
from engine.snapshot.base import CLEANUP_SECONDS, Active, Snapshotter
from engine.solve.mechanisms import Job
from engine.solve.state import State
from engine.solve.steps.mounts import PreparedMounts, prepare_mounts
from engine.solve.steps.pack import Depart, make_layer
from engine.solve.steps.unpack import unpack

SHORT = 0.1
"""Seconds. A command that takes no longer will most likely have changed little, of which the tree can be asked as it is."""
KEPT_LINES = 50
"""How many of the last lines of output a failure's error carries."""


async def run(job: Job, step: Step, op: RunOp, states: Mapping[str, State], depart: Depart | None = None) -> Layer:
    """Runs the command; raises `RunError` when it fails, `IsolationError` when it cannot be started here."""
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

    await unpack(job, chain, progress)
    tree = await job.mechanisms.trees.tree(chain)
    account = lookup_account(op.user, tree)
    async with AsyncExitStack() as stack:
        mounts = await prepare_mounts(job, step, op, account, states, stack)
        active = await snapshots.prepare(chain, tree)
        try:
            async with put_together(tree) as done, _command(job, step, op, active, account, mounts):
                await done()
                changes = await snapshots.changes(active, tree)
                layer, _ = await make_layer(job, changes, own_files=False, depart=depart)
            if job.latest_mtime is None:
                await snapshots.commit(active, (*chain, layer))
            else:  # what lies on disk has other times than the layer
                await _discard(snapshots, active)
        except BaseException:
            await _discard(snapshots, active)
            raise
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


@asynccontextmanager
async def _command(job: Job, step: Step, op: RunOp, active: Active, account: Account,
                   mounts: PreparedMounts) -> AsyncIterator[None]:  # fmt: skip
    """Runs the command, and lets its root be read while the kernel takes down what it was mounted with."""
    hosts, resolv_conf = job.mechanisms.network_files()
    spec = RunSpec(
        root=active.root, argv=op.argv, env=_environment(op, account, mounts), cwd=op.cwd, uid=account.uid, gid=account.gid,
        groups=account.groups, mounts=mounts.mounts, network=op.network, hostname=op.hostname,  # type: ignore[arg-type]
        hosts=hosts, resolv_conf=resolv_conf,
    )  # fmt: skip
    tail = _Tail()

    def output(stream: int, data: bytes) -> None:
        tail.add(data)
        job.report.output(step.id, stream, data)

    async with job.mechanisms.workers.run(spec, output) as outcome:
        if outcome.status:
            raise RunError(f'process "{" ".join(op.argv)}" did not complete successfully: exit code: {outcome.status}',
                           status=outcome.status, output=tail.lines(),
                           hint=full_hint(job.scratch) or _foreign_hint(tail, step))  # fmt: skip
        yield


def _foreign_hint(tail: _Tail, step: Step) -> str | None:
    """What to do about a program that this machine's kernel does not know how to run."""
    if not any("exec format error" in line.lower() for line in tail.lines()[-1:]):
        return None
    return f"is it a program for {step.platform}, and this machine another? An emulator in binfmt_misc (QEMU) would run it"


def _environment(op: RunOp, account: Account, mounts: PreparedMounts) -> tuple[tuple[str, str], ...]:
    env = {"PATH": DEFAULT_PATH, "HOME": account.home} | dict(op.proxies) | dict(op.env) | dict(mounts.env)
    return tuple(env.items())


class _Tail:
    """The last lines of an output, in bounded memory."""

    def __init__(self) -> None:
        self._data = b""

    def add(self, data: bytes) -> None:
        self._data = (self._data + data)[-(64 << 10) :]

    def lines(self) -> list[str]:
        return self._data.decode(errors="replace").splitlines()[-KEPT_LINES:]
