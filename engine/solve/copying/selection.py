"""Which paths below a copied directory are copied: `--exclude`, and the patterns that `COPY --parents` makes of its sources.

Both have the grammar of ignore files, and are about paths relative to what is copied. A directory that is not chosen itself is
looked into as long as something below it may be.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.dockerfile.glob import compile_go_glob
from engine.dockerfile.ignore import IgnoreMatcher
from engine.errors import CopyError, EngineError

State = tuple[int, int]
"""What a directory hands down to its entries; that of the root is (0, 0)."""


class Selection:
    """Chooses what `include` names, or everything, but for what `exclude` does. Raises `CopyError` for a bad pattern."""

    def __init__(self, exclude: Sequence[str], include: bytes | None = None) -> None:
        try:
            self._exclude = IgnoreMatcher(exclude)
            self._parts: list[str] | None = None
            if include is not None:
                pattern = include.decode("utf-8", "surrogateescape")
                self._parts = pattern.split("/")
                self._include = IgnoreMatcher(["\\" + pattern if pattern.startswith("!") else pattern])
        except EngineError as error:
            raise CopyError(f"invalid pattern: {error.message}") from error

    def decide(self, path: bytes, above: State) -> tuple[bool, bool, State]:
        """Whether a path is chosen, whether something below it may be if it is a directory, and its state."""
        text = path.decode("utf-8", "surrogateescape")
        included, include_state = (True, 0) if self._parts is None else self._include.match(text, above[0])
        excluded, exclude_state = self._exclude.match(text, above[1])
        below = (included or self._may_include_below(text)) and not (
            excluded and self._exclude.may_skip_subtree(text, exclude_state))
        return included and not excluded, below, (include_state, exclude_state)

    def _may_include_below(self, directory: str) -> bool:
        """Whether the pattern may match something in a directory that it does not match; true in doubt."""
        parts = self._parts or []
        for part, name in zip(parts, directory.split("/"), strict=False):
            if "**" in part or "[" in part or "\\" in part:
                return True
            if not compile_go_glob(part).match(name):
                return False
        return True
