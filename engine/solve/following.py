"""Commands that begin before their steps are executed: each on what the step before has left, while that one's layer is packed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from anyio.abc import TaskGroup
from msgspec import Struct, field

from engine.errors import EngineError
from engine.layer.tree import Tree
from engine.plan.base import SCRATCH, Plan, RunOp, Step
from engine.snapshot.base import Active
from engine.solve.keys import Keys
from engine.solve.mechanisms import Job
from engine.solve.state import State

if TYPE_CHECKING:
    from engine.solve.steps.early import EarlyCommand
    from engine.solve.steps.run import Follow


class Begun(Struct):
    """A command that has begun, and what holds the lock of its step, if it is `claimed`. For the time of the step's execution."""

    command: EarlyCommand
    claim: ExitStack = field(default_factory=ExitStack)
    claimed: bool = False


class Following:
    """The commands of one plan that have begun, and whose steps are not executed yet. They run in `background`."""

    def __init__(self, plan: Plan, job: Job, keys: Keys, background: TaskGroup) -> None:
        self._steps, self._job, self._keys, self._background = plan.steps, job, keys, background
        self._missed: set[str] = set()
        self._begun: dict[str, Begun] = {}

    def missed(self, step: Step) -> None:
        """Says that a step was not found by its definition, so that it will most likely run."""
        self._missed.add(step.id)

    def take(self, id: str) -> Begun | None:
        """The command of a step that is executed now, if it has begun."""
        return self._begun.pop(id, None)

    def after(self, step: Step, states: Mapping[str, State]) -> Follow | None:
        """What begins the command after a step's; None if that is to wait until the step's layer is packed."""
        after = [each for each in self._steps if step.id in each.needs]
        if len(after) != 1 or after[0].id not in self._missed or self._job.latest_mtime is not None:
            return None
        (following,) = after
        op, needed = following.op, {source.state for source in following.sources if source.state not in (None, SCRATCH)}
        if not isinstance(op, RunOp) or not needed <= states.keys():
            return None
        from engine.solve.steps.early import begin  # here, since most builds have nothing to begin

        def began() -> None:
            self._job.report.step(following.id, following.name)

        async def follow(active: Active, tree: Tree) -> EarlyCommand | None:
            early = await begin(self._job, following, op, states, active, tree, self._background, began)
            if early:
                self._begun[following.id] = Begun(early)
            return early

        return follow

    async def claim(self, step: Step, state: State, states: Mapping[str, State]) -> None:
        """Has the step to itself whose command has begun on what this one has left, before anybody can know this one's result, its
        `state`: who does would run the command, too."""
        for each in self._steps:
            if each.parent == step.id and (begun := self._begun.get(each.id)):
                with suppress(EngineError):  # the step will meet it again
                    key = await self._keys.content(each, {**states, step.id: state})
                    begun.claimed = begun.claim.enter_context(self._job.mechanisms.locks.attempt(key.lock))

    def close(self) -> None:
        """Says that commands are given up whose steps will not be executed."""
        while self._begun:
            id, begun = self._begun.popitem()
            begun.claim.close()
            self._job.report.finished(id, "canceled")
