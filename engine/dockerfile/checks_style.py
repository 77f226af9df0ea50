"""The checks of how a Dockerfile is written: case, old forms, repeated instructions, stage names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from engine.dockerfile.directives import parse_directive
from engine.dockerfile.gotext import SPACE, quote
from engine.dockerfile.instructions import (
    Arg,
    Cmd,
    Dockerfile,
    Entrypoint,
    Env,
    From,
    HealthcheckInstruction,
    Instruction,
    Label,
    Maintainer,
    Shell,
    Warning_,
)
from engine.dockerfile.statement import Statement, split_statement, split_words

_RESERVED = ("context", "scratch")
_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)


def check_style(dockerfile: Dockerfile) -> Iterator[Warning_]:
    """The warnings of these checks, in no particular order."""
    yield from _casing(dockerfile)
    yield from _stage_names(dockerfile)
    yield from _descriptions(dockerfile)
    with_shell: set[str] = set()
    for stage in dockerfile.stages:
        yield from _from(stage.origin, dockerfile.escape)
        yield from _repeated(stage.instructions)
        inherited = stage.origin.image.lower() in with_shell
        if not inherited:
            yield from _shell_forms(stage.instructions, dockerfile.escape)
        if stage.origin.name and (inherited or any(isinstance(i, Shell) for i in stage.instructions)):
            with_shell.add(stage.origin.name)
        for instruction in stage.instructions:
            yield from _instruction(instruction, dockerfile.escape)


def _written(instruction: Instruction, escape: str) -> Statement:
    """The instruction taken apart again, for the case and the form it was written in."""
    return split_statement(instruction.text, escape)


def _casing(dockerfile: Dockerfile) -> Iterator[Warning_]:
    everything = [i for stage in dockerfile.stages for i in (stage.origin, *stage.instructions)]
    keywords = [(re.split(rf"[{SPACE}]", i.text, maxsplit=1)[0], i.location) for i in everything]
    lower = sum(word == word.lower() for word, _ in keywords)
    upper = sum(word == word.upper() for word, _ in keywords)
    for word, location in keywords:
        if word != (word.lower() if lower > upper else word.upper()):
            wanted = "lowercase" if lower > upper else "uppercase"
            message = f"Command '{word}' should match the case of the command majority ({wanted})"
            yield Warning_("ConsistentInstructionCasing", message, location)


def _stage_names(dockerfile: Dockerfile) -> Iterator[Warning_]:
    seen: set[str] = set()
    for stage in dockerfile.stages:
        name, location = stage.origin.name, stage.origin.location
        if name in _RESERVED:
            message = f"Stage name should not use the same name as reserved stage {quote(name)}"
            yield Warning_("ReservedStageName", message, location)
        if name and name in seen:
            yield Warning_("DuplicateStageName", f"Duplicate stage name {quote(name)}, stage names should be unique", location)
        seen.add(name)


def _from(origin: From, escape: str) -> Iterator[Warning_]:
    written = _written(origin, escape)
    words = written.arguments.words
    if len(words) != 3:
        return
    if words[2] != words[2].lower():
        yield Warning_("StageNameCasing", f"Stage name '{words[2]}' should be lowercase", origin.location)
    keyword = written.keyword
    if keyword in (keyword.lower(), keyword.upper()) and words[1] != (
        words[1].lower() if keyword == keyword.lower() else words[1].upper()
    ):
        yield Warning_("FromAsCasing", f"'{words[1]}' and '{keyword}' keywords' casing do not match", origin.location)


def _repeated(instructions: Sequence[Instruction]) -> Iterator[Warning_]:
    """CMD, ENTRYPOINT and HEALTHCHECK that a later one makes void; the warning stands at the void one."""
    for kind, name in ((Cmd, "CMD"), (Entrypoint, "ENTRYPOINT"), (HealthcheckInstruction, "HEALTHCHECK")):
        for void in [i for i in instructions if isinstance(i, kind)][:-1]:
            message = (
                f"Multiple {name} instructions should not be used in the same stage because only the last one will be used"
            )
            yield Warning_("MultipleInstructionsDisallowed", message, void.location)


def _shell_forms(instructions: Sequence[Instruction], escape: str) -> Iterator[Warning_]:
    for instruction in instructions:
        if isinstance(instruction, Shell):
            return  # whoever chooses a shell wants it
        if isinstance(instruction, Cmd | Entrypoint) and instruction.command.shell:
            name = _written(instruction, escape).keyword
            message = f"JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
            yield Warning_("JSONArgsRecommended", message, instruction.location)


def _instruction(instruction: Instruction, escape: str) -> Iterator[Warning_]:
    location = instruction.location
    if isinstance(instruction, Maintainer):
        yield Warning_("MaintainerDeprecated", "Maintainer instruction is deprecated in favor of using label", location)
    if isinstance(instruction, Env | Label) and _is_legacy(instruction, escape):
        name = "ENV" if isinstance(instruction, Env) else "LABEL"
        message = f'"{name} key=value" should be used instead of legacy "{name} key value" format'
        yield Warning_("LegacyKeyValueFormat", message, location)
    if isinstance(instruction, Env | Arg):
        name = "ENV" if isinstance(instruction, Env) else "ARG"
        for key, _ in instruction.pairs:
            if _SECRET.search(key) and not _NO_SECRET.search(key):
                message = f"Do not use ARG or ENV instructions for sensitive data ({name} {quote(key)})"
                yield Warning_("SecretsUsedInArgOrEnv", message, location)


def _is_legacy(instruction: Env | Label, escape: str) -> bool:
    _, *rest = re.split(rf"[{SPACE}]+", instruction.text, maxsplit=1)
    words = split_words(rest[0] if rest else "", escape)
    return bool(words) and "=" not in words[0]


def _descriptions(dockerfile: Dockerfile) -> Iterator[Warning_]:
    """A comment right above a named FROM or an ARG describes it, and begins with its name."""
    lines = dockerfile.text.split("\n")
    described: list[tuple[str, list[str], Instruction]] = [
        ("FROM", [s.origin.name], s.origin) for s in dockerfile.stages if s.origin.name
    ]
    args = [*dockerfile.global_args, *(i for s in dockerfile.stages for i in s.instructions if isinstance(i, Arg))]
    described += [("ARG", [name for name, _ in arg.pairs], arg) for arg in args]
    for kind, names, instruction in described:
        above = lines[instruction.location.first - 2].strip(SPACE) if instruction.location.first > 1 else ""
        comment = above[1:].strip(SPACE) if above.startswith("#") else ""
        if comment and not parse_directive(above) and comment.split(" ")[0] not in names:
            name = names[0] if len(names) == 1 else "<arg_key>"
            message = f"Comment for {kind} should follow the format: `# {name} <description>`"
            yield Warning_("InvalidDefinitionDescription", message, instruction.location)
