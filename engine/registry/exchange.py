"""What one HTTP exchange is made of: values, without the machinery that carries it out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import anyio
from msgspec import Struct, field

from engine.registry.base import Growing
from engine.registry.rules import Headers
from engine.values import Value


class Timeouts(Struct, frozen=True):
    """Seconds: to connect (name look-up and TLS included), between two pieces of data either way, and for the answer to an
    upload, which a registry may spend on digesting or copying the blob."""

    connect: float = 15.0
    idle: float = 60.0
    answer: float = 300.0


class OpenFile:
    """A descriptor that is closed when nobody has it any more: when a task is cancelled, the thread that works for it may still use
    what it was given, and must not find another file or socket under the number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class FilePart(Value, frozen=True):
    """A part of a file as a request's body. `moved` is told how many of its bytes have been sent so far."""

    UNCOMPARED: ClassVar = frozenset({"moved"})

    path: Path
    offset: int
    length: int
    moved: Callable[[int], None] = lambda _: None

    def open(self) -> OpenFile:
        """The file; raises `OSError`."""
        return OpenFile(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))

    async def more(self, have: int) -> int:
        """How many bytes there are to send, after `have` of them: all."""
        return self.length


class GrowingPart:
    """A file that is still being written, as a request's body: it ends when the writing does, or with `stop`. `sent` is how many of
    its bytes have been sent."""

    offset, length = 0, None

    def __init__(self, growing: Growing) -> None:
        self._growing = growing
        self._file = OpenFile(growing.open())
        self._waiting = anyio.CancelScope()
        self._stopped = False
        self.sent = 0

    def open(self) -> OpenFile:
        """The file."""
        return self._file

    async def more(self, have: int) -> int:
        """How many bytes there are to send: more than `have`, or as many when no more will come."""
        if not self._stopped:
            with anyio.CancelScope() as self._waiting:
                return max(have, await self._growing.more(have))
        return have

    def moved(self, sent: int) -> None:
        """Notes it."""
        self.sent = sent

    def stop(self) -> None:
        """Ends the body with what has been sent of it."""
        self._stopped = True
        self._waiting.cancel()


class Request(Struct, frozen=True):
    """An HTTP request. `registry` and `what` name it in errors; `verify` is whether the certificate must be good."""

    method: str
    url: str
    registry: str
    what: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FilePart | GrowingPart | None = None
    verify: bool = True


class Answer(Struct, frozen=True):
    """A whole answer: status, headers and a bounded body, and the URL it came from at last."""

    status: int
    headers: Headers
    body: bytes
    url: str
