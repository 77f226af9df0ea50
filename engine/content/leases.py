"""Leases: what running builds use, so that a prune beside them leaves it alone.

A build holds one lease: a claimed file (see `claims`) into which it writes the name of a thing *before* it looks whether the
thing is there. A prune takes the gate for itself, reads the living leases, and moves what is not leased out of the way before
it opens the gate again; writers pass the gate together. So whatever a build finds after `protect` stays until the lease ends.
A killed build's lease ends with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from msgspec import Struct, field

from engine.content import claims
from engine.content.faults import storing

_PREFIX = "lease-"

Name = tuple[str, str]
"""A kind (`blob`, `layer`, `record`, `mount`) and what tells things of that kind apart (a digest, a key, an id)."""


class Leased(Struct, frozen=True):
    """What living leases name, and when the oldest of them began: seconds since the epoch, None when there is none."""

    names: frozenset[Name] = frozenset()
    since: float | None = None


class Lease(Struct, eq=False):
    """What one running build uses. It grows until it ends."""

    _path: Path
    _gate: int
    _fd: int
    _held: set[Name] = field(default_factory=set)

    async def protect(self, names: Iterable[Name]) -> None:
        """From when this returns, none of these is pruned before the lease ends. Whether they exist is to be asked after it."""
        new = [name for name in dict.fromkeys(names) if name not in self._held]
        if not new:
            return
        for kind, identity in new:
            if "\n" in identity or not kind or " " in kind:
                raise ValueError(f"not a name: {(kind, identity)!r}")
        await claims.lock(self._gate, shared=True)
        try:  # no await in here: other tasks of this build use the same descriptor
            with storing(self._path):
                os.write(self._fd, "".join(f"{kind} {identity}\n" for kind, identity in new).encode())
        finally:
            claims.unlock(self._gate)
        self._held.update(new)


class Leases:
    """The leases in a directory, those of other processes included."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._gate = directory / "gate"

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[Lease]:
        """A new lease, which ends with the block; raises `StorageError`."""
        with storing(self._directory):
            fd, path = claims.new_file(self._directory, f"{_PREFIX}{time.time_ns()}-")
            gate = self._open_gate()
        try:
            yield Lease(path, gate, fd)
        finally:
            with suppress(OSError):
                path.unlink()
            os.close(gate)
            os.close(fd)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[Leased]:
        """What is leased; for the time of the block no lease grows. Keep it short, for builds wait: move things out of the
        way inside, remove them after."""
        with storing(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            gate = self._open_gate()
        try:
            await claims.lock(gate, shared=False)
            yield self._read()
        finally:
            os.close(gate)

    def reclaim(self) -> None:
        """Removes the leases of builds that were killed."""
        for path in claims.entries(self._directory):
            if path.name.startswith(_PREFIX):
                with claims.abandoned(path) as dead, suppress(OSError):
                    if dead:
                        path.unlink()

    def _open_gate(self) -> int:
        return os.open(self._gate, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def _read(self) -> Leased:
        names: set[Name] = set()
        begun: list[int] = []
        for path in claims.entries(self._directory):
            if not path.name.startswith(_PREFIX):
                continue
            with claims.abandoned(path) as dead, suppress(OSError):
                if dead:
                    path.unlink()
                else:
                    names.update(_parse(path.read_text()))
                    begun.append(int(path.name.split("-")[1]))
        return Leased(frozenset(names), min(begun) / 1e9 if begun else None)


def _parse(text: str) -> Iterable[Name]:
    for line in text.splitlines():
        kind, space, identity = line.partition(" ")
        if space:
            yield kind, identity

