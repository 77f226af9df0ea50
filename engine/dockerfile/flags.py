"""The flags of instructions: which ones there are, of which kind, and BuildKit's words for a wrong one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from engine.dockerfile.suggest import did_you_mean
from engine.errors import DockerfileError

Kind = Literal["text", "bool", "list"]


class Flags(Struct, frozen=True):
    """The flags an instruction was given; values are texts, a boolean's is `true` or `false`."""

    values: Mapping[str, tuple[str, ...]]

    def text(self, name: str, default: str = "") -> str:
        """The value of a flag that may be given once."""
        return self.values.get(name, (default,))[0]

    def is_true(self, name: str) -> bool:
        """Whether a boolean was given and is true."""
        return self.text(name) == "true"

    def boolean(self, name: str) -> bool | None:
        """A boolean's value, or None when it was not given."""
        return self.is_true(name) if name in self.values else None

    def many(self, name: str) -> tuple[str, ...]:
        """The values of a flag that may be repeated."""
        return self.values.get(name, ())


def parse_flags(given: Sequence[str], known: Mapping[str, Kind]) -> Flags:
    """Reads `--name=value` words (a boolean may leave out its value); raises `DockerfileError` for an unknown flag, a missing
    or wrong value, or one that is repeated and is not a list."""
    values: dict[str, tuple[str, ...]] = {}
    for word in given:
        flag, equals, value = word.partition("=")
        name = flag[2:]
        kind = known.get(name)
        if kind is None:
            raise DockerfileError(f"unknown flag: {flag}{did_you_mean(name, known)}")
        if name in values and kind != "list":
            raise DockerfileError(f"duplicate flag specified: {flag}")
        if (kind != "bool" and not equals) or (kind == "bool" and equals and not value):
            raise DockerfileError(f"missing a value on flag: {flag}")
        if kind == "bool":
            value = value.lower() or "true"
            if value not in ("true", "false"):
                raise DockerfileError(f"expecting boolean value for flag {flag}, not: {word.partition('=')[2]}")
        values[name] = (*values.get(name, ()), value)
    return Flags(values)
