"""The exception tree, and the exit code each branch of it ends the command with.

This module imports nothing of the project, so that every other one may raise what it defines. A user's mistake is an
`EngineError`: it has a message, a stable code, where useful a hint and the place in the Dockerfile. Anything else that
escapes is a bug, and the command line says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from msgspec import Struct


class Location(Struct, frozen=True):
    """A range of lines in a Dockerfile; the first line is 1 and both ends are included."""

    first: int
    last: int
    file: str = "Dockerfile"


_LONG = 300


def shortened(path: str) -> str:
    """A path for people: of one that is very long, as a command can make it, the beginning and the end."""
    return path if len(path) <= _LONG else f"{path[: _LONG // 2]}[…]{path[-_LONG // 2 :]}"


class EngineError(Exception):
    """Base of every error that has a cause outside the engine.

    `hint` says what to do about it. `location` and `source` (the whole Dockerfile's text) are filled in by whoever
    knows them, with `at`.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, location: Location | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.location = location
        self.source: str | None = None

    def __str__(self) -> str:
        return self.message

    def at(self, location: Location | None, source: str | None = None) -> EngineError:
        """Says where in the Dockerfile the error comes from, unless that is already known; returns the error itself."""
        self.location = self.location or location
        self.source = self.source or source
        return self


class UsageError(EngineError):
    """A wrong flag, option or setting."""

    code, exit_code = "usage", 2


class DockerfileError(EngineError):
    """The Dockerfile cannot be parsed or planned."""

    code, exit_code = "dockerfile", 3


class ContextError(EngineError):
    """The build context, or a file an instruction copies from it, is missing or unreadable."""

    code, exit_code = "context", 4


class CopyError(ContextError):
    """COPY or ADD cannot do what its arguments say."""

    code = "copy"


class RunError(EngineError):
    """A RUN ended with a code other than 0. `status` is that code, `output` the last lines it wrote."""

    code, exit_code = "run", 5

    def __init__(self, message: str, *, status: int = 1, output: Sequence[str] = (), hint: str | None = None,
                 location: Location | None = None) -> None:
        super().__init__(message, hint=hint, location=location)
        self.status = status
        self.output = tuple(output)


class RegistryError(EngineError):
    """A registry cannot be reached, or refuses. `status` is the HTTP status, 0 if there was none."""

    code, exit_code = "registry", 6

    def __init__(self, message: str, *, status: int = 0, hint: str | None = None,
                 location: Location | None = None) -> None:
        super().__init__(message, hint=hint, location=location)
        self.status = status


class NotFoundError(RegistryError):
    """A manifest, blob or repository that the registry does not have."""

    code = "not-found"


class AuthError(RegistryError):
    """A registry refuses the credentials, or wants some and there are none."""

    code, exit_code = "auth", 7


class ContentError(EngineError):
    """Bytes that are not what they should be: a digest or size that does not match, a manifest or layer that is broken."""

    code, exit_code = "content", 8


class PlatformError(EngineError):
    """An image has nothing for the platform that was asked for, or a step cannot run on this machine's processor."""

    code, exit_code = "platform", 9


class IsolationError(EngineError):
    """This machine, user or container does not allow what a step needs."""

    code, exit_code = "isolation", 10


class StorageError(EngineError):
    """The state directory or an output cannot be written: disk full, no permission, read-only."""

    code, exit_code = "storage", 11


class SecretError(EngineError):
    """A secret or SSH socket that a step requires was not given, or cannot be read."""

    code, exit_code = "secret", 12
