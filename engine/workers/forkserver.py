"""The fork server: the one process of an engine that workers and RUN supervisors are forked from.

It imports nothing with threads (a process that has some can't make a user namespace), enters the best environment there is
(`engine.isolate.probe`), and then forks on request; a fork of this small process costs a millisecond or two, where a fresh
interpreter costs fifty. It answers every request at once and never waits for what it has forked, except at the end: when the
event-loop process closes the channel, or is killed, the workers are killed, the supervisors (whose control sockets have
closed too) end their commands, and the fork server goes last.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module

from engine.isolate import syscalls
from engine.isolate.base import Environment, RunSpec
from engine.isolate.host import Host, Streams
from engine.isolate.probe import Wishes, enter
from engine.workers import jobs, wire

JOBS = ("engine.layer.pack", "engine.snapshot.jobs", "engine.snapshot.upper")
"""The modules of the jobs that most builds have. They are imported once, before workers are forked, and not by each of them; they
start no threads."""


def main() -> None:
    """Serves the channel on descriptor 0 until it ends."""
    channel = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.umask(0o022)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is the event-loop process's to handle
    for name in JOBS:
        import_module(name)
    try:
        wishes, _ = wire.receive(channel)
        environment = enter(wishes)
    except Exception as error:
        wire.send(channel, (False, error))
        return
    wire.send(channel, (True, environment))
    server = ForkServer(channel, environment, wishes)
    gc.collect()
    gc.freeze()  # what is not looked at need not be copied by those we fork
    gc.disable()
    server.serve()


class ForkServer:
    """The state of the process: its children."""

    def __init__(self, channel: socket.socket, environment: Environment, wishes: Wishes) -> None:
        self._channel = channel
        self._host = Host(environment, wishes.scratch)
        self._supervise = _supervisor(environment)
        self._workers: set[int] = set()
        self._supervisors: set[int] = set()
        self._dying: set[int] = set()

    def serve(self) -> None:
        """Answers requests until there are no more."""
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        if self._host.environment.isolation == "chroot":  # who loses a supervisor is ours to end
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        while True:
            ready, _, _ = select.select([self._channel.fileno(), woken], [], [])
            if woken in ready:
                os.read(woken, 4096)
                self._reap()
            if self._channel.fileno() in ready and not self._answer():
                break
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        for pid in self._workers | self._supervisors | self._dying:
            os.waitpid(pid, 0)

    def _answer(self) -> bool:
        """Answers one request; False when there are no more."""
        try:
            request, fds = wire.receive(self._channel)
        except EOFError:
            return False
        try:
            answer: tuple[bool, object] = (True, self._do(request, fds))
        except OSError as error:
            answer = (False, error)
        for fd in fds:
            os.close(fd)
        with suppress(BrokenPipeError):
            wire.send(self._channel, answer)
        return True

    def _do(self, request: tuple[str, object], fds: list[int]) -> int | None:
        match request:
            case ("worker", None):
                server = os.getpid()
                pid = self._fork(fds, lambda: work(fds[0], server))
                self._workers.add(pid)
                return pid
            case ("run", RunSpec() as spec):
                pid = self._fork(fds, lambda: self._run(spec, Streams(*fds)))
                self._supervisors.add(pid)
                return pid
            case ("end", int(pid)):
                return self._end(pid)
        raise ValueError(f"unknown request {request!r}")

    def _run(self, spec: RunSpec, streams: Streams) -> None:
        """In a child: watches over a command, and reports how it ended on the control socket."""
        control = socket.socket(fileno=os.dup(streams.control))

        def report(answer: tuple[bool, object]) -> None:
            for fd in (streams.stdin, streams.stdout, streams.stderr):  # the end of what it writes
                os.close(fd)
            with suppress(BrokenPipeError, ConnectionResetError):  # nobody waits any more
                wire.send(control, answer)

        try:
            self._supervise(spec, self._host, streams, lambda status: report((True, status)))
        except Exception as error:
            report((False, error))

    def _fork(self, keep: Iterable[int], what: Callable[[], None]) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._channel.close()
            _close_others(keep)
            what()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)

    def _end(self, pid: int) -> int | None:
        """Kills a child unless it has ended already, and returns its wait status in that case."""
        if pid not in self._workers | self._supervisors:
            return None
        supervisor = pid in self._supervisors
        self._workers.discard(pid)
        self._supervisors.discard(pid)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            self._dying.add(pid)
        if supervisor and self._host.environment.isolation == "chroot" and (not ended or os.WIFSIGNALED(status)):
            self._end_orphans(pid)
        return status if ended else None

    def _end_orphans(self, supervisor: int) -> None:
        """Ends what a supervisor that was killed has left behind."""
        from engine.isolate.chroot import end_descendants

        if supervisor in self._dying:
            os.waitpid(supervisor, 0)
            self._dying.discard(supervisor)
        end_descendants(but=self._workers | self._supervisors | self._dying)

    def _reap(self) -> None:
        for pid in list(self._dying):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._dying.discard(pid)


def _close_others(keep: Iterable[int]) -> None:
    last = 2
    for fd in sorted(keep):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, 1 << 16)


def work(fd: int, server: int) -> None:
    """Is a worker process, which serves the socket `fd`, until that or the process `server`, its parent, ends."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it has been killed already: nobody would end us
        return
    gc.enable()
    jobs.serve(socket.socket(fileno=fd))


def _supervisor(environment: Environment) -> Callable[[RunSpec, Host, Streams, Callable[[int], None]], None]:
    """What supervises a command here, imported before the first fork and not after each."""
    if environment.isolation == "chroot":
        from engine.isolate import chroot

        return chroot.supervise
    from engine.isolate import userns

    return userns.supervise
