"""What one HTTP exchange is made of: values, without the machinery that carries it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct, field

from engine.registry.rules import Headers


class Timeouts(Struct, frozen=True):
    """Seconds: to connect (name look-up and TLS included), between two pieces of data either way, and for the answer to an
    upload, which a registry may spend on digesting or copying the blob."""

    connect: float = 15.0
    idle: float = 60.0
    answer: float = 300.0


@dataclasses.dataclass(frozen=True, slots=True)
class FilePart:
    """A part of a file as a request's body. `moved` is told how many of its bytes have been sent so far."""

    path: Path
    offset: int
    length: int
    moved: Callable[[int], None] = dataclasses.field(default=lambda _: None, compare=False)


class Request(Struct, frozen=True):
    """An HTTP request. `registry` and `what` name it in errors; `verify` is whether the certificate must be good."""

    method: str
    url: str
    registry: str
    what: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FilePart | None = None
    verify: bool = True


class Answer(Struct, frozen=True):
    """A whole answer: status, headers and a bounded body, and the URL it came from at last."""

    status: int
    headers: Headers
    body: bytes
    url: str
