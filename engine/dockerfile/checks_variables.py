"""The checks that need the values of variables: what a stage defines, what it uses, what FROM is made of."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct, field

from engine.dockerfile.expand import Expanded, expand_words, expansion, heredoc_expansion
from engine.dockerfile.expose import split_port
from engine.dockerfile.gotext import quote
from engine.dockerfile.ignore import IgnoreMatcher
from engine.dockerfile.instructions import (
    Arg,
    Copy,
    Dockerfile,
    Env,
    Expose,
    From,
    Instruction,
    Label,
    Run,
    StageBlock,
    Stopsignal,
    User,
    Volume,
    Warning_,
    Workdir,
)
from engine.dockerfile.mounts import expand_mount
from engine.dockerfile.suggest import suggest
from engine.errors import DockerfileError, UsageError
from engine.image.platform import Platform
from engine.image.reference import Reference

_PREDEFINED = {
    f"{side}{name}": value
    for side in ("BUILD", "TARGET")
    for name, value in (("PLATFORM", "linux/amd64"), ("OS", "linux"), ("OSVERSION", ""), ("ARCH", "amd64"), ("VARIANT", ""))
} | {"TARGETSTAGE": "default"}
_NEVER_REPORTED = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")


class _Scope(Struct):
    """What is known of a stage's variables at one point: values, names without a value, and whether that is all."""

    values: dict[str, str]
    declared: set[str] = field(default_factory=set)
    complete: bool = False
    workdir_set: bool = False

    def copy(self) -> _Scope:
        return _Scope(dict(self.values), set(self.declared), self.complete, self.workdir_set)


def check_variables(
    dockerfile: Dockerfile, environments: Mapping[str, Collection[str]], ignored: IgnoreMatcher | None
) -> Iterator[Warning_]:
    """The warnings of these checks, in no particular order."""
    global_args, declared = _global_args(dockerfile)
    scopes: dict[str, _Scope] = {}
    for stage in dockerfile.stages:
        yield from _from(stage.origin, global_args, declared, dockerfile.escape)
        base = _expansion(stage.origin.image, global_args, dockerfile.escape).text
        if base.lower() in scopes:
            scope = scopes[base.lower()].copy()
        else:
            known = () if base == "scratch" else environments.get(stage.origin.image, environments.get(base))
            scope = _Scope(dict.fromkeys(("PATH", *(known or ())), ""), complete=known is not None)
        yield from _stage(stage, scope, global_args, dockerfile.escape, ignored)
        if stage.origin.name:
            scopes[stage.origin.name] = scope


def _expansion(text: str, variables: Mapping[str, str], escape: str) -> Expanded:
    """The expansion of a text; of one that cannot be expanded (an error of its own, elsewhere), nothing."""
    try:
        return expansion(text, variables, escape=escape)
    except DockerfileError:
        return Expanded("", (), frozenset(), frozenset())


def _global_args(dockerfile: Dockerfile) -> tuple[dict[str, str], list[str]]:
    """The values of the ARGs before the first FROM by their defaults, and all names that FROM may use."""
    values, names = dict(_PREDEFINED), list(_PREDEFINED)
    for arg in dockerfile.global_args:
        for name, default in arg.pairs:
            names.append(name)
            if default is not None:
                values[name] = _expansion(default, values, dockerfile.escape).text
    return values, names


def _from(origin: From, values: Mapping[str, str], declared: Collection[str], escape: str) -> Iterator[Warning_]:
    image = _expansion(origin.image, values, escape)
    platform = _expansion(origin.platform, values, escape)
    for name in sorted(image.undefined) + sorted(platform.undefined):
        if name not in declared:
            near = suggest(name, declared, case_sensitive=True)
            hint = f" (did you mean {near}?)" if near else ""
            yield Warning_("UndefinedArgInFrom", f"FROM argument '{name}' is not declared{hint}", origin.location)
    try:
        Reference.parse(image.text)
    except UsageError:
        message = f"Default value for ARG {origin.image} results in empty or invalid base image name"
        yield Warning_("InvalidDefaultArgInFrom", message, origin.location)
    if not origin.platform:
        return
    if platform.used == {"TARGETPLATFORM"} and not platform.undefined and platform.text == values["TARGETPLATFORM"]:
        message = f"Setting platform to predefined {origin.platform} in FROM is redundant as this is the default behavior"
        yield Warning_("RedundantTargetPlatform", message, origin.location)
    elif not platform.used and not platform.undefined:
        yield from _constant_platform(origin, platform.text)


def _constant_platform(origin: From, text: str) -> Iterator[Warning_]:
    try:
        platform = Platform.parse(text)
    except UsageError:
        return
    if platform.os not in origin.name and platform.architecture not in origin.name:
        message = f"FROM --platform flag should not use constant value {quote(text)}"
        yield Warning_("FromPlatformFlagConstDisallowed", message, origin.location)


def _stage(
    stage: StageBlock, scope: _Scope, global_args: Mapping[str, str], escape: str, ignored: IgnoreMatcher | None
) -> Iterator[Warning_]:
    for instruction in stage.instructions:
        yield from _undefined(instruction, scope, global_args, escape)
        if isinstance(instruction, Workdir):
            yield from _workdir(instruction, scope, escape)
        elif isinstance(instruction, Expose):
            yield from _expose(instruction, scope, escape)
        elif isinstance(instruction, Copy) and ignored is not None and not ignored.has_exceptions and not instruction.from_:
            yield from _ignored(instruction, scope, ignored, escape)
        elif isinstance(instruction, Env):
            values = dict(scope.values)
            for key, value in instruction.pairs:
                scope.values[_expansion(key, values, escape).text] = _expansion(value, values, escape).text
        elif isinstance(instruction, Arg):
            _declare(instruction, scope, global_args, escape)


def _declare(arg: Arg, scope: _Scope, global_args: Mapping[str, str], escape: str) -> None:
    for name, default in arg.pairs:
        scope.declared.add(name)
        if default is not None:
            scope.values[name] = _expansion(default, {**global_args, **scope.values}, escape).text
        elif name in global_args:
            scope.values[name] = global_args[name]


def _undefined(
    instruction: Instruction, scope: _Scope, global_args: Mapping[str, str], escape: str
) -> Iterator[Warning_]:
    if not scope.complete:
        return
    values = {**global_args, **scope.values} if isinstance(instruction, Arg) else scope.values
    missing: set[str] = set()
    for text in _expanded_texts(instruction):
        missing |= _expansion(text, values, escape).undefined
    if isinstance(instruction, Copy):
        for heredoc in instruction.heredocs:
            if heredoc.expand:
                missing |= _heredoc_undefined(heredoc.content, values)
    for name in sorted(missing - scope.declared):
        if name not in _NEVER_REPORTED:
            near = suggest(name, values, case_sensitive=True)
            hint = f" (did you mean ${near}?)" if near else ""
            yield Warning_("UndefinedVar", f"Usage of undefined variable '${name}'{hint}", instruction.location)


def _heredoc_undefined(content: str, values: Mapping[str, str]) -> frozenset[str]:
    try:
        return heredoc_expansion(content, values).undefined
    except DockerfileError:
        return frozenset()


def _expanded_texts(instruction: Instruction) -> list[str]:
    """The texts of an instruction in which the builder replaces variables (rule A2), ports excepted."""
    if isinstance(instruction, Env | Label):
        return [text for pair in instruction.pairs for text in pair]
    if isinstance(instruction, Arg):
        return [default for _, default in instruction.pairs if default is not None]
    if isinstance(instruction, Copy):
        return [*instruction.sources, instruction.destination, instruction.chown, instruction.chmod, instruction.checksum]
    if isinstance(instruction, Workdir):
        return [instruction.path]
    if isinstance(instruction, User):
        return [instruction.user]
    if isinstance(instruction, Volume):
        return list(instruction.paths)
    if isinstance(instruction, Stopsignal):
        return [instruction.signal]
    if isinstance(instruction, Run):
        return _mount_texts(instruction)
    return []


def _mount_texts(run: Run) -> list[str]:
    texts: list[str] = []

    def collect(text: str) -> str:
        texts.append(text)
        return text

    for mount in run.mounts:
        expand_mount(mount, collect)
    return texts


def _workdir(workdir: Workdir, scope: _Scope, escape: str) -> Iterator[Warning_]:
    path = _expansion(workdir.path, scope.values, escape)
    known = scope.complete or not path.undefined
    if not scope.workdir_set and known and not path.text.startswith("/"):
        message = f"Relative workdir {quote(path.text)} can have unexpected results if the base image changes"
        yield Warning_("WorkdirRelativePath", message, workdir.location)
    scope.workdir_set = True


def _expose(expose: Expose, scope: _Scope, escape: str) -> Iterator[Warning_]:
    for text in expose.ports:
        try:
            words = expand_words(text, scope.values, escape=escape)
        except DockerfileError:
            continue
        for word in words:
            address, host, _, protocol = split_port(word)
            if protocol != protocol.lower():
                message = f"Defined protocol '{word}' in EXPOSE instruction should be lowercase"
                yield Warning_("ExposeProtoCasing", message, expose.location)
            if address or host:
                message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
                yield Warning_("ExposeInvalidFormat", message, expose.location)


def _ignored(copy: Copy, scope: _Scope, ignored: IgnoreMatcher, escape: str) -> Iterator[Warning_]:
    for source in copy.sources:
        path = posixpath.normpath(_expansion(source, scope.values, escape).text or ".")
        if ignored.excluded(path):
            verb = "Add" if copy.add else "Copy"
            message = f"Attempting to {verb} file {quote(path)} that is excluded by .dockerignore"
            yield Warning_("CopyIgnoredFile", message, copy.location)
