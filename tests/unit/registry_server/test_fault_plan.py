"""Which request meets which fault."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.registry.server.faults import Fault, FaultPlan


def test_the_first_that_matches_is_met_and_used_up() -> None:
    one, two = Fault("GET", "/a", kind="reset"), Fault(".*", "/.*", 2, kind="stall")
    plan = FaultPlan([one, two])
    assert [plan.take("GET", "/a"), plan.take("GET", "/a"), plan.take("PUT", "/b"), plan.take("GET", "/a")] == [one, two, two, None]
    assert plan.pending == ()


def test_patterns_match_the_whole_method_and_path() -> None:
    plan = FaultPlan([Fault("PUT", "/v2/a")])
    assert plan.take("PUTS", "/v2/a") is None
    assert plan.take("PUT", "/v2/a/b") is None
    assert plan.take("PUT", "/v2/a") is not None


@given(skip=st.integers(0, 5), times=st.one_of(st.none(), st.integers(1, 5)), requests=st.integers(0, 12))
def test_a_fault_is_met_so_many_times_after_so_many_requests(skip: int, times: int | None, requests: int) -> None:
    plan = FaultPlan([Fault(skip=skip, times=times)])
    met = [plan.take("GET", "/") is not None for _ in range(requests)]
    assert met == [skip <= n and (times is None or n < skip + times) for n in range(requests)]
