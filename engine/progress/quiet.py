"""No progress at all: for scripts that want the digest and nothing else."""

from __future__ import annotations

from engine.progress.events import Event


class QuietRenderer:
    """Takes events and shows none."""

    shows_output = False

    def __call__(self, event: Event) -> None:
        """Ignores the event."""

    def tick(self) -> None:
        """Nothing is drawn."""

    def close(self) -> None:
        """Nothing is left."""
