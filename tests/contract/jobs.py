"""Functions that tests have run in worker processes."""

from __future__ import annotations

from pathlib import Path


def fail(error: Exception) -> None:
    """Raises its argument."""
    raise error


def write_to_full_disk() -> None:
    """Writes where there is no space."""
    Path("/dev/full").write_text("x")
