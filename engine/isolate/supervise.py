"""Watching over a command: until it ends, or nobody wants it any more, with the sockets it was given served meanwhile.

The supervisor is a single-threaded process of its own; one `selectors` loop hears the end of children (a wake-up byte for
SIGCHLD), the control socket (end of file means: stop) and the relayed sockets.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
from collections.abc import Callable
from functools import partial

from engine.errors import IsolationError
from engine.isolate.broker import Broker

_CHUNK = 1 << 16


class Watch:
    """The supervisor's loop. Made before the child is forked, so that no end goes unheard."""

    def __init__(self, control: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._control = control
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._selector.register(control, selectors.EVENT_READ)

    def relay(self, listener: socket.socket, target: str) -> None:
        """Serves a listening socket: each connection to it is one to the socket at `target`."""
        _Relay(self._selector, listener, target)

    def serve(self, broker: Broker) -> None:
        """Answers the calls that a broker is for."""
        self._selector.register(broker.listener, selectors.EVENT_READ, partial(self._answer, broker))

    def _answer(self, broker: Broker, listener: int, _events: int) -> None:
        if not broker.answer():
            self._selector.unregister(listener)
            os.close(listener)

    def pause(self, seconds: float) -> None:
        """Lets a little time pass; raises `IsolationError` if nobody waits any more."""
        for key, _ in self._selector.select(seconds):
            if key.fd == self._control:
                raise IsolationError("cancelled")

    def wait(self, child: int, kill: Callable[[], None]) -> int:
        """Waits for the child and returns its wait status; calls `kill` once if the control socket speaks or closes."""
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return status
            for key, events in self._selector.select():
                if key.fd == self._wake:
                    os.read(self._wake, 512)
                elif key.fd == self._control:
                    self._selector.unregister(self._control)
                    kill()
                else:
                    key.data(key.fileobj, events)


class _Relay:
    """One socket for the command, and its connections to the host's."""

    def __init__(self, selector: selectors.BaseSelector, listener: socket.socket, target: str) -> None:
        self._selector = selector
        self._target = target
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def _accept(self, listener: socket.socket, _events: int) -> None:
        try:
            inner, _ = listener.accept()
        except OSError:
            return
        outer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            outer.connect(self._target)
        except OSError:
            inner.close()
            outer.close()
            return
        pair = _Pair(self._selector, inner, outer)
        pair.listen()


class _Pair:
    """Two connected sockets whose bytes go from each to the other, with at most one chunk waiting in each direction."""

    def __init__(self, selector: selectors.BaseSelector, left: socket.socket, right: socket.socket) -> None:
        self._selector = selector
        self._other = {left: right, right: left}
        self._waiting: dict[socket.socket, bytes] = {left: b"", right: b""}
        self._ended: set[socket.socket] = set()
        self._shut: set[socket.socket] = set()
        for end in (left, right):
            end.setblocking(False)

    def listen(self) -> None:
        """Asks for what each socket is good for now: reading while nothing of it waits, writing while something waits for it."""
        for end, other in self._other.items():
            events = selectors.EVENT_WRITE if self._waiting[end] else 0
            if not self._waiting[other] and end not in self._ended:
                events |= selectors.EVENT_READ
            registered = end in self._selector.get_map()
            if events and registered:
                self._selector.modify(end, events, self._ready)
            elif events:
                self._selector.register(end, events, self._ready)
            elif registered:
                self._selector.unregister(end)

    def _ready(self, end: socket.socket, events: int) -> None:
        other = self._other[end]
        try:
            if events & selectors.EVENT_WRITE and self._waiting[end]:
                self._waiting[end] = self._waiting[end][end.send(self._waiting[end]):]
            if events & selectors.EVENT_READ and not self._waiting[other]:
                data = end.recv(_CHUNK)
                self._waiting[other] = data
                if not data:
                    self._ended.add(end)
            for one, its_other in self._other.items():
                if one in self._ended and not self._waiting[its_other] and its_other not in self._shut:
                    self._shut.add(its_other)
                    its_other.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._ended.update(self._other)
            self._waiting = dict.fromkeys(self._other, b"")
        self.listen()
        if len(self._ended) == 2 and not any(self._waiting.values()):
            for one in self._other:
                one.close()
