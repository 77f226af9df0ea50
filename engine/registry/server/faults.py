"""Faults on request: what a registry, or the network before it, does wrong, as data. Tests use them, and people who want to
see how a client copes.

A fault is used up by the requests it matches, in the order in which faults were added; one request meets one fault at most.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Kind = Literal[
    "status", "throttle", "stall", "reset", "truncate", "corrupt", "slow",
    "lost-upload", "wrong-digest", "no-mount", "no-range", "immutable", "read-only",
]  # fmt: skip
"""What happens:

`status`        the answer is `status` (500 if not told), with the error code `code`
`throttle`      the answer is 429 with Retry-After: `retry_after`
`stall`         the answer comes after `delay` seconds
`reset`         the connection is reset: before the answer, or with `after` when so many bytes of the body have passed (of the
                request's body if it has one; the registry keeps what has arrived)
`truncate`      the answer's body ends after `after` bytes (half of it, if not told) and the connection is closed
`corrupt`       one byte of the answer's body is another
`slow`          the body (the request's, if it has one) takes `delay` seconds for every `after` bytes (16 KiB)
`lost-upload`   the upload a request continues is gone: 404
`wrong-digest`  Docker-Content-Digest names other content than what was asked for
`no-mount`      a mount is refused and becomes an upload, as the specification allows
`no-range`      the answer to a Range request is the whole content
`immutable`     a tag that exists cannot be put again with another manifest: 403 DENIED, or `status`
`read-only`     what would change something is refused: 405 UNSUPPORTED, or `status`
"""


class Fault(Struct, frozen=True):
    """`kind` happens to the next `times` requests (None: to all) whose method and path the regular expressions match whole,
    after `skip` of them have been let pass."""

    method: str = ".*"
    path: str = ".*"
    times: int | None = 1
    kind: Kind = "status"
    skip: int = 0
    status: int = 0
    code: str = "UNKNOWN"
    retry_after: str = "0"
    after: int | None = None
    delay: float = 0.0

    def __post_init__(self) -> None:
        re.compile(self.method)
        re.compile(self.path)

    def matches(self, method: str, path: str) -> bool:
        """Whether the fault is meant for a request."""
        return bool(re.fullmatch(self.method, method) and re.fullmatch(self.path, path))


class FaultPlan:
    """The faults still to come."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._pending: list[tuple[Fault, list[int]]] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """One more fault, after those that are there."""
        self._pending.append((fault, [0]))

    def clear(self) -> None:
        """No more faults."""
        self._pending.clear()

    @property
    def pending(self) -> tuple[Fault, ...]:
        """The faults that are not used up."""
        return tuple(fault for fault, _ in self._pending)

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that a request meets, which counts as used."""
        for entry in self._pending:
            fault, seen = entry
            if not fault.matches(method, path):
                continue
            seen[0] += 1
            if seen[0] <= fault.skip:
                continue
            if fault.times is not None and seen[0] >= fault.skip + fault.times:
                self._pending.remove(entry)
            return fault
        return None
