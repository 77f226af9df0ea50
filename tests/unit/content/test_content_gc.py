"""What a prune decides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.content.gc import Item, Policy, decide
from engine.content.leases import Leased, Name


def record(name: str, used: float, *needs: str, size: int = 0) -> Item:
    return Item(("record", name), size, used, root=True, needs=tuple(("blob", need) for need in needs))


def blob(name: str, size: int, used: float = 0) -> Item:
    return Item(("blob", name), size, used)


def removed(items: list[Item], policy: Policy, leased: Leased | None = None, now: float = 1000) -> list[str]:
    return [item.name[1] for item in decide(items, leased or Leased(), policy, now).remove]


ITEMS = [record("old", 100, "a", "shared"), record("new", 900, "b", "shared"), blob("a", 10), blob("b", 20), blob("shared", 40),
         blob("orphan", 5)]


def test_the_default_removes_only_what_nothing_needs() -> None:
    assert removed(ITEMS, Policy()) == ["orphan"]


def test_age_lets_go_of_records_and_of_what_only_they_needed() -> None:
    assert removed(ITEMS, Policy(older_than=500)) == ["old", "a", "orphan"]
    assert removed(ITEMS, Policy(older_than=900)) == ["orphan"]


def test_size_lets_go_of_the_least_recently_used_until_the_rest_fits() -> None:
    assert removed(ITEMS, Policy(keep_storage=70)) == ["orphan"]
    assert removed(ITEMS, Policy(keep_storage=69)) == ["old", "a", "orphan"]
    assert removed(ITEMS, Policy(keep_storage=60)) == ["old", "a", "orphan"]
    assert removed(ITEMS, Policy(keep_storage=59)) == ["old", "new", "a", "b", "orphan", "shared"]


def test_all_leaves_only_what_running_builds_use() -> None:
    assert removed(ITEMS, Policy(all=True)) == ["old", "new", "a", "b", "orphan", "shared"]
    leased = Leased(frozenset({("record", "old"), ("blob", "orphan")}), since=990)
    assert removed(ITEMS, Policy(all=True), leased) == ["new", "b"]


def test_what_a_build_has_right_now_stays() -> None:
    layer = Item(("layer", "l"), 1, 1, busy=True, needs=(("blob", "a"),))
    mount = Item(("mount", "m"), 7, 1, root=True, busy=True)
    assert removed([mount, layer, blob("a", 1)], Policy(all=True)) == []


def test_what_was_made_since_the_oldest_build_began_is_left_alone() -> None:
    items = [blob("before", 1, 979), blob("since", 1, 981)]
    assert removed(items, Policy(all=True), Leased(since=982)) == ["before"]


def test_a_policy_can_be_for_one_kind_of_roots() -> None:
    items = [*ITEMS, Item(("mount", "m"), 7, 1, root=True)]
    assert removed(items, Policy(all=True, kinds=frozenset({"mount"}))) == ["m", "orphan"]


def test_what_frees_and_stays_is_counted() -> None:
    verdict = decide(ITEMS, Leased(), Policy(older_than=500), 1000)
    assert (verdict.freed, verdict.kept) == (15, 60)


NAMES = st.sampled_from("abcdef")


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Item], Leased, Policy]:
    items: dict[Name, Item] = {}
    for kind in ("record", "layer", "blob"):
        for name in draw(st.sets(NAMES)):
            below = {"record": ("layer", "blob"), "layer": ("blob",), "blob": ()}[kind]
            needs = tuple((k, n) for k in below for n in sorted(draw(st.sets(NAMES, max_size=3))))
            items[kind, name] = Item((kind, name), draw(st.integers(0, 9)), draw(st.integers(0, 100)), kind == "record", needs)
    leased = Leased(draw(st.frozensets(st.tuples(st.sampled_from(["record", "layer", "blob"]), NAMES), max_size=3)),
                    draw(st.none() | st.integers(0, 100)))
    policy = Policy(draw(st.booleans()), draw(st.none() | st.integers(0, 100)), draw(st.none() | st.integers(0, 60)))
    return list(items.values()), leased, policy


@given(worlds())
def test_nothing_that_stays_or_is_leased_loses_what_it_needs(world: tuple[list[Item], Leased, Policy]) -> None:
    items, leased, policy = world
    verdict = decide(items, leased, policy, 100)
    gone = {item.name for item in verdict.remove}
    stays = [item for item in items if item.name not in gone]
    assert not gone & leased.names
    assert not any(need in gone for item in stays for need in item.needs)
    assert verdict.kept == sum(item.size for item in stays)
    needed = {need for item in stays for need in item.needs} | leased.names
    for item in stays:
        young = leased.since is not None and item.used >= leased.since - 2
        assert item.root or item.name in needed or young
