"""The process of a fork server. It can be started before there is an event loop, and before the modules are imported that are going
to talk to it: on a machine with two cores it is ready by then."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

# `engine` as a bare package: its own __init__ could bring in everything there is, event loop included.
_BOOT = """
import sys, types
sys.path[:] = sys.argv[2:]
engine = sys.modules["engine"] = types.ModuleType("engine")
engine.__path__ = [sys.argv[1]]
from engine.workers.forkserver import main
main()
"""

_PACKAGE = Path(__file__).parent.parent


class Spawned:
    """A process that is or is going to be a fork server: its socket, of which it has the other end, and where its errors go. A
    context manager: leaving it kills the process, unless it has been waited for."""

    def __init__(self, process: subprocess.Popen[bytes], pair: tuple[socket.socket, socket.socket], log: int) -> None:
        self.process = process
        self.pair = pair
        self._log = log
        self._closed = False

    def last_words(self) -> str:
        """The last line of what the process has written to its standard error."""
        if self._closed:
            return ""
        lines = os.pread(self._log, 1 << 16, 0).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """Kills the process, unless it has been waited for, and lets go of everything; may be called again."""
        if self._closed:
            return
        self._closed = True
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        for end in self.pair:
            end.close()
        os.close(self._log)

    def __enter__(self) -> Spawned:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def spawn() -> Spawned:
    """Starts the process; it waits to be told what is wanted of it (`Server.start`)."""
    log = os.memfd_create("forkserver")
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    path = [str(_PACKAGE.parent), *(os.path.abspath(entry) for entry in sys.path)]
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _BOOT, str(_PACKAGE), *path],
                               stdin=pair[1].fileno(), stdout=subprocess.DEVNULL, stderr=log, cwd="/")
    pair[1].close()
    return Spawned(process, pair, log)
