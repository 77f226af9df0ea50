"""Parser directives: `# escape=`, `# syntax=` and `# check=` at the very top of a Dockerfile.

The zone ends at the first line that is not one of them: another comment, a blank line, an instruction. `syntax` is kept and
has no effect: there is no frontend image to hand the build to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from engine.dockerfile.gotext import SPACE, parse_bool, quote
from engine.errors import DockerfileError, Location

_NAMES = frozenset({"syntax", "escape", "check"})
_FORM = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z", re.ASCII)


class CheckOptions(Struct, frozen=True):
    """What a `check` directive asks of the linter: the rules to leave out, or all; whether a warning fails the build; the
    experimental rules to add, or all."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    error: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False


def parse_directive(line: str) -> tuple[str, str] | None:
    """The lower-case name and the value of a line that has the form of a known directive, or None."""
    line = line.lstrip(SPACE)
    match = _FORM.match(line[1:].lstrip(SPACE)) if line.startswith("#") else None
    if not match or match[1].lower() not in _NAMES:
        return None
    return match[1].lower(), match[2]


def read_directives(lines: Sequence[str], file: str) -> dict[str, str]:
    """The directives at the top of a file; raises `DockerfileError`, with its line, for one that is repeated or wrong."""
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        directive = parse_directive(line.rstrip("\r"))
        if directive is None:
            break
        name, value = directive
        try:
            _check(name, value, found)
        except DockerfileError as error:
            raise error.at(Location(number, number, file)) from None
        found[name] = value
    return found


def _check(name: str, value: str, found: dict[str, str]) -> None:
    if name in found:
        raise DockerfileError(f"only one {name} parser directive can be used")
    if name == "escape" and value not in ("\\", "`"):
        raise DockerfileError(f"invalid escape token '{value}' does not match ` or \\")
    if name == "check":
        parse_check(value)


def parse_check(value: str) -> CheckOptions:
    """Reads `skip=A,B|all;error=true;experimental=A,B|all`; raises `DockerfileError` for any other option."""
    options: dict[str, str] = {}
    for part in value.strip(SPACE).split(";"):
        name, equals, text = part.partition("=")
        name = name.strip(SPACE)
        if not equals:
            raise DockerfileError(f"invalid check option {quote(part)}")
        if name not in ("skip", "error", "experimental"):
            raise DockerfileError(f"invalid check option {quote(name)}")
        options[name] = text.strip(SPACE)
    error = parse_bool(options.get("error", "false"))
    if error is None:
        raise DockerfileError(f"failed to parse check option {quote('error=' + options['error'])}: invalid syntax")
    skip, experimental = options.get("skip", ""), options.get("experimental", "")
    return CheckOptions(_names(skip), skip == "all", error, _names(experimental), experimental == "all")


def _names(text: str) -> frozenset[str]:
    return frozenset(name for part in text.split(",") if (name := part.strip(SPACE)))
