"""What the driver has done: probes the cache, resolves images, runs steps, publishes what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus
from msgspec import Struct

from engine.cache.base import Record
from engine.cache.flight import once
from engine.cache.inline import Made
from engine.cache.tiers import Hit
from engine.errors import EngineError, StorageError
from engine.layer.base import Layer
from engine.plan.base import CopyOp, ImageSource, Plan, RunOp, Step
from engine.solve.ahead import Bases, Sender
from engine.solve.driver import Node
from engine.solve.explain import reasons
from engine.solve.following import Begun, Following
from engine.solve.inputs import Inputs, finish
from engine.solve.keys import Key, Keys
from engine.solve.mechanisms import Job
from engine.solve.state import State

if TYPE_CHECKING:
    from engine.solve.steps.early import EarlyCommand
    from engine.solve.steps.pack import Depart
    from engine.solve.steps.run import Follow
    from engine.solve.steps.unread import Unread


class FoundRecord(Struct, frozen=True):
    """A cache record as the driver sees it."""

    hit: Hit

    def on(self, parent: State) -> State:
        """The parent's state and the recorded layer."""
        return parent.grown(self.hit.record.layer, self.hit.record.created)


class PlanWork:
    """The work of one plan of one build. `cached` and `ran` count steps."""

    def __init__(self, plan: Plan, job: Job, text: str, background: TaskGroup, closing: TaskGroup, sender: Sender) -> None:
        """What is done ahead is done in `background`, what need not be done before the image is finished in `closing`; the image's
        layers are given to the `sender` as they are made."""
        self._job = job
        self._text = text
        self._inputs = Inputs(job, closing)
        self._keys = Keys(plan, job, self._inputs)
        self._hits: dict[str, Hit] = {}
        self._plan = plan
        self._final = _line(plan)
        self._closing = closing
        self._sender = sender
        self._following = Following(plan, job, self._keys, background)
        self._bases = Bases(plan, job, background)
        self.cached = 0
        self.ran = 0
        self._unread: dict[str, CopyOp] = {}
        """Copies of files of a context that will not be found, so that they are made before their files are read for the key."""
        self._unknown: set[str] = set()
        """Those copies and all that comes of them: their definitions are known when the copies are made, and cannot be found."""
        for step in plan.steps:
            if any(need in self._unknown for need in step.needs):
                self._unknown.add(step.id)
            op = _copy_of_context(step)
            if op is not None and (step.no_cache or not job.cache.may_have("COPY")):
                self._unread[step.id] = op
                self._unknown.add(step.id)
                self._inputs.expect(op)

    def close(self) -> None:
        """To be called when nothing more is executed, whatever has become of it."""
        self._following.close()

    async def probe(self, node: Node) -> FoundRecord | None:
        """A step's record by its definition. Images are never found: resolving them is what gives their definition."""
        if isinstance(node, ImageSource):
            return None
        if node.no_cache or node.id in self._unknown:
            self._miss(node)
            return None
        try:
            key = await self._keys.definition(node.id)
        except EngineError as error:
            self._job.report.step(node.id, node.name)
            self._failed(node, error)
            raise
        hit = await self._find(node, key)
        if hit is None:
            self._miss(node)
            return None
        self._hits[node.id] = hit
        return FoundRecord(hit)

    def _miss(self, step: Step) -> None:
        self._following.missed(step)
        self._bases.missed(step)

    def settled(self, node: Node) -> None:
        """Says that a step was cached."""
        self.cached += 1
        if isinstance(node, Step):
            self._job.report.step(node.id, node.name)
            self._explain_hit(node, self._hits[node.id])
            self._job.report.finished(node.id, "cached")

    async def execute(self, node: Node, states: Mapping[str, State]) -> State:
        """A node's state: an image resolved, or a step found by content or run."""
        if isinstance(node, ImageSource):
            state = (await self._job.images.resolve(node.reference, node.platform)).state
            await self._job.cache.protect(state.chain)
            self._bases.resolved(node, state.chain)
            return state
        async with self._job.mechanisms.limiters.steps:
            begun = self._following.take(node.id)
            if begun is None:
                self._job.report.step(node.id, node.name)
            try:
                with begun.claim if begun else nullcontext():
                    state = await self._step(node, states, begun)
            except EngineError as error:
                self._failed(node, error)
                raise
            except BaseException:
                self._job.report.finished(node.id, "canceled")
                raise
            return state

    def _failed(self, node: Node, error: EngineError) -> None:
        if isinstance(node, Step):
            error.at(node.location, self._text)
            self._job.report.finished(node.id, "failed", error.message)

    async def _step(self, step: Step, states: Mapping[str, State], begun: Begun | None) -> State:
        """A step that its definition did not find: found by what its inputs are, made by somebody else meanwhile, or made."""
        if step.id in self._unread and (state := await self._copy_unread(step, states)) is not None:
            return state
        key = await self._keys.content(step, states)

        async def look() -> Hit | None:
            return await self._find(step, key)

        async def make() -> Hit:
            await self._explain_miss(step, key)
            return Hit(await self._make(step, states, key, begun.command if begun else None), "")

        if step.no_cache:
            hit, made = await make(), True
        elif begun and begun.claimed:
            found = await look()
            hit, made = (found, False) if found else (await make(), True)
        else:
            mechanisms = self._job.mechanisms
            if _copy_of_context(step) and await look() is None:
                async with mechanisms.locks.hold(await self._unread_lock(step, states), shared=True):
                    pass  # whoever makes a copy like this one without knowing its key may be making just this one
            hit, made = await once(mechanisms.turns, mechanisms.locks, key.lock, look, make)
        if made:
            self.ran += 1
            if hit.record.layer is not None and step.id in self._final:
                self._sender.send(hit.record.layer)
        else:
            if begun:
                await begun.command.abandon()
            self.cached += 1
            self._explain_hit(step, hit)
            await self._publish(step, hit.record.layer, hit.record.created, await self._keys.definition(step.id))
        self._job.report.finished(step.id, "done" if made else "cached")
        return states[step.parent].grown(hit.record.layer, hit.record.created)

    async def _copy_unread(self, step: Step, states: Mapping[str, State]) -> State | None:
        """Makes a copy whose files have not been read, unless somebody else is making one like it, or it is small."""
        from engine.solve.steps.unread import copy_unread

        op = self._unread[step.id]
        with ExitStack() as stack:
            free = stack.enter_context(self._job.mechanisms.locks.attempt(await self._unread_lock(step, states)))
            copied: Unread | None = None
            with self._inputs.expected(op) as first:
                if free and first:
                    copied = await copy_unread(self._job, step, op, states, self._inputs, self._depart(step),
                                               run_on=self._runs_on(step))
            if copied is None:
                if not first:
                    await self._inputs.made(op)
                return None
            if step.id in self._final:
                self._sender.send(copied.layer)
            self.ran += 1
            made = states[step.parent].grown(copied.layer, self._job.mechanisms.clock())
            writing_down = partial(self._write_down, step, states, copied, made.created, stack.pop_all())
            if self._job.explain:  # which belongs before the end of the step
                await writing_down()
            else:
                await self._closing.start(writing_down)
        self._job.report.finished(step.id, "done")
        return made

    async def _write_down(self, step: Step, states: Mapping[str, State], copied: Unread, created: float, held: ExitStack, *,
                          task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:  # fmt: skip
        """Records a copy whose key is known only now, to its end even if the build ends meanwhile."""
        with held, anyio.CancelScope(shield=True):
            task_status.started()
            self._closing.start_soon(finish, copied.keep)
            try:
                key = await self._keys.content(step, states)
                await self._explain_miss(step, key)
                await self._publish(step, copied.layer, created, key, await self._keys.definition(step.id))
            except EngineError as error:
                self._failed(step, error)
                raise

    async def _unread_lock(self, step: Step, states: Mapping[str, State]) -> str:
        return f"copy {await self._keys.outline(step, states)}"

    def _depart(self, step: Step) -> Depart | None:
        return self._sender.depart if step.id in self._final else None

    def _runs_on(self, step: Step) -> bool:
        """Whether a command will most likely be run on what the step makes: what follows a step that was not found seldom is."""
        above = {step.id}
        for each in self._plan.steps:
            if each.parent in above:
                if isinstance(each.op, RunOp):
                    return True
                above.add(each.id)
        return False

    async def _make(self, step: Step, states: Mapping[str, State], key: Key, early: EarlyCommand | None) -> Record:
        await key.prepare()
        await anyio.to_thread.run_sync(lambda: key.ingredients)  # while a step runs, what they are made of need not be there
        layer = await run_step(self._job, step, states, self._inputs, self._depart(step), run_on=self._runs_on(step),
                               early=early, follow=self._following.after(step, states))  # fmt: skip
        created = self._job.mechanisms.clock()
        await self._following.claim(step, states[step.parent].grown(layer, created), states)
        await self._publish(step, layer, created, key, await self._keys.definition(step.id))
        return Record(key.digest, layer, created, step.text)

    async def _find(self, step: Step, key: Key) -> Hit | None:
        return await self._job.cache.find(key.digest, share=self._shared(step))

    async def _publish(self, step: Step, layer: Layer | None, created: float, *keys: Key) -> None:
        for key in keys:
            await key.prepare()
        records = [Record(key.digest, layer, created, step.text, key.ingredients) for key in keys]
        try:
            await self._job.cache.publish(records, replace=step.no_cache, share=self._shared(step))
        except StorageError as error:
            self._job.report.warn(f"the result of {step.name} cannot be cached: {error}")

    def _shared(self, step: Step) -> bool:
        """Whether a remote cache is to have the step: with mode=min, if its layer is one of the image's."""
        return self._job.share_all or step.id in self._final

    async def made(self, states: Mapping[str, State]) -> list[Made]:
        """What the image's own layers are the results of, in their order. The keys are those that follow from the plan and the
        image: they are the same however the build came to it, where other stages may have been looked at, or not."""
        out: list[Made] = []
        for step in self._plan.steps:
            if step.id in self._final:
                keys = [await self._keys.definition(step.id)]
                if all(source.state is None for source in step.sources):
                    keys.append(await self._keys.content(step, states))
                below, chain = states[step.parent].chain, states[step.id].chain
                place = len(below) if len(chain) > len(below) else None
                out.append(Made(tuple(dict.fromkeys(key.digest for key in keys)), place, step.text))
        return out

    def _explain_hit(self, step: Step, hit: Hit) -> None:
        if self._job.explain:
            age = self._job.mechanisms.clock() - hit.record.created
            self._job.report.explained(step.id, step.name, str(hit.record.key), tier=hit.tier, age=age)

    async def _explain_miss(self, step: Step, key: Key) -> None:
        if self._job.explain:
            await key.prepare()
            why = ("--no-cache was given",) if step.no_cache else reasons(key.ingredients, self._job.cache.similar(step.text))
            self._job.report.explained(step.id, step.name, str(key.digest), reasons=why)


async def run_step(job: Job, step: Step, states: Mapping[str, State], inputs: Inputs, depart: Depart | None = None, *,
                   run_on: bool = False, early: EarlyCommand | None = None, follow: Follow | None = None) -> Layer:  # fmt: skip
    """The layer that a step makes; raises what the step raises. Nothing is looked up or recorded. `depart` and `run_on` as for
    `make_layer`, `early` and `follow` as for `run`."""
    op = step.op  # what makes layers is imported here: a build in which nothing has changed makes none
    if isinstance(op, RunOp):
        from engine.solve.steps.run import run

        return await run(job, step, op, states, depart, early=early, follow=follow)
    if isinstance(op, CopyOp):
        from engine.solve.steps.copy import copy

        return await copy(job, step, op, states, inputs, depart, run_on=run_on)
    from engine.solve.steps.workdir import workdir

    return await workdir(job, step, op, states)


def _copy_of_context(step: Step) -> CopyOp | None:
    """The instruction, if it copies files of a context as they are."""
    op = step.op
    return op if isinstance(op, CopyOp) and not op.add and op.sources and op.source.state is None else None


def _line(plan: Plan) -> frozenset[str]:
    """The steps whose layers are the image's: the result, what it works on, and so on."""
    steps = {step.id: step for step in plan.steps}
    found: list[str] = []
    at = plan.result
    while at in steps:
        found.append(at)
        at = steps[at].parent
    return frozenset(found)
