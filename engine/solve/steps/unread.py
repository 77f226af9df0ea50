"""Copies of files of a context of which not one has been read: they are read once, while they are packed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import anyio
from msgspec import Struct

from engine.context.base import SubtreeContext
from engine.layer.base import Layer
from engine.plan.base import CopyOp, Step
from engine.solve.copying.draft import EmptyTree
from engine.solve.copying.paths import destination
from engine.solve.inputs import Inputs
from engine.solve.mechanisms import Job
from engine.solve.state import State
from engine.solve.steps.copy import Copying, Planned
from engine.solve.steps.pack import Depart, make_layer
from engine.solve.steps.rows import Rows

LARGE = 4 << 20
"""Bytes. For fewer it does not pay to find out digests while packing."""

IN_EVERY_IMAGE = frozenset({b"bin", b"boot", b"dev", b"etc", b"home", b"lib", b"lib32", b"lib64", b"media", b"mnt", b"opt", b"proc",
                            b"root", b"run", b"sbin", b"srv", b"sys", b"tmp", b"usr", b"var"})  # fmt: skip
"""What there is in the root directory of most images (Filesystem Hierarchy Standard 3.0, chapter 3)."""


class Unread(Struct, frozen=True):
    """A layer of files that were read only once. `keep` has their digests kept for later builds."""

    layer: Layer
    keep: Callable[[], Awaitable[None]]


class _Made(Struct, frozen=True):
    """What was packed, and its digests."""

    rows: Rows
    layer: Layer
    digests: bytes


_Pack = Callable[[Rows], Awaitable[_Made]]


async def copy_unread(job: Job, step: Step, op: CopyOp, states: Mapping[str, State], inputs: Inputs,
                      depart: Depart | None = None, *, run_on: bool = False) -> Unread | None:  # fmt: skip
    """As `copy`, of files of a context of which not one has been read. The context learns their digests from the packing. None, and
    nothing done, if they are few, or not on disk.

    `depart` and `run_on` as for `make_layer`. Where the base image is not known yet, packing begins beside the look through it if
    the destination is one that most images do not have; if this one turns out to have it, what was begun is given up.
    """
    copying = Copying(job, step, op, states, inputs)
    _, context = await inputs.source_tree(op.source, states)
    if not isinstance(context, SubtreeContext):
        return None
    began = time.time_ns()
    mechanisms = job.mechanisms
    pack = partial(_packed, job, depart, run_on)
    guess: Rows | None = None
    if _is_new(op) and mechanisms.limiters.workers.total_tokens > 1 and not mechanisms.trees.knows(states[step.parent].chain):
        guess = await copying.rows(await copying.plan(EmptyTree()))
        if guess.size < LARGE:
            return None
    if guess is not None:
        made = await inputs.foreseeing(op, partial(_guessed, copying, guess, pack))
    else:
        rows = await copying.rows(await copying.plan(await inputs.foreseeing(op, copying.below)))
        if rows.size < LARGE:
            return None
        made = await pack(rows)
    files, subtrees = made.rows.digests(made.digests)
    context.learn(files, subtrees)
    return Unread(made.layer, lambda: context.keep(files, [subtree for subtree, _ in subtrees], began))


def _is_new(op: CopyOp) -> bool:
    """Whether it does not depend on the image below what a copy makes, unless that has something where few images have anything."""
    path, _ = destination(op.destination.encode("utf-8", "surrogateescape"), op.workdir.encode("utf-8", "surrogateescape"))
    named = all(part.isdecimal() for part in op.chown.split(":")) if op.chown else True
    return named and path.partition(b"/")[0] not in IN_EVERY_IMAGE


async def _packed(job: Job, depart: Depart | None, run_on: bool, rows: Rows) -> _Made:
    layer, digests = await make_layer(job, rows.take(), own_files=True, hash_files=True, run_on=run_on, depart=depart)
    return _Made(rows, layer, digests)


async def _guessed(copying: Copying, guess: Rows, pack: _Pack) -> _Made:
    """What a copy makes: packed while it is found out whether it is what was guessed, and packed again if not."""
    made: list[_Made] = []
    failures: list[Exception] = []
    planned: Planned | None = None

    async def try_to_pack() -> None:
        try:
            made.append(await pack(guess))
        except Exception as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(try_to_pack)
        try:
            planned = await copying.plan(await copying.below())
        except Exception as error:
            failures.insert(0, error)
        if planned is None or not planned.copies.is_like(guess.copies):
            tasks.cancel_scope.cancel()
    if planned is not None and not planned.copies.is_like(guess.copies):
        return await pack(await copying.rows(planned))
    if failures:
        raise failures[0]
    return made[0]
