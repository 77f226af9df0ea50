"""What a build tells while it goes on: frozen values, in the order in which things happen. Times are seconds since the build
began, sizes are bytes. A sink is a plain function: it must not block, and it is called in the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct


class BuildStarted(Struct, frozen=True):
    """A build begins; `steps` is how many steps its plan has so far."""

    time: float
    steps: int


class StepStarted(Struct, frozen=True):
    """A step begins to run, or to look for its result. `name` is what a person reads: `[build 2/4] RUN make`."""

    time: float
    step: str
    name: str


class StepOutput(Struct, frozen=True):
    """Bytes that a step's process wrote; they may end in the middle of a line or character. `stream` is 1 or 2."""

    time: float
    step: str
    stream: int
    data: bytes


class StepProgress(Struct, frozen=True):
    """How far a transfer of a step has come. `total` is 0 when it is not known; `what` is a digest or path for people."""

    time: float
    step: str
    what: str
    done: int
    total: int


class StepFinished(Struct, frozen=True):
    """A step ended. `status` says how; `error` is the message of a failure; `detail` e.g. the size of its layer."""

    time: float
    step: str
    status: Literal["done", "cached", "failed", "canceled"]
    error: str = ""
    detail: str = ""


class StepExplained(Struct, frozen=True):
    """Where the cache had a step's result, or why it had none. `tier` is `memory`, `local`, `layout`, `registry` or `inline`,
    empty for a miss; `key` the digest it was looked for under; `age` how many seconds ago the result was made, 0 for a miss;
    `reasons` what changed since the most similar earlier result."""

    time: float
    step: str
    name: str
    tier: str
    key: str
    age: float = 0.0
    reasons: tuple[str, ...] = ()


class MountCarried(Struct, frozen=True):
    """A cache mount was restored from a registry or saved to it: its id, how many files it has and their bytes, and how many bytes
    of it travelled."""

    time: float
    what: Literal["restored", "saved"]
    id: str
    files: int
    size: int
    moved: int


class Warned(Struct, frozen=True):
    """Something the user should know that does not stop the build. `rule` is a linter rule's name, or empty."""

    time: float
    message: str
    rule: str = ""
    line: int = 0


class Note(Struct, frozen=True):
    """A choice the engine made, and why (which isolation, which platform)."""

    time: float
    message: str


class BuildFinished(Struct, frozen=True):
    """The build ended; `digest` is that of the image (or index) if it went well."""

    time: float
    ok: bool
    digest: str = ""


Event = (BuildStarted | StepStarted | StepOutput | StepProgress | StepFinished | StepExplained | MountCarried | Warned | Note
         | BuildFinished)  # fmt: skip
Sink = Callable[[Event], None]
