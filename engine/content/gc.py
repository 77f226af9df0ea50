"""What a prune removes: mark and sweep over the things in the state directory, under a policy. Pure; `prune` does it.

*Roots* are kept for their own sake (records, remembered images, cache mounts): a policy lets go of those that were not used
for long, or longest, until what is left fits. Everything else (blobs, unpacked layers, indexes) is kept as long as a root, or
a lease, or a thing kept for one of these reasons, needs it. What nothing needs goes, unless it was made or used since the
oldest running build began: that one may be about to record what it is for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from engine.content.leases import Leased, Name

CLOCK_SLACK = 2.0
"""Seconds by which a file's times may be behind the clock."""


class Item(Struct, frozen=True):
    """A thing in the state directory. `size` is what removing it frees, in bytes; `used` when it was last used, seconds since
    the epoch; `needs` the names of what must stay as long as it stays. `busy` means that a running build has it right now."""

    name: Name
    size: int
    used: float
    root: bool = False
    needs: tuple[Name, ...] = ()
    busy: bool = False


class Policy(Struct, frozen=True):
    """What to let go of. `all` means every root that no running build uses; `older_than` those unused for that many seconds;
    `keep_storage` the least recently used until no more than that many bytes are left. `kinds` limits it to roots of some
    kinds. The default lets go of no root, and removes only what nothing needs."""

    all: bool = False
    older_than: float | None = None
    keep_storage: int | None = None
    kinds: frozenset[str] = field(default_factory=frozenset)


class Verdict(Struct, frozen=True):
    """What goes, roots before what only they needed, and bytes: what that frees, and what stays."""

    remove: tuple[Item, ...]
    freed: int
    kept: int


def decide(items: Iterable[Item], leased: Leased, policy: Policy, now: float) -> Verdict:
    """What a policy removes; `now` is seconds since the epoch. Names that are leased or needed but are no items are ignored."""
    things = {item.name: item for item in items}
    roots = [item for item in things.values() if item.root and not item.busy and item.name not in leased.names]
    free = sorted((item for item in roots if not policy.kinds or item.name[0] in policy.kinds), key=lambda i: i.used)
    dropped = {item.name for item in free if _expired(item, policy, now)}
    since = float("inf") if leased.since is None else leased.since - CLOCK_SLACK
    young = [i.name for i in things.values() if not i.root and (i.busy or i.used >= since)]
    kept = [i.name for i in things.values() if i.root and i.name not in dropped]
    marks = _Marks(things, (*leased.names, *young, *kept))
    if policy.keep_storage is not None:
        for item in free:
            if marks.kept <= policy.keep_storage:
                break
            if item.name not in dropped:
                marks.drop(item.name)
    remove = [item for item in things.values() if not marks.stays(item.name)]
    remove.sort(key=lambda item: (not item.root, item.used, item.name))
    return Verdict(tuple(remove), sum(item.size for item in remove), marks.kept)


def _expired(item: Item, policy: Policy, now: float) -> bool:
    return policy.all or (policy.older_than is not None and now - item.used > policy.older_than)


class _Marks:
    """How many kept things need each thing; a thing with none goes, and takes its own needs with it."""

    def __init__(self, things: Mapping[Name, Item], kept: Iterable[Name]) -> None:
        self._things = things
        self._count: Counter[Name] = Counter()
        self.kept = 0
        for name in kept:
            self._take(name)

    def _take(self, name: Name) -> None:
        waiting = [name]
        while waiting:
            current = waiting.pop()
            item = self._things.get(current)
            if item is None:
                continue
            self._count[current] += 1
            if self._count[current] == 1:
                self.kept += item.size
                waiting.extend(item.needs)

    def drop(self, name: Name) -> None:
        """One reason less to keep a thing."""
        waiting = [name]
        while waiting:
            current = waiting.pop()
            item = self._things.get(current)
            if item is None or not self._count[current]:
                continue
            self._count[current] -= 1
            if not self._count[current]:
                self.kept -= item.size
                waiting.extend(item.needs)

    def stays(self, name: Name) -> bool:
        """Whether something still keeps a thing."""
        return self._count[name] > 0
