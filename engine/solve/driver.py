"""Turns the machine's orders into tasks, and what came of them into events. The only place where a solve starts tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from engine.plan.base import SCRATCH, ImageSource, Plan, Step
from engine.solve import machine
from engine.solve.machine import Machine, Vertex
from engine.solve.state import State

Node = Step | ImageSource


class Found(Protocol):
    """What a probe found: enough to make a state once the parent's is known."""

    def on(self, parent: State) -> State:
        """The state that the found result makes of its parent."""


class Work(Protocol):
    """What the driver has done by others. `states` holds all that the step needs."""

    async def probe(self, node: Node) -> Found | None:
        """A result by definition, without anything being run or fetched."""

    async def execute(self, node: Node, states: Mapping[str, State]) -> State:
        """The node's state, made."""

    def settled(self, node: Node) -> None:
        """A found node's state is known; nothing is left to do for it."""


def vertices(plan: Plan) -> list[Vertex]:
    """The machine's view of a plan."""
    out = [Vertex(image.id) for image in plan.images]
    for step in plan.steps:
        out.append(Vertex(step.id, None if step.parent == SCRATCH else step.parent, step.needs))
    return out


async def solve(plan: Plan, work: Work) -> dict[str, State]:
    """The states of a plan's result and of all that had to be made or found for it, by vertex.

    The first error ends everything that is under way and is raised as it is.
    """
    states: dict[str, State] = {SCRATCH: State(())}
    if plan.result == SCRATCH:
        return states
    driver = _Driver(plan, work, states)
    try:
        await driver.run()
    except BaseExceptionGroup as group:
        raise _first(group) from None
    return states


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a task group: cancellation only if there is nothing else."""
    cancelled = anyio.get_cancelled_exc_class()
    leaves: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo = [*error.exceptions, *todo]
        else:
            leaves.append(error)
    return next((e for e in leaves if not isinstance(e, cancelled)), leaves[0])


class _Driver:
    def __init__(self, plan: Plan, work: Work, states: dict[str, State]) -> None:
        nodes: list[Node] = [*plan.images, *plan.steps]
        self._nodes = {n.id: n for n in nodes}
        self._machine = Machine(vertices(plan), [plan.result])
        self._work = work
        self._states = states
        self._found: dict[str, Found] = {}

    async def run(self) -> None:
        send, receive = anyio.create_memory_object_stream[machine.Event](len(self._nodes) * 2 + 1)
        async with send, receive, anyio.create_task_group() as tasks:
            orders = list(self._machine.start())
            while self._obey(orders, tasks, send):
                orders = list(self._machine.handle(await receive.receive()))

    def _obey(self, orders: list[machine.Order], tasks: TaskGroup, send: MemoryObjectSendStream[machine.Event]) -> bool:
        """Starts what is ordered; returns whether the solve goes on."""
        for order in orders:
            if isinstance(order, machine.Finish):
                tasks.cancel_scope.cancel()
                return False
            if isinstance(order, machine.Probe):
                tasks.start_soon(self._probe, order.id, send)
            elif isinstance(order, machine.Execute):
                tasks.start_soon(self._execute, order.id, send)
            else:
                node = self._nodes[order.id]
                parent = node.parent if isinstance(node, Step) else SCRATCH
                self._states[order.id] = self._found[order.id].on(self._states[parent])
                self._work.settled(node)
        return True

    async def _probe(self, id: str, send: MemoryObjectSendStream[machine.Event]) -> None:
        found = await self._work.probe(self._nodes[id])
        if found is not None:
            self._found[id] = found
        send.send_nowait(machine.Hit(id) if found is not None else machine.Missed(id))

    async def _execute(self, id: str, send: MemoryObjectSendStream[machine.Event]) -> None:
        self._states[id] = await self._work.execute(self._nodes[id], self._states)
        send.send_nowait(machine.Done(id))
