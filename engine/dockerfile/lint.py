"""BuildKit's build checks, as far as a Dockerfile alone decides them: the same names, the same messages.

What needs more is asked for: `base_environments` (the variables that base images set) for UndefinedVar, `ignored` for
CopyIgnoredFile, and `more` for what others found (InvalidBaseImagePlatform).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from engine.dockerfile.checks_style import check_style
from engine.dockerfile.checks_variables import check_variables
from engine.dockerfile.directives import CheckOptions, parse_check, parse_directive
from engine.dockerfile.gotext import SPACE
from engine.dockerfile.ignore import IgnoreMatcher
from engine.dockerfile.instructions import Dockerfile, Warning_
from engine.errors import DockerfileError

EXPERIMENTAL = frozenset({"CopyIgnoredFile", "InvalidDefinitionDescription"})
"""Checks that are made only if the `check` directive asks for them."""


def lint(
    dockerfile: Dockerfile,
    *,
    base_environments: Mapping[str, Collection[str]] | None = None,
    ignored: IgnoreMatcher | None = None,
    more: Sequence[Warning_] = (),
) -> list[Warning_]:
    """What the checks have to say of a Dockerfile, by line, without what its `check` directives leave out.

    `base_environments` gives the names of the variables that an image sets, by the image's name before or after expansion; for an
    image that is not in it, undefined variables are not reported. `more` are warnings of other checks, to be left out alike.
    """
    variables = check_variables(dockerfile, base_environments or {}, ignored)
    found = [*dockerfile.warnings, *check_style(dockerfile), *variables, *more]
    options = _options(dockerfile)
    lines = dockerfile.text.split("\n")
    kept = {w: None for w in found if _wanted(w.rule, options) and not _skipped(w, lines)}
    return sorted(kept, key=lambda warning: warning.location.first)


def enforce(dockerfile: Dockerfile, warnings: Sequence[Warning_]) -> None:
    """Raises `DockerfileError` if there are warnings and the Dockerfile says `# check=error=true`."""
    if warnings and _options(dockerfile).error:
        rules = ", ".join(sorted({warning.rule for warning in warnings}))
        raise DockerfileError(f"lint violation found for rules: {rules}").at(warnings[0].location, dockerfile.text)


def _options(dockerfile: Dockerfile) -> CheckOptions:
    text = dockerfile.directives.get("check")
    return parse_check(text) if text else CheckOptions()


def _wanted(rule: str, options: CheckOptions) -> bool:
    if rule in EXPERIMENTAL:
        return options.experimental_all or rule in options.experimental
    return not (options.skip_all or rule in options.skip)


def _skipped(warning: Warning_, lines: Sequence[str]) -> bool:
    """Whether a comment right above the instruction takes it out of a check: `# check=skip=A,B` or `all`."""
    above = warning.location.first - 2
    while 0 <= above < len(lines) and lines[above].lstrip(SPACE).startswith("#"):
        directive = parse_directive(lines[above].rstrip("\r"))
        if directive and directive[0] == "check":
            try:
                options = parse_check(directive[1])
            except DockerfileError:  # it only looks like one
                options = CheckOptions()
            if options.skip_all or warning.rule in options.skip:
                return True
        above -= 1
    return False
