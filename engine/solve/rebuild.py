"""Runs steps that the cache has again, and compares what comes of them with what is on record: is the cache right?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct, field

from engine.cache.tiers import Hit
from engine.errors import ContentError, RunError
from engine.image.digest import Digest
from engine.layer.base import Layer
from engine.layer.differences import differences, listed
from engine.layer.entries import Entry
from engine.output.blobs import single_error
from engine.plan.base import SCRATCH, Plan, Step
from engine.plan.bases import BaseFacts
from engine.request import BuildRequest
from engine.solve.build import host_platform, make, read_dockerfile
from engine.solve.inputs import Inputs
from engine.solve.keys import Keys
from engine.solve.mechanisms import Job
from engine.solve.state import State
from engine.solve.work import run_step

_TICK = 1.1
"""Seconds between two runs of a step: what has the time of day in it is not the same then."""

Verdict = Literal["same", "varies", "differs", "failed", "broken"]


class Rebuilt(Struct, frozen=True):
    """What became of a step that was run again. `same`: the layer on record, but for times. `varies`: not the same, but the step
    gives another result each time. `differs`: the step gives the same result each time, and another than is on record. `failed`:
    it does not end well any more. `broken`: the layer on record cannot be had, or is not what it should be. `paths` says of each
    path what is not the same (of a step that `differs` without those that vary), `problem` what went wrong."""

    step: str
    key: Digest
    verdict: Verdict
    paths: Mapping[bytes, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with the record, as far as one can tell."""
        return self.verdict in ("same", "varies")


class _Known(Struct, frozen=True):
    """A step that the cache has, and all that it needs, too."""

    job: Job
    step: Step
    hit: Hit
    states: Mapping[str, State]
    inputs: Inputs


Choose = Callable[[int], Sequence[int]]
"""Told how many steps there are, says which are to be run."""


async def rebuild(job: Job, request: BuildRequest, choose: Choose) -> tuple[int, list[Rebuilt]]:
    """Plans a build, runs some of the steps that the cache has for it, each on the layers on record of those before it, and keeps
    nothing of what comes of them. Returns how many steps the cache has, and what became of the chosen. Raises `EngineError` when
    the build cannot be planned, or a step lacks something of the request (a secret) or of the machine."""
    dockerfile, _ = await read_dockerfile(job.context, job.report, request)
    host = host_platform()
    known: list[_Known] = []
    done: list[Rebuilt] = []
    with single_error():
        async with anyio.create_task_group() as closing:
            for target in request.platforms or (host,):
                known += await _known(job, await make(job, request, dockerfile, host, target, BaseFacts()), closing)
            done += [await _again(known[n]) for n in choose(len(known))]
    return len(known), done


async def _known(job: Job, plan: Plan, closing: TaskGroup) -> list[_Known]:
    """The steps that the cache has: by either of their keys, as a build finds them."""
    inputs = Inputs(job, closing)
    keys = Keys(plan, job, inputs)
    states = {SCRATCH: State(())}
    for image in plan.images:
        states[image.id] = (await job.images.resolve(image.reference, image.platform)).state
    found: list[_Known] = []
    for step in plan.steps:
        if not states.keys() >= {step.parent, *step.needs}:
            continue
        hit = await job.cache.find((await keys.definition(step.id)).digest, share=False)
        hit = hit or await job.cache.find((await keys.content(step, states)).digest, share=False)
        if hit is not None:
            states[step.id] = states[step.parent].grown(hit.record.layer, hit.record.created)
            found.append(_Known(job, step, hit, states, inputs))
    for state in states.values():
        await job.cache.protect(state.chain)
    return found


async def _again(known: _Known) -> Rebuilt:
    """Runs a step and compares; once more if it is not the same, to tell what varies from what is wrong."""
    step, key, layer = known.step, known.hit.record.key, known.hit.record.layer
    known.job.report.step(step.id, step.name)
    result = Rebuilt(step.name, key, "same")
    try:
        before = await _recorded(known.job, layer)
        once = await _entries(known)
        paths = differences(before, once)
        if paths:
            await anyio.sleep(_TICK)
            varying = differences(once, await _entries(known))
            steady = {path: what for path, what in paths.items() if path not in varying}
            result = Rebuilt(step.name, key, "differs" if steady else "varies", steady or paths)
    except RunError as error:
        result = Rebuilt(step.name, key, "failed", problem=error.message)
    except ContentError as error:
        result = Rebuilt(step.name, key, "broken", problem=error.message)
    known.job.report.finished(step.id, "done" if result.sound else "failed", "" if result.sound else result.verdict)
    return result


async def _entries(known: _Known) -> Sequence[Entry]:
    """What the step makes now."""
    layer = await run_step(known.job, known.step, known.states, known.inputs)
    return await _recorded(known.job, layer)


async def _recorded(job: Job, layer: Layer | None) -> Sequence[Entry]:
    """What is in a layer, read from its blob; raises `ContentError` when that is not the layer, or is nowhere."""
    if layer is None:
        return ()
    mechanisms = job.mechanisms
    await mechanisms.blobs.ensure(layer.blob)
    blob = mechanisms.content.path(layer.blob.digest)
    return (await mechanisms.workers.call(listed, str(blob), str(layer.diff_id))).entries
