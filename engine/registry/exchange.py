"""What one HTTP exchange is made of: values, without the machinery that carries it out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import ClassVar, Protocol

from msgspec import Struct, field

from engine.registry.rules import Headers
from engine.values import Value


class Timeouts(Struct, frozen=True):
    """Seconds: to connect (name look-up and TLS included), between two pieces of data either way, and for the answer to an
    upload, which a registry may spend on digesting or copying the blob."""

    connect: float = 15.0
    idle: float = 60.0
    answer: float = 300.0


class FilePart(Value, frozen=True):
    """A part of a file as a request's body. `moved` is told how many of its bytes have been sent so far."""

    UNCOMPARED: ClassVar = frozenset({"moved"})

    path: Path
    offset: int
    length: int
    moved: Callable[[int], None] = lambda _: None


class Request(Struct, frozen=True):
    """An HTTP request. `registry` and `what` name it in errors; `verify` is whether the certificate must be good. `most` is how
    many bytes of the answer's body are wanted, where that is known: it is then read no further."""

    method: str
    url: str
    registry: str
    what: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FilePart | None = None
    verify: bool = True
    most: int | None = None


class Response(Protocol):
    """An answer whose body may still be on its way. To be closed, in any case and without waiting, with `close`."""

    status: int
    headers: Headers
    url: str

    async def read(self, limit: int) -> bytes:
        """The whole body; raises `RegistryError` when it is larger than `limit` bytes, `TransientError` when it broke off."""

    async def head(self, limit: int) -> bytes:
        """The first bytes of the body, up to `limit`, as far as they arrive: for errors."""

    def parts(self) -> AsyncIterator[bytes]:
        """The body as it arrives, its Content-Encoding left alone (a blob is what is sent, gzip or not)."""

    def close(self) -> None:
        """Gives the connection back if the body was read to its end, else closes it."""


class Answer(Struct, frozen=True):
    """A whole answer: status, headers and a bounded body, and the URL it came from at last."""

    status: int
    headers: Headers
    body: bytes
    url: str
