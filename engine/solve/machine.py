"""Decides what of a plan has to be done, and when. Pure and synchronous: events go in, orders come out.

The machine works backwards from the result. A vertex that is *wanted* is probed first, by its definition alone; all of its line of
parents are wanted with it, since an image needs their layers. Only when the probe misses does the vertex want what else it reads
from, and it is ordered to run when all of that is done. So a stage whose only reader is cached is never looked at, and a miss
stops nobody else's probe.

    unwanted → probing ─ Hit ──→ found ── parent done ──→ done
                  └──── Missed → waiting ── all needs done → running ─ Done → done
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from msgspec import Struct


class Vertex(Struct, frozen=True):
    """A node of the graph: its parent (the state it works on) and all that it needs, the parent included."""

    id: str
    parent: str | None = None
    needs: tuple[str, ...] = ()


class Hit(Struct, frozen=True):
    """Event: the probe of a vertex found its result."""

    id: str


class Missed(Struct, frozen=True):
    """Event: the probe of a vertex found nothing."""

    id: str


class Done(Struct, frozen=True):
    """Event: a vertex that was ordered to run has its result."""

    id: str


class Probe(Struct, frozen=True):
    """Order: look for the vertex's result by its definition."""

    id: str


class Execute(Struct, frozen=True):
    """Order: make the vertex's result; everything it needs is done."""

    id: str


class Settle(Struct, frozen=True):
    """Order: the vertex was found, and the state it works on is known now. Nothing is awaited."""

    id: str


class Finish(Struct, frozen=True):
    """Order: all wanted results are there."""


Event = Hit | Missed | Done
Order = Probe | Execute | Settle | Finish


class _Phase(Enum):
    UNWANTED = "unwanted"
    PROBING = "probing"
    FOUND = "found"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


class Machine:
    """One solve. Feed `start` once and then `handle` with what happened; obey the orders in their order."""

    def __init__(self, vertices: Iterable[Vertex], results: Iterable[str]) -> None:
        self._vertices = {v.id: v for v in vertices}
        self._phases = dict.fromkeys(self._vertices, _Phase.UNWANTED)
        self._readers: dict[str, list[str]] = {id: [] for id in self._vertices}
        for vertex in self._vertices.values():
            for need in vertex.needs:
                self._readers[need].append(vertex.id)
        self._results = tuple(results)
        self._finished = False

    def start(self) -> Sequence[Order]:
        """The first orders."""
        orders: list[Order] = []
        for result in self._results:
            self._want(result, orders)
        return self._finish(orders)

    def handle(self, event: Event) -> Sequence[Order]:
        """What to do after an event. An event that does not fit the vertex's phase is a bug and raises `ValueError`."""
        orders: list[Order] = []
        expected = _Phase.RUNNING if isinstance(event, Done) else _Phase.PROBING
        if self._phases[event.id] is not expected:
            raise ValueError(f"{event} in phase {self._phases[event.id].value}")
        if isinstance(event, Done):
            self._complete(event.id, orders)
        elif isinstance(event, Hit):
            self._phases[event.id] = _Phase.FOUND
            self._advance(event.id, orders)
        else:
            self._phases[event.id] = _Phase.WAITING
            for need in self._vertices[event.id].needs:
                self._want(need, orders)
            self._advance(event.id, orders)
        return self._finish(orders)

    def _want(self, id: str | None, orders: list[Order]) -> None:
        while id is not None and self._phases[id] is _Phase.UNWANTED:
            self._phases[id] = _Phase.PROBING
            orders.append(Probe(id))
            id = self._vertices[id].parent

    def _advance(self, id: str, orders: list[Order]) -> None:
        vertex, phase = self._vertices[id], self._phases[id]
        if phase is _Phase.FOUND and (vertex.parent is None or self._phases[vertex.parent] is _Phase.DONE):
            orders.append(Settle(id))
            self._complete(id, orders)
        elif phase is _Phase.WAITING and all(self._phases[n] is _Phase.DONE for n in vertex.needs):
            self._phases[id] = _Phase.RUNNING
            orders.append(Execute(id))

    def _complete(self, id: str, orders: list[Order]) -> None:
        todo = [id]
        while todo:
            done = todo.pop(0)
            self._phases[done] = _Phase.DONE
            for reader in self._readers[done]:
                vertex = self._vertices[reader]
                if self._phases[reader] is _Phase.FOUND and vertex.parent == done:
                    orders.append(Settle(reader))
                    todo.append(reader)
                else:
                    self._advance(reader, orders)

    def _finish(self, orders: list[Order]) -> Sequence[Order]:
        if not self._finished and all(self._phases[r] is _Phase.DONE for r in self._results):
            self._finished = True
            orders.append(Finish())
        return orders
