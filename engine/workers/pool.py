"""The pool: workers and commands, as the event loop sees them. `forkserver` explains which process does what."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import anyio

from engine.errors import IsolationError, StorageError
from engine.isolate.base import Environment, RunOutcome, RunSpec
from engine.progress.spans import span
from engine.settings import Settings
from engine.workers.base import OutputSink

if TYPE_CHECKING:  # a build whose steps are all known starts no process
    from engine.workers.channel import Channel
    from engine.workers.server import Server
    from engine.workers.spawn import Spawned

T = TypeVar("T")

LARGEST_IDLE = 64 << 20
"""Bytes. A worker process that has more of them after a job is not kept for the next one: what a job has used is seldom given back
to the system, and a new process is forked in a few milliseconds."""

_GRACE = 10.0
"""Seconds that a supervisor has to end its command and clean up, before it is killed too."""


class _Worker:
    """One worker process: its socket and process id."""

    def __init__(self) -> None:
        from engine.workers.channel import Channel

        self.channel = Channel()
        self.pid = 0


class WorkerPool:
    """Implements `Workers`. `limit` bounds the jobs that run at once; `scratch` is a directory, made if need be, for what lives
    no longer than a run, on the filesystem of the state directory. Nothing is started before it is needed; `spawned` is the
    process of a fork server that has been, and is the pool's from now on.

    Every method raises `IsolationError` when the fork server has died, or cannot give what the settings insist on.
    """

    def __init__(self, settings: Settings, limit: anyio.CapacityLimiter, scratch: Path,
                 spawned: Spawned | None = None) -> None:
        self._settings = settings
        self._limit = limit
        self._scratch = scratch.absolute()
        self._spawned = spawned
        self._idle: list[_Worker] = []
        self._server: Server | None = None
        self._environment: Environment | None = None
        self._starting = anyio.Lock()
        self._closed = False

    async def environment(self) -> Environment:
        """See `Workers.environment`. Starts the fork server."""
        await self._started()
        assert self._environment is not None
        return self._environment

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """See `Workers.call`. A full disk in the job is a `StorageError`."""
        async with self._limit:
            worker = self._idle.pop() if self._idle else await self._fork_worker()
            try:
                with span("workers", function.__qualname__):
                    await worker.channel.send((function, args))
                    args = ()  # they can be large
                    ok, result = await worker.channel.receive()
            except EOFError:
                await self._end_worker(worker)
                raise IsolationError(f"a worker process died while it ran {function.__qualname__}",
                                     hint="was it killed for lack of memory?") from None
            except BaseException:
                await self._end_worker(worker)
                raise
            if self._closed:
                worker.channel.close()
            elif _resident(worker.pid) > LARGEST_IDLE:
                await self._forget(worker.pid)
                worker.channel.close()
            else:
                self._idle.append(worker)
        if ok:
            return result  # type: ignore[no-any-return]  # what the function returned, unpickled
        if isinstance(result, OSError) and result.errno in (ENOSPC, EDQUOT):
            raise StorageError(f"{result.filename or 'the state directory'}: {result.strerror}",
                               hint="free some space, or choose another --state-dir") from result
        raise result

    @asynccontextmanager
    async def run(self, spec: RunSpec, output: OutputSink) -> AsyncIterator[RunOutcome]:
        """See `Workers.run`. A command that cannot be executed writes why to its standard error and ends with 127 (not found)
        or 126, as in a shell."""
        environment = await self.environment()
        if environment.isolation is None:
            raise IsolationError("RUN is not possible here: " + "; ".join(environment.reasons))
        server = await self._started()
        from engine.workers.streams import RunStreams

        with RunStreams(spec.stdin) as streams:
            pid = await server.request(("run", spec), streams.theirs)
            try:
                streams.given()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(streams.pump, output)
                    try:
                        with span("commands", " ".join(spec.argv)[:200]):
                            ok, result = await streams.control.receive()
                    except EOFError:
                        ok, result = False, IsolationError("the process that watched over the command has died")
                        tasks.cancel_scope.cancel()
                if isinstance(result, ConnectionError):  # as in `Server`
                    raise IsolationError("a process died that was to start the command") from result
                if not ok:
                    raise result
                yield RunOutcome(result)
            finally:
                await self._end_run(pid, streams.control)

    async def aclose(self) -> None:
        """See `Workers.aclose`. Jobs and commands that are still running end with an `IsolationError`."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            async with self._starting:
                server, self._server = self._server, None
                while self._idle:
                    self._idle.pop().channel.close()
                if server is not None:
                    await server.aclose()
                elif self._spawned is not None:
                    self._spawned.close()

    async def __aenter__(self) -> WorkerPool:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        traceback: TracebackType | None) -> None:
        await self.aclose()

    async def _started(self) -> Server:
        if self._server is None:
            async with self._starting:
                if self._closed:
                    raise RuntimeError("the pool is closed")
                if self._server is None:
                    from engine.isolate.probe import Wishes
                    from engine.workers.server import Server
                    from engine.workers.spawn import spawn

                    self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
                    wishes = Wishes(self._settings.isolation, self._settings.snapshots, str(self._scratch))
                    with span("workers", "start of the fork server"):
                        spawned, self._spawned = self._spawned or spawn(), None
                        self._server, self._environment = await Server.start(spawned, wishes)
        return self._server

    async def _fork_worker(self) -> _Worker:
        server = await self._started()
        worker = _Worker()
        try:
            worker.pid = await server.request(("worker", None), [worker.channel.other.fileno()])
        except BaseException:
            worker.channel.close()
            raise
        worker.channel.other.close()
        return worker

    async def _end_worker(self, worker: _Worker) -> None:
        """Kills a worker, unless it is dead, and waits until it is."""
        with anyio.CancelScope(shield=True):
            await self._forget(worker.pid)
            await worker.channel.ended()
            worker.channel.close()

    async def _end_run(self, pid: int, control: Channel) -> None:
        """Waits until a supervisor has ended its command and itself, which it does as soon as we say nothing more."""
        with anyio.CancelScope(shield=True):
            control.finish()
            with anyio.move_on_after(_GRACE):
                await control.ended()
            await self._forget(pid)
            await control.ended()

    async def _forget(self, pid: int) -> None:
        if self._server is not None:
            with suppress(IsolationError):
                await self._server.request(("end", pid))


def _resident(pid: int) -> int:
    """Bytes of a process that are in memory (proc_pid_statm(5)); 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
