"""The fork server as the event loop sees it: starting it, asking it, ending it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from engine.errors import IsolationError
from engine.isolate.base import Environment
from engine.isolate.probe import Wishes
from engine.workers.channel import Channel

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

_GRACE = 15.0
"""Seconds that the fork server has for ending its children and itself."""


class Server:
    """A running fork server. One request at a time; a request, once sent, is not given up, even by a cancelled task."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel, log: int) -> None:
        self._process = process
        self._channel = channel
        self._log = log
        self._turn = anyio.Lock()

    @staticmethod
    async def start(wishes: Wishes, modules: Sequence[str] = ()) -> tuple[Server, Environment]:
        """Starts one; returns it and what it found. It imports the modules, which start no threads, for those it forks. Raises
        `IsolationError`."""
        server = _spawn()
        with anyio.CancelScope(shield=True):
            try:
                environment: Environment = await server._exchange((wishes, tuple(modules)), ())
            except BaseException:
                await server.aclose()
                raise
        return server, environment

    async def request(self, request: object, fds: Sequence[int] = ()) -> Any:
        """Sends a request with descriptors and returns the answer; raises what the server raises, and `IsolationError` when
        it is dead."""
        async with self._turn:
            with anyio.CancelScope(shield=True):
                return await self._exchange(request, fds)

    async def _exchange(self, request: object, fds: Sequence[int]) -> Any:
        try:
            await self._channel.send(request, fds)
            ok, answer = await self._channel.receive()
        except EOFError:
            raise IsolationError(f"the fork server has died{self._last_words()}") from None
        if ok:
            return answer
        if isinstance(answer, ConnectionError):  # a broken pipe of its own, which is not to be taken for one of ours
            raise IsolationError("a process died that makes ready what commands run in") from answer
        raise answer

    def _last_words(self) -> str:
        text = os.pread(self._log, 1 << 16, 0).decode(errors="replace").strip()
        return f": {text.splitlines()[-1]}" if text else ""

    async def aclose(self) -> None:
        """Ends it and everything it has forked."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_GRACE) as waiting:
                self._channel.finish()
                await self._channel.ended()
            if waiting.cancelled_caught:
                self._process.kill()
            self._channel.close()
            self._process.wait()  # it has closed its end, so it is ending
            os.close(self._log)


def _spawn() -> Server:
    log = os.memfd_create("forkserver")
    channel = Channel()
    path = [str(_PACKAGE.parent), *(os.path.abspath(entry) for entry in sys.path)]
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _BOOT, str(_PACKAGE), *path],
                               stdin=channel.other.fileno(), stdout=subprocess.DEVNULL, stderr=log, cwd="/")
    channel.other.close()
    return Server(process, channel, log)
