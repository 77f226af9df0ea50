"""Dockerfile text → instructions in stages."""

from __future__ import annotations

from engine.dockerfile.compose import compose, refuse_trigger
from engine.dockerfile.instructions import Arg, Dockerfile, From, Instruction, StageBlock
from engine.dockerfile.lexer import lex
from engine.dockerfile.statement import Statement
from engine.errors import DockerfileError, Location


def parse(data: bytes, file: str = "Dockerfile") -> Dockerfile:
    """Parses a Dockerfile; `file` is the name that places are given in.

    Raises `DockerfileError` with BuildKit's text, the lines and the source. A mistake in the structure of any line (a
    here-document that is open, an array that holds a number) comes before one in the sense of an earlier line.
    """
    lexed = lex(data, file)
    try:
        global_args, stages = _stages(lexed.statements)
        if not stages:
            raise DockerfileError("dockerfile contains no stages to build", location=Location(1, 1, file))
    except DockerfileError as error:
        raise error.at(None, lexed.text) from None
    blocks = tuple(StageBlock(i, origin, tuple(body)) for i, (origin, body) in enumerate(stages))
    return Dockerfile(lexed.text, tuple(global_args), blocks, lexed.directives, lexed.escape, lexed.warnings, file)


def parse_trigger(expression: str, escape: str = "\\") -> Instruction:
    """Parses an ONBUILD trigger as an image's config holds it. Its lines are counted from 1 inside the trigger.

    Raises `DockerfileError` if it is not one instruction, or one that ONBUILD does not take.
    """
    lexed = lex(expression.encode("utf-8", "surrogateescape"), "ONBUILD", escape=escape)
    if len(lexed.statements) != 1:
        raise DockerfileError("onbuild trigger should be a single expression").at(Location(1, 1, "ONBUILD"), lexed.text)
    statement = lexed.statements[0]
    try:
        refuse_trigger(statement.name)
        return compose(statement)
    except DockerfileError as error:
        raise error.at(statement.location, lexed.text) from None


def _stages(statements: tuple[Statement, ...]) -> tuple[list[Arg], list[tuple[From, list[Instruction]]]]:
    """The ARGs before the first FROM, and each FROM with what follows it."""
    global_args: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for statement in statements:
        instruction = compose(statement)
        if isinstance(instruction, From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            global_args.append(instruction)
        else:
            raise DockerfileError("no build stage in current context", location=instruction.location)
    return global_args, stages


