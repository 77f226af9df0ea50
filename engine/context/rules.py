"""Ignore rules, as a context sees them. What they mean is the Dockerfile's affair: the rules come from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class IgnoreRules(Protocol):
    """The patterns of one ignore file. A state is what a directory hands down to its entries; that of the root is 0."""

    def match(self, path: bytes, parent: int = 0) -> tuple[bool, int]:
        """Whether a path (relative to the root) is ignored, and its state; `parent` is its directory's state."""

    def may_skip_subtree(self, directory: bytes, state: int) -> bool:
        """Whether nothing below an ignored directory can be brought back by a `!` pattern."""


ReadRules = Callable[[bytes], IgnoreRules]
"""Rules from the bytes of an ignore file. Raises an `EngineError` for a wrong pattern."""
