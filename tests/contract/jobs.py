"""Functions that tests have run in worker processes."""

from __future__ import annotations

import os
from pathlib import Path

_HELD: list[bytearray] = []


def hold(size: int) -> int:
    """Takes so many bytes and keeps them; gives the process's id."""
    _HELD.append(bytearray(b"x" * size))
    return os.getpid()


def fail(error: Exception) -> None:
    """Raises its argument."""
    raise error


def write_to_full_disk() -> None:
    """Writes where there is no space."""
    Path("/dev/full").write_text("x")
