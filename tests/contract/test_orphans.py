"""Processes that end with the one above them, although that was killed before they could ask the kernel for it (prctl(2),
PR_SET_PDEATHSIG)."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from engine.isolate import command
from engine.isolate.base import DirectoryRoot, IdMap, RunSpec
from engine.isolate.host import Streams
from engine.isolate.supervise import Watch
from engine.workers.forkserver import work


def fork(what: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            what()
        finally:
            os._exit(0)
    return pid


def kill_parent() -> None:
    parent = os.getppid()
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        os.sched_yield()


def test_a_worker_ends_with_its_fork_server() -> None:
    ours, theirs = socket.socketpair()

    def server() -> None:
        me = os.getpid()

        def worker() -> None:
            ours.close()
            kill_parent()
            work(theirs.fileno(), me)

        fork(worker)
        signal.pause()

    os.waitpid(fork(server), 0)
    theirs.close()
    ours.settimeout(30)
    assert ours.recv(1) == b""  # nobody has the other end any more
    ours.close()


def test_a_command_ends_with_its_supervisor() -> None:
    read, write = os.pipe()
    root = DirectoryRoot("/")
    spec = RunSpec(root, ("/bin/sh", "-c", "echo it ran"), (), "/", os.geteuid(), os.getegid())

    def supervisor() -> None:
        os.close(read)
        control, _ = socket.socketpair()
        streams = Streams(os.open("/dev/null", os.O_RDONLY), write, write, control.fileno())
        command.run(spec, IdMap("single"), streams, Watch(control.fileno()), enter=kill_parent,
                    kill=lambda pid: os.kill(pid, signal.SIGKILL))

    os.waitpid(fork(supervisor), 0)
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == b""
