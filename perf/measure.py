"""Runs a command and tells what it took: wall time, processor time, and (in runs of their own, since looking costs time too) the
memory of all of its processes together."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run took: seconds of wall time and of all processors, bytes of memory (0 when it was not looked at), bytes over
    the loopback, and the load of the machine before it."""

    seconds: float
    cpu: float
    memory: int
    moved: int
    load: float


class Failed(Exception):
    """A command ended with an error; the text is the end of what it said."""


def run(argv: Sequence[str], env: Mapping[str, str], *, memory: bool = False, log: Path, daemons: Sequence[int] = (),
        limit: float | None = None) -> Taken:  # fmt: skip
    """Runs a command to its end, or for `limit` seconds. With `memory` its processes' PSS is summed up 20 times a second, and the
    peak is kept: PSS counts shared pages once, where RSS would count the pages of a forked process again for each fork. What
    `daemons` (ids of processes) and their children do and hold counts too. Raises `Failed`, also when the limit is reached."""
    adopt()
    load, moved, busy = os.getloadavg()[0], _loopback(), _busy(daemons)
    began = time.perf_counter()
    try:
        with open(log, "wb") as out:
            process = subprocess.Popen(argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       start_new_session=True)  # fmt: skip
        watch = _Watch([process.pid, *daemons]) if memory else None
        _await(process.pid, limit)
    except BaseException:  # who is interrupted leaves nothing running, either
        end(_OWN)
        raise
    seconds = time.perf_counter() - began
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = watch.stop() if watch else 0
    end(_OWN)
    if process.returncode:
        if limit is not None and seconds >= limit:
            raise Failed(f"stopped after {seconds:.0f} s, which was the limit")
        raise Failed(f"{' '.join(argv)}: exit code {process.returncode}: {log.read_text(errors='replace')[-800:]}")
    return Taken(seconds, usage.ru_utime + usage.ru_stime + _busy(daemons) - busy, peak, _loopback() - moved, load)


def _await(pid: int, limit: float | None) -> None:
    """Waits until a process has ended, which it is made to at the limit, with all of its group. It is not reaped: until then its
    number is no other group's."""
    timer = threading.Timer(limit, os.killpg, (pid, signal.SIGKILL)) if limit is not None else None
    if timer:
        timer.start()
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    finally:
        if timer:
            timer.cancel()
            timer.join()


def _busy(roots: Sequence[int]) -> float:
    """Seconds of processor time that these processes, their children, and what they have reaped have used."""
    ticks = 0
    for pid in {pid for root in roots for pid in _family(root, _OWN)}:
        try:
            ticks += sum(int(field) for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def _loopback() -> int:
    """Bytes that the loopback of this network namespace has carried. (/sys shows that of the namespace it was mounted in.)"""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[0])
    return 0


def adopt() -> None:
    """Makes this process the one whose children those become that have lost their parent: they are ours to count and to end."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end(but: Collection[int] = ()) -> None:
    """Ends all processes that have come of this one, but for some and what has come of them: what a builder has left running must
    not disturb the next run."""
    while left := _family(os.getpid(), but) - {os.getpid()}:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with suppress(ChildProcessError):  # not yet ours: its parent has just been ended
                os.waitpid(pid, 0)


_OWN: set[int] = set()
"""Processes that the harness has started for itself: the registry."""


def own(pid: int) -> None:
    """Notes a process that is not part of what is measured, or is for its own reasons (`daemons`)."""
    _OWN.add(pid)


def disown(pid: int) -> None:
    """Forgets a process that has ended."""
    _OWN.discard(pid)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _family(root: int, but: Collection[int]) -> set[int]:
    """A process and all below it, without some and those below them."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(_parent(int(name)), []).append(int(name))
    out, todo = {root}, [root]
    while todo:
        for pid in children.get(todo.pop(), ()):
            if pid not in but:
                out.add(pid)
                todo.append(pid)
    return out


class _Watch:
    def __init__(self, roots: Sequence[int]) -> None:
        self._roots, self._peak, self._ended = roots, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            pids = {pid for root in self._roots for pid in _family(root, _OWN)}
            self._peak = max(self._peak, sum(_pss(pid) for pid in pids))

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak


def _pss(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) << 10
    except (OSError, ValueError):
        return 0
