"""Equal work runs once: among the tasks of a process, and among the processes of a machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import anyio
from msgspec import Struct, field

from engine.content import claims
from engine.content.faults import storing

T = TypeVar("T")


class _Flight(Struct, Generic[T], eq=False):
    """One piece of work on its way."""

    waiters: int = 0
    scope: anyio.CancelScope = field(default_factory=lambda: anyio.CancelScope(shield=True))
    landed: anyio.Event = field(default_factory=anyio.Event)
    result: T | None = None
    error: Exception | None = None
    ended: bool = False
    """Whether the work came to a result or an error: it did not if it was cancelled from within."""


class SingleFlight:
    """Work by key. Who asks for work that is under way waits for it and gets its result, or its error.

    Work runs inside the call that began it, and may use what lives as long as that call. It is cancelled when the last of those
    who wait for it leaves, not when the first does; who began it, when cancelled, stays until nobody else waits. Should the work
    itself be cancelled by something else, the next who waits runs it anew.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[Any]] = {}

    async def run(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, or that of equal work under way; raises what the work raises."""
        while True:
            flight = cast("_Flight[T] | None", self._flights.get(key))
            if flight is not None:
                await self._wait(key, flight)
            else:
                flight = self._flights[key] = _Flight()
                async with anyio.create_task_group() as group:
                    group.start_soon(self._fly, key, flight, work)
                    await self._wait(key, flight)
            if flight.ended:
                if flight.error is not None:
                    raise flight.error
                return cast("T", flight.result)

    async def _fly(self, key: Hashable, flight: _Flight[T], work: Callable[[], Awaitable[T]]) -> None:
        try:
            with flight.scope:
                try:
                    flight.result = await work()
                except Exception as error:
                    flight.error = error
                flight.ended = True
        except anyio.get_cancelled_exc_class():
            pass  # it came from within, for the scope is shielded; let out, it would cancel all the group
        finally:
            self._forget(key, flight)
            flight.landed.set()

    async def _wait(self, key: Hashable, flight: _Flight[T]) -> None:
        flight.waiters += 1
        try:
            await flight.landed.wait()
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.landed.is_set():
                self._forget(key, flight)  # whoever comes now must not join work that is being cancelled
                flight.scope.cancel()
                with anyio.CancelScope(shield=True):
                    await flight.landed.wait()  # when the last one has left, nothing of the work is left either

    def _forget(self, key: Hashable, flight: _Flight[Any]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class _Turn(Struct, eq=False):
    """A lock of `Turns`, and how many hold it or wait for it."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    users: int = 0


class Turns:
    """Locks by key among the tasks of a process: those who wait get their turn in the order in which they came."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, _Turn] = {}

    @asynccontextmanager
    async def take(self, key: Hashable) -> AsyncIterator[None]:
        """Has the key to itself for the time of the block. Waiting may be cancelled."""
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]


class FileLocks:
    """Locks by name between processes, as files in a directory. The system opens a lock whose holder dies."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @asynccontextmanager
    async def hold(self, name: str, *, shared: bool = False) -> AsyncIterator[None]:
        """Has the lock to itself, or with others that share it, for the time of the block. Waiting may be cancelled. Raises
        `StorageError`."""
        path = self._path(name)
        fd = await self._acquire(path, shared)
        try:
            yield
        finally:
            self._release(fd, path)

    @contextmanager
    def attempt(self, name: str) -> Iterator[bool]:
        """Whether the lock was free; then it is held for the time of the block. Never waits."""
        path = self._path(name)
        fd = self._open(path)
        while (taken := claims.try_lock(fd)) and not claims.is_at(fd, path):
            os.close(fd)
            fd = self._open(path)
        try:
            yield taken
        finally:
            if taken:
                self._release(fd, path)
            else:
                os.close(fd)

    async def _acquire(self, path: Path, shared: bool) -> int:
        while True:
            fd = self._open(path)
            try:
                await claims.lock(fd, shared=shared)
                if claims.is_at(fd, path):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # its last holder removed the file while we waited

    def _path(self, name: str) -> Path:
        return self._directory / hashlib.sha256(name.encode()).hexdigest()

    def _open(self, path: Path) -> int:
        with storing(path):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                return os.open(path, flags, 0o644)
            except FileNotFoundError:
                self._directory.mkdir(parents=True, exist_ok=True)
                return os.open(path, flags, 0o644)

    @staticmethod
    def _release(fd: int, path: Path) -> None:
        try:
            with suppress(OSError):
                if claims.try_lock(fd) and claims.is_at(fd, path):  # nobody shares it: the file can go
                    path.unlink()
        finally:
            os.close(fd)


async def once(turns: Turns, locks: FileLocks, name: str, look: Callable[[], Awaitable[T | None]],
               work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:  # fmt: skip
    """Does work whose result others can look up, once on this machine. Returns the result, and whether it was made here.

    Who finds nothing waits for its turn, among the tasks of this process and then among the processes, and looks again, for who
    was before it may have done the work. If that one failed or was cancelled, it does its own: work belongs to who began it, with
    the files, secrets and mounts that only that one has.
    """
    found = await look()
    if found is not None:
        return found, False
    async with turns.take(name), locks.hold(name):
        found = await look()
        return (found, False) if found is not None else (await work(), True)
