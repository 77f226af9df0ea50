"""What a supervisor knows about the machine: what the probe found, and where it may put things for the time of a run."""

from __future__ import annotations

from dataclasses import dataclass

from engine.isolate.base import Environment


@dataclass(frozen=True, slots=True)
class Host:
    """`scratch` is an existing directory, on the filesystem of the roots where possible, that only the engine writes to."""

    environment: Environment
    scratch: str


@dataclass(frozen=True, slots=True)
class Streams:
    """Open descriptors: the command's input and output, and the control socket whose end means that nobody waits any more."""

    stdin: int
    stdout: int
    stderr: int
    control: int
