"""Values that keep something back: a secret or a long text is not shown, a comment on where a value comes from is not compared."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct


class Value(Struct, frozen=True):
    """A frozen value whose fields in `UNSHOWN` are no part of its `repr`, and those in `UNCOMPARED` none of what makes it equal to
    another. (A dataclass can say so too, but defining one compiles six functions, which every build would wait for.)"""

    UNSHOWN: ClassVar[frozenset[str]] = frozenset()
    UNCOMPARED: ClassVar[frozenset[str]] = frozenset()

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in self.UNSHOWN)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return self._compared() == other._compared() if isinstance(other, Value) and type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._compared())

    def _compared(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__struct_fields__ if name not in self.UNCOMPARED)
