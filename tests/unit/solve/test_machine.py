"""The machine, with toy graphs: vertices whose work is to be counted."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.solve.machine import Done, Execute, Finish, Hit, Machine, Missed, Probe, Settle, Vertex


def chain(*ids: str) -> list[Vertex]:
    return [Vertex(id, ids[i - 1] if i else None, (ids[i - 1],) if i else ()) for i, id in enumerate(ids)]


def test_all_of_a_line_is_probed_at_once() -> None:
    machine = Machine(chain("base", "a", "b"), ["b"])
    assert machine.start() == [Probe("b"), Probe("a"), Probe("base")]


def test_a_hit_settles_when_its_parent_is_known() -> None:
    machine = Machine(chain("base", "a", "b"), ["b"])
    machine.start()
    assert machine.handle(Hit("b")) == []
    assert machine.handle(Hit("a")) == []
    assert machine.handle(Hit("base")) == [Settle("base"), Settle("a"), Settle("b"), Finish()]


def test_a_miss_waits_for_its_parent_and_then_runs() -> None:
    machine = Machine(chain("base", "a"), ["a"])
    machine.start()
    assert machine.handle(Missed("a")) == []
    assert machine.handle(Hit("base")) == [Settle("base"), Execute("a")]
    assert machine.handle(Done("a")) == [Finish()]


def test_a_stage_read_only_by_a_cached_step_is_never_looked_at() -> None:
    vertices = [Vertex("base"), Vertex("side", "base", ("base",)), Vertex("copy", "base", ("base", "side"))]
    machine = Machine(vertices, ["copy"])
    assert machine.start() == [Probe("copy"), Probe("base")]
    machine.handle(Hit("copy"))
    assert machine.handle(Hit("base")) == [Settle("base"), Settle("copy"), Finish()]


def test_a_miss_wants_what_it_reads_from() -> None:
    vertices = [Vertex("base"), Vertex("side", "base", ("base",)), Vertex("copy", "base", ("base", "side"))]
    machine = Machine(vertices, ["copy"])
    machine.start()
    assert machine.handle(Missed("copy")) == [Probe("side")]


def test_independent_stages_run_side_by_side() -> None:
    vertices = [Vertex("one"), Vertex("two"), Vertex("join", "one", ("one", "two"))]
    machine = Machine(vertices, ["join"])
    machine.start()
    machine.handle(Missed("join"))
    assert [*machine.handle(Missed("one")), *machine.handle(Missed("two"))] == [Execute("one"), Execute("two")]


def test_an_event_out_of_turn_is_a_bug() -> None:
    machine = Machine(chain("a"), ["a"])
    machine.start()
    with pytest.raises(ValueError, match="in phase probing"):
        machine.handle(Done("a"))


@given(st.integers(1, 12), st.randoms(use_true_random=False))
def test_any_graph_comes_to_its_end_whatever_hits(count: int, rng: random.Random) -> None:
    vertices = []
    for i in range(count):
        needs = tuple(f"v{j}" for j in range(i) if rng.random() < 0.4)
        vertices.append(Vertex(f"v{i}", rng.choice(needs) if needs else None, needs))
    machine = Machine(vertices, [vertices[-1].id])
    orders, done, finished = list(machine.start()), set(), False
    while orders:
        order = orders.pop(rng.randrange(len(orders)) if all(isinstance(o, Probe | Execute) for o in orders) else 0)
        if isinstance(order, Probe):
            orders += machine.handle(rng.choice((Hit, Missed))(order.id))
        elif isinstance(order, Execute):
            assert set(next(v for v in vertices if v.id == order.id).needs) <= done
            done.add(order.id)
            orders += machine.handle(Done(order.id))
        elif isinstance(order, Settle):
            parent = next(v for v in vertices if v.id == order.id).parent
            assert parent is None or parent in done
            done.add(order.id)
        else:
            finished = True
    assert finished
    assert vertices[-1].id in done
