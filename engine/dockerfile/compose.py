"""The second pass: statements → instructions, with the flags and the number of arguments that each may have.

The texts of the errors are BuildKit's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from engine.dockerfile.durations import parse_interval
from engine.dockerfile.expand import expansion
from engine.dockerfile.flags import Flags, Kind, parse_flags
from engine.dockerfile.gotext import SPACE, parse_int, quote
from engine.dockerfile.heredoc import marker
from engine.dockerfile.instructions import (
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    HealthcheckInstruction,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from engine.dockerfile.mounts import check_mount_text
from engine.dockerfile.statement import Statement
from engine.dockerfile.suggest import did_you_mean
from engine.errors import DockerfileError

_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*")
_ONBUILD = re.compile(r"\s*ONBUILD\s*", re.IGNORECASE)
_NO_FLAGS: Mapping[str, Kind] = {}
_COPY_FLAGS: Mapping[str, Kind] = {
    "from": "text", "chown": "text", "chmod": "text", "link": "bool", "parents": "bool", "exclude": "list",
}  # fmt: skip
_ADD_FLAGS: Mapping[str, Kind] = {
    "chown": "text", "chmod": "text", "link": "bool", "exclude": "list", "keep-git-dir": "bool", "checksum": "text",
    "unpack": "bool",
}  # fmt: skip
_RUN_FLAGS: Mapping[str, Kind] = {"mount": "list", "network": "text", "security": "text", "device": "list"}
_TIMES: Mapping[str, Kind] = {
    "interval": "text", "timeout": "text", "start-period": "text", "start-interval": "text", "retries": "text",
}  # fmt: skip


def compose(statement: Statement) -> Instruction:
    """The instruction a statement makes; raises `DockerfileError`, with its place, when it makes none."""
    try:
        build = _BUILDERS.get(statement.name)
        if build is None:
            near = did_you_mean(statement.keyword, _BUILDERS, case_sensitive=False)
            raise DockerfileError(f"unknown instruction: {statement.keyword}{near}")
        instruction = build(statement)
    except DockerfileError as error:
        raise error.at(statement.location) from None
    return replace(instruction, location=statement.location, text=statement.line.strip(SPACE))


def _flags(statement: Statement, known: Mapping[str, Kind] = _NO_FLAGS) -> Flags:
    return parse_flags(statement.flags, known)


def _one_argument(statement: Statement) -> str:
    words = statement.arguments.words
    if len(words) != 1:
        raise DockerfileError(f"{statement.name} requires exactly one argument")
    _flags(statement)
    return words[0]


def _some_arguments(statement: Statement) -> tuple[str, ...]:
    if not statement.arguments.words:
        raise DockerfileError(f"{statement.name} requires at least one argument")
    _flags(statement)
    return statement.arguments.words


def _command(statement: Statement) -> Command:
    arguments = statement.arguments
    return Command(arguments.words, shell=False) if arguments.json else Command((" ".join(arguments.words),), shell=True)


def _from(statement: Statement) -> From:
    words = statement.arguments.words
    name = ""
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            raise DockerfileError(
                f"invalid name for build stage: {quote(words[2])}, name can't start with a number or contain symbols"
            )
    elif len(words) != 1:
        raise DockerfileError("FROM requires either one or three arguments")
    return From(words[0], name, _flags(statement, {"platform": "text"}).text("platform"))


def _arg(statement: Statement) -> Arg:
    pairs: list[tuple[str, str | None]] = []
    for word in _some_arguments(statement):
        name, equals, default = word.partition("=")
        if not name:
            raise DockerfileError("ARG names can not be blank")
        pairs.append((name, default if equals else None))
    return Arg(tuple(pairs))


def _pairs(statement: Statement) -> tuple[tuple[str, str], ...]:
    _flags(statement)
    words = _some_arguments(statement)
    if not all(words[::2]):
        raise DockerfileError(f"{statement.name} names can not be blank")
    return tuple(zip(words[::2], words[1::2], strict=True))


def _run(statement: Statement) -> Run:
    flags = _flags(statement, _RUN_FLAGS)
    for mount in flags.many("mount"):
        check_mount_text(mount)
    network, security = flags.text("network", "default"), flags.text("security", "sandbox")
    if network not in ("default", "none", "host"):
        raise DockerfileError(f"invalid network mode {quote(network)}")
    if security not in ("sandbox", "insecure"):
        raise DockerfileError(f"security {quote(security)} is not valid")
    return Run(_command(statement), statement.heredocs, flags.many("mount"), flags.text("network"), flags.text("security"),
               flags.many("device"))  # fmt: skip


def _copy(statement: Statement) -> Copy:
    words = statement.arguments.words
    name = statement.name
    if len(words) < 2:
        raise DockerfileError(
            f"{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        )
    flags = _flags(statement, _ADD_FLAGS if name == "ADD" else _COPY_FLAGS)
    sources, heredocs = _sources(statement)
    source = flags.text("from")
    found = expansion(source, {}) if "$" in source else None
    if found and (found.used or found.undefined):
        raise DockerfileError(
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a "
            "workaround"
        )
    return Copy(
        sources, words[-1], heredocs, name == "ADD", source, flags.text("chown"), flags.text("chmod"), flags.is_true("link"),
        flags.is_true("parents"), flags.many("exclude"), flags.text("checksum"), flags.boolean("keep-git-dir"),
        flags.boolean("unpack"),
    )  # fmt: skip


def _sources(statement: Statement) -> tuple[tuple[str, ...], tuple[Heredoc, ...]]:
    """The sources that are paths and those that are here-documents."""
    if _opens_heredoc(statement.arguments.words[-1]):
        raise DockerfileError(f"{statement.name} cannot accept a heredoc as a destination")
    by_name = {heredoc.name: heredoc for heredoc in statement.heredocs}
    sources: list[str] = []
    heredocs: list[Heredoc] = []
    for word in statement.arguments.words[:-1]:
        name = _opens_heredoc(word)
        if name in by_name:
            heredocs.append(by_name[name])
        elif name:
            heredocs.append(Heredoc(name, ""))
        else:
            sources.append(word)
    return tuple(sources), tuple(heredocs)


def _opens_heredoc(word: str) -> str:
    """The name of the here-document a word opens, or nothing; an unbalanced quote makes it a path."""
    try:
        found = marker(word) if "<<" in word else None
    except DockerfileError:
        return ""
    return found.name if found else ""


def _healthcheck(statement: Statement) -> HealthcheckInstruction:
    words = statement.arguments.words
    if not words:
        raise DockerfileError("HEALTHCHECK requires at least one argument")
    kind, command = words[0].upper(), words[1:]
    if kind == "NONE":
        if command:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        _flags(statement, _TIMES)
        return HealthcheckInstruction(("NONE",))
    flags = _flags(statement, _TIMES)
    if kind != "CMD":
        raise DockerfileError(f"Unknown type {quote(kind)} in HEALTHCHECK (try CMD)")
    if not command:
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    test = ("CMD" if statement.arguments.json else "CMD-SHELL", *command)
    times = [parse_interval(name, flags.text(name)) for name in ("interval", "timeout", "start-period", "start-interval")]
    return HealthcheckInstruction(test, times[0], times[1], times[2], times[3], _retries(flags.text("retries")))


def _retries(text: str) -> int:
    if not text:
        return 0
    value = parse_int(text)
    if value is None:
        raise DockerfileError(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax")
    if not -(1 << 31) <= value < 1 << 31:
        raise DockerfileError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    if value < 0:
        raise DockerfileError(f"--retries cannot be negative ({value})")
    return value


def _shell(statement: Statement) -> Shell:
    words = _some_arguments(statement)
    if not statement.arguments.json:
        raise DockerfileError("SHELL requires the arguments to be in JSON form")
    return Shell(words)


def _volume(statement: Statement) -> Volume:
    paths = tuple(word.strip(SPACE) for word in _some_arguments(statement))
    if not all(paths):
        raise DockerfileError("VOLUME specified can not be an empty string")
    return Volume(paths)


def _onbuild(statement: Statement) -> Onbuild:
    trigger = _some_arguments(statement)[0].upper()
    if trigger == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    refuse_trigger(trigger)
    expression = _ONBUILD.sub("", statement.line, count=1)
    for heredoc, body in zip(statement.heredocs, statement.bodies, strict=True):
        text = body.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        expression += f"\n{text}{heredoc.name}"
    return Onbuild(expression)


def refuse_trigger(name: str) -> None:
    """Raises `DockerfileError` for an instruction that cannot be put off with ONBUILD."""
    if name in ("FROM", "MAINTAINER", "ONBUILD"):
        raise DockerfileError(f"{name} isn't allowed as an ONBUILD trigger")


def _run_command(build: Callable[[Command], Instruction]) -> Callable[[Statement], Instruction]:
    def make(statement: Statement) -> Instruction:
        _flags(statement)
        return build(_command(statement))

    return make


_BUILDERS: dict[str, Callable[[Statement], Instruction]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _run_command(Cmd),
    "COPY": _copy,
    "ENTRYPOINT": _run_command(Entrypoint),
    "ENV": lambda s: Env(_pairs(s)),
    "EXPOSE": lambda s: Expose(tuple(sorted(_some_arguments(s)))),
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": lambda s: Label(_pairs(s)),
    "MAINTAINER": lambda s: Maintainer(_one_argument(s)),
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": lambda s: Stopsignal(_one_argument(s)),
    "USER": lambda s: User(_one_argument(s)),
    "VOLUME": _volume,
    "WORKDIR": lambda s: Workdir(_one_argument(s)),
}
