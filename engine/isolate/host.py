"""What a supervisor knows about the machine: what the probe found, and where it may put things for the time of a run."""

from __future__ import annotations

from msgspec import Struct

from engine.isolate.base import Environment


class Host(Struct, frozen=True):
    """`scratch` is an existing directory, on the filesystem of the roots where possible, that only the engine writes to."""

    environment: Environment
    scratch: str


class Streams(Struct, frozen=True):
    """Open descriptors: the command's input and output, and the control socket whose end means that nobody waits any more."""

    stdin: int
    stdout: int
    stderr: int
    control: int
