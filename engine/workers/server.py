"""The fork server as the event loop sees it: starting it, asking it, ending it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from engine.errors import IsolationError
from engine.isolate.base import Environment
from engine.isolate.probe import Wishes
from engine.workers.channel import Channel
from engine.workers.spawn import Spawned

_GRACE = 15.0
"""Seconds that the fork server has for ending its children and itself."""


class Server:
    """A running fork server. One request at a time; a request, once sent, is not given up, even by a cancelled task."""

    def __init__(self, spawned: Spawned) -> None:
        self._spawned = spawned
        self._channel = Channel(spawned.pair)
        self._turn = anyio.Lock()

    @staticmethod
    async def start(spawned: Spawned, wishes: Wishes) -> tuple[Server, Environment]:
        """Makes a process a fork server; returns it and what it found. Raises `IsolationError`; the process has ended then."""
        server = Server(spawned)
        with anyio.CancelScope(shield=True):
            try:
                environment: Environment = await server._exchange(wishes, ())
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
            words = self._spawned.last_words()
            raise IsolationError(f"the fork server has died{words and f': {words}'}") from None
        if ok:
            return answer
        if isinstance(answer, ConnectionError):  # a broken pipe of its own, which is not to be taken for one of ours
            raise IsolationError("a process died that makes ready what commands run in") from answer
        raise answer

    async def aclose(self) -> None:
        """Ends it and everything it has forked."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_GRACE) as waiting:
                self._channel.finish()
                await self._channel.ended()
            if not waiting.cancelled_caught:
                self._spawned.process.wait()  # it has closed its end, so it is ending
            self._spawned.close()
