"""What the driver has done: probes the cache, resolves images, runs steps, publishes what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.cache.base import Record
from engine.errors import EngineError, StorageError
from engine.layer.base import Layer
from engine.plan.base import CopyOp, ImageSource, Plan, RunOp, Step
from engine.solve.driver import Node
from engine.solve.inputs import Inputs
from engine.solve.keys import Key, Keys
from engine.solve.mechanisms import Job
from engine.solve.state import State
from engine.solve.steps.copy import copy
from engine.solve.steps.run import run
from engine.solve.steps.workdir import workdir


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A cache record as the driver sees it."""

    record: Record

    def on(self, parent: State) -> State:
        """The parent's state and the recorded layer."""
        return parent.grown(self.record.layer, self.record.created)


class PlanWork:
    """The work of one plan of one build. `cached` and `ran` count steps."""

    def __init__(self, plan: Plan, job: Job, text: str, prefix: str = "") -> None:
        self._job = job
        self._text = text
        self._prefix = prefix
        self._inputs = Inputs(job)
        self._keys = Keys(plan, job, self._inputs)
        self.cached = 0
        self.ran = 0

    async def probe(self, node: Node) -> FoundRecord | None:
        """A step's record by its definition. Images are never found: resolving them is what gives their definition."""
        if isinstance(node, ImageSource) or node.no_cache:
            return None
        try:
            key = await self._keys.definition(node.id)
        except EngineError as error:
            self._failed(node, error)
            raise
        record = await self._job.mechanisms.cache.get(key.digest)
        return FoundRecord(record) if record else None

    def settled(self, node: Node) -> None:
        """Says that a step was cached."""
        self.cached += 1
        if isinstance(node, Step):
            self._job.report.step(self._id(node), self._prefix + node.name)
            self._job.report.finished(self._id(node), "cached")

    async def execute(self, node: Node, states: Mapping[str, State]) -> State:
        """A node's state: an image resolved, or a step found by content or run."""
        if isinstance(node, ImageSource):
            return (await self._job.images.resolve(node.reference, node.platform)).state
        async with self._job.mechanisms.limiters.steps:
            self._job.report.step(self._id(node), self._prefix + node.name)
            try:
                state = await self._step(node, states)
            except EngineError as error:
                self._failed(node, error)
                raise
            except BaseException:
                self._job.report.finished(self._id(node), "canceled")
                raise
            return state

    def _failed(self, node: Node, error: EngineError) -> None:
        if isinstance(node, Step):
            error.at(node.location, self._text)
            self._job.report.step(self._id(node), self._prefix + node.name)
            self._job.report.finished(self._id(node), "failed", error.message)

    def _id(self, node: Node) -> str:
        return f"{self._prefix}{node.id}"

    async def _step(self, step: Step, states: Mapping[str, State]) -> State:
        mechanisms = self._job.mechanisms
        parent = states[step.parent]
        if not step.no_cache:
            content = await self._keys.content(step, states)
            record = await mechanisms.cache.get(content.digest)
            if record is not None:
                await self._publish(step, await self._keys.definition(step.id), record.layer, record.created)
                self.cached += 1
                self._job.report.finished(self._id(step), "cached")
                return parent.grown(record.layer, record.created)
            state = await mechanisms.flight.run(content.digest, lambda: self._make(step, states, content))
        else:
            state = await self._make(step, states, None)
        self.ran += 1
        self._job.report.finished(self._id(step), "done")
        return state

    async def _make(self, step: Step, states: Mapping[str, State], content: Key | None) -> State:
        layer = await self._run(step, states)
        created = self._job.mechanisms.clock()
        if content is not None:
            await self._publish(step, content, layer, created)
            await self._publish(step, await self._keys.definition(step.id), layer, created)
        return states[step.parent].grown(layer, created)

    async def _run(self, step: Step, states: Mapping[str, State]) -> Layer:
        op = step.op
        if isinstance(op, RunOp):
            return await run(self._job, step, op, states)
        if isinstance(op, CopyOp):
            return await copy(self._job, step, op, states, self._inputs)
        return await workdir(self._job, step, op, states)

    async def _publish(self, step: Step, key: Key, layer: Layer | None, created: float) -> None:
        record = Record(key.digest, layer, created, step.name, key.ingredients)
        try:
            await self._job.mechanisms.cache.put(record)
        except StorageError as error:
            self._job.report.warn(f"the result of {step.name} cannot be cached: {error}")
