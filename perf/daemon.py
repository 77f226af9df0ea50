"""Daemons that peers need: private ones, with their own socket and state, started for the benchmark and ended with it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from perf import measure

_PATIENCE = 30.0
"""Seconds that a daemon has to start answering, and to end."""


class Daemon:
    """A process that is started, asked until it answers, and ended."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        """The daemon's process; its children are found from it."""
        return (self._process.pid,) if self._process else ()

    def start(self, argv: Sequence[str], log: Path, answers: Callable[[], bool]) -> None:
        """Starts it, and waits until it answers. Raises SystemExit with the end of its log when it does not."""
        with open(log, "wb") as out:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        measure.own(self._process.pid)
        until = time.monotonic() + _PATIENCE
        while not answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise SystemExit(f"{self._name} does not start: {log.read_text(errors='replace')[-800:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it, if it runs."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        measure.disown(self._process.pid)
        self._process = None


def unmount_below(directory: Path) -> None:
    """Takes off the mounts that a builder has left under its state."""
    below = os.fsencode(directory) + b"/"
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_bytes().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(below)), reverse=True):
        subprocess.run([b"umount", b"--lazy", mount], stderr=subprocess.DEVNULL, check=False)
