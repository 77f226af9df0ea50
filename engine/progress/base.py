"""The renderers' contract: each is a sink for a build's events that shows them on one text stream."""

from __future__ import annotations

from typing import Protocol

from engine.progress.events import Event


class Renderer(Protocol):
    """Shows one build. Not for use by several at once: each build has its own."""

    @property
    def shows_output(self) -> bool:
        """Whether what a failed step wrote has been shown by the time of `close`, so that an error need not repeat it."""

    def __call__(self, event: Event) -> None:
        """Takes an event; writes at once, or at the next `tick`."""

    def tick(self) -> None:
        """Time has passed: what shows a clock draws itself anew. To be called about ten times a second."""

    def close(self) -> None:
        """No event follows: writes what is left. Idempotent."""
