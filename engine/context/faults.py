"""What a person reads when a file of a context cannot be read."""

from __future__ import annotations

from engine.errors import ContextError


def show(path: bytes) -> str:
    """A path of a context for people."""
    return "/" + path.decode("utf-8", "backslashreplace")


def unreadable(path: bytes, error: OSError) -> ContextError:
    """The error for what the operating system says about a path of a context."""
    hint = "add it to .dockerignore if the build does not need it" if isinstance(error, PermissionError) else None
    return ContextError(f"cannot read {show(path)} of the build context: {error.strerror or error}", hint=hint)
