"""Kills builds, for `test_cache_killed`. A process with everything imported forks them, since Python starts more slowly than they run.

It is the reaper of all that they leave behind, and so sees whether anything does not end. Its argument is a JSON file, see `Plan`;
it ends with a traceback if anything is wrong, and else prints how often what came of it.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 60.0
"""Seconds after which a process that has not ended hangs."""
CLEAR = (5, 8, 10, 11)
"""The exit codes that a build may have whose worker, or RUN, was killed: see docs/cli.md."""


@dataclass(frozen=True)
class Plan:
    """What to do. `contexts` are directories, `flags` those of every build; `verify_every` counts rounds."""

    state: str
    contexts: list[str]
    flags: list[str]
    rounds: int
    seed: int
    verify_every: int
    scratch: str


class Killer:
    """The rounds, over one state directory."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._dice = random.Random(plan.seed)
        self._counts: Counter[str] = Counter()
        self._expected: dict[str, str] = {}
        self._durations: dict[str, float] = {}

    def run(self) -> Counter[str]:
        """Each round something is killed, and then a build must be right."""
        for number, context in enumerate(self._plan.contexts):
            elsewhere = f"{self._plan.scratch}/fresh{number}"
            self._expected[context] = self._finish(self._build(context, elsewhere))
            before = time.monotonic()
            assert self._finish(self._build(context, elsewhere, "--no-cache")) == self._expected[context]
            self._durations["build"] = time.monotonic() - before
            before = time.monotonic()
            self._finish(self._build(context, elsewhere))
            self._durations["again"] = self._durations["prune"] = time.monotonic() - before
        self._finish(self._build(self._plan.contexts[0], self._plan.state))  # so that there is something to prune
        for number in range(self._plan.rounds):
            context = self._dice.choice(self._plan.contexts)
            self._one(context)
            digest = self._finish(self._build(context, self._plan.state))
            assert digest == self._expected[context], f"round {number}: {digest} is not {self._expected[context]}"
            if number % self._plan.verify_every == 0 or number == self._plan.rounds - 1:
                self._finish(["cache", "verify", "--state-dir", self._plan.state])
                self._counts["verified"] += 1
        self._finish(["cache", "prune", "--state-dir", self._plan.state])  # no build that needs roots may have come after the last
        return self._counts

    def _build(self, context: str, state: str, *flags: str) -> list[str]:
        return ["build", "--state-dir", state, "-q", *flags, *self._plan.flags, context]

    def _one(self, context: str) -> None:
        """Something is begun, and somebody of it killed at a random moment."""
        what = self._dice.choice(("build", "build", "build", "again", "prune"))
        words = {"build": self._build(context, self._plan.state, "--no-cache"), "again": self._build(context, self._plan.state),
                 "prune": ["cache", "prune", "--all", "--state-dir", self._plan.state]}[what]  # fmt: skip
        whom = self._dice.choice(("main", "group", "other", "other"))
        child = self._start(words, "killed")
        if whom == "other":
            self._wait_for_others(child)
        time.sleep(self._dice.uniform(0, self._durations[what]))
        if whom == "other":
            killed = self._kill_one_of(descendants(child))
            status = self._wait(child, "killed")
            code = os.waitstatus_to_exitcode(status)
            said = self._said("killed")
            assert code in (0, *CLEAR), f"{what} ended with {code}: {said}"
            if code:
                self._counts[f"{what} said: {said.splitlines()[-1]}"] += 1
            self._counts[f"{what}: a {killed} killed, {'failed clearly' if code else 'went on'}"] += 1
        else:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL) if whom == "main" else os.killpg(child, signal.SIGKILL)
            status = self._wait(child, "killed")
            self._counts[f"{what}: {'killed' if os.WIFSIGNALED(status) else 'ended before'}"] += 1
        self._reap()
        with open("/proc/self/mountinfo") as mounts:
            assert self._plan.state not in mounts.read(), "a mount is left"

    @staticmethod
    def _wait_for_others(child: int) -> None:
        """Until a process has begun others, or ended."""
        while not descendants(child) and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)

    def _kill_one_of(self, pids: list[int]) -> str:
        if pids:
            pid = self._dice.choice(pids)
            with suppress(OSError):
                name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
                os.kill(pid, signal.SIGKILL)
                return "command" if "busybox" in name else "worker"
        return "nobody"

    def _start(self, words: list[str], name: str) -> int:
        child = os.fork()
        if child:
            return child
        code = 99
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for fd, end in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{self._plan.scratch}/{name}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
            from engine.cli.main import main

            signal.signal(signal.SIGUSR1, lambda *_: tell_tasks())
            code = main(words)
        finally:
            os._exit(code)

    def _finish(self, words: list[str]) -> str:
        """Runs a command that must go well; what it writes to standard output."""
        code = os.waitstatus_to_exitcode(self._wait(self._start(words, "whole"), "whole"))
        assert code == 0, f"{words} ended with {code}: {self._said('whole')}"
        self._reap()
        return Path(f"{self._plan.scratch}/whole.out").read_text().strip()

    def _said(self, name: str) -> str:
        return "".join(Path(f"{self._plan.scratch}/{name}.{end}").read_text() for end in ("out", "err"))

    def _wait(self, child: int, name: str) -> int:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return status
            time.sleep(0.002)
        os.kill(child, signal.SIGUSR1)
        time.sleep(1)
        raise AssertionError(f"it hangs, with {descendants(child)} below it: {self._said(name)}")

    def _reap(self) -> None:
        """Until nothing of it is left."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                time.sleep(0.002)
        left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(os.getpid())]
        raise AssertionError(f"processes are left: {left}")


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    todo = [pid]
    while todo:
        with suppress(OSError):
            each = todo.pop()
            for task in os.listdir(f"/proc/{each}/task"):
                children = [int(child) for child in Path(f"/proc/{each}/task/{task}/children").read_text().split()]
                found += children
                todo += children
    return found


def tell_tasks() -> None:
    """Writes to standard error what every task of the running event loop waits for."""
    for task in asyncio.all_tasks():
        print(task.get_name(), file=sys.stderr)
        at: Any = task.get_coro()
        while at is not None:
            frame = getattr(at, "cr_frame", None) or getattr(at, "ag_frame", None) or getattr(at, "gi_frame", None)
            print(f"  {frame.f_code.co_filename}:{frame.f_lineno}" if frame else f"  {at!r}", file=sys.stderr)
            at = getattr(at, "cr_await", None) or getattr(at, "ag_await", None) or getattr(at, "gi_yieldfrom", None)
    sys.stderr.flush()


def main() -> None:
    """Does what the file says."""
    import engine.api
    import engine.cache.tiers
    import engine.cli.build
    import engine.cli.cache
    import engine.cli.loop
    import engine.cli.main
    import engine.registry.client
    import engine.solve.build
    import engine.solve.steps.copy
    import engine.solve.steps.run
    import engine.upkeep  # noqa: F401

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    counts = Killer(Plan(**json.loads(Path(sys.argv[1]).read_text()))).run()
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
