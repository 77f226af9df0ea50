"""A command in a root: what it is run with, and what becomes of its output."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.content.faults import full_hint
from engine.errors import RunError
from engine.isolate.base import RunSpec
from engine.layer.accounts import Account
from engine.plan.base import RunOp, Step
from engine.plan.scope import DEFAULT_PATH
from engine.snapshot.base import Active
from engine.solve.mechanisms import Job
from engine.solve.steps.mounts import PreparedMounts

KEPT_LINES = 50
"""How many of the last lines of output a failure's error carries."""


@asynccontextmanager
async def run_command(job: Job, step: Step, op: RunOp, active: Active, account: Account,
                      mounts: PreparedMounts) -> AsyncIterator[Active]:  # fmt: skip
    """Runs the command, and gives its root, which can be read while the kernel takes down what it was mounted with. Raises
    `RunError` when the command fails."""
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
        yield active


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
