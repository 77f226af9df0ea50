"""Instructions → steps, config and history of one stage. Pure: what it needs of base images is given to it."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from engine.dockerfile import mounts as mount_rules
from engine.dockerfile.expand import expand_heredoc, expand_words
from engine.dockerfile.expose import parse_ports
from engine.dockerfile.heredoc import is_heredoc_word
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
from engine.dockerfile.mounts import BindSpec, CacheSpec, MountSpec, SshSpec
from engine.dockerfile.signals import check_signal
from engine.dockerfile.sources import check_sources
from engine.errors import DockerfileError, EngineError
from engine.image.config import Healthcheck
from engine.plan.base import CopyOp, MountInput, PlannedHistory, RunOp, Source, WorkdirOp
from engine.plan.scope import proxy_args
from engine.plan.stage import Stage, format_pairs

SourceFinder = Callable[[str, int], Source]
"""What a `--from` name means in a stage of that index."""


class LowerInputs(Struct, frozen=True):
    """What lowering a stage depends on beside its instructions."""

    build_args: Mapping[str, str]
    global_args: Mapping[str, str]
    """ARGs before the first FROM and platform arguments: what an `ARG name` without default imports."""
    find: SourceFinder
    network: str = "default"
    no_cache: bool = False
    hostname: str = "buildkitsandbox"
    cache_namespace: str = ""
    """What the ids of cache mounts begin with, to keep them apart from others of the same name."""


def lower(stage: Stage, instructions: tuple[Instruction, ...], inputs: LowerInputs, text: str) -> None:
    """Reads instructions into a stage; raises `DockerfileError` with the place."""
    for instruction in instructions:
        try:
            _RULES[type(instruction)](stage, instruction, inputs)
        except EngineError as error:
            raise error.at(instruction.location, text) from None


def _arg(stage: Stage, arg: Arg, inputs: LowerInputs) -> None:
    expand = stage.expander()
    declared: dict[str, str | None] = {}
    for name, default in arg.pairs:
        if name in inputs.build_args:
            value: str | None = inputs.build_args[name]
        elif default is not None:
            value = expand(default)
        else:
            value = inputs.global_args.get(name)
        declared[name] = value
        stage.args[name] = value
        if value is not None:
            stage.variables[name] = value
    stage.note(f"ARG {format_pairs(declared)}")


def _env(stage: Stage, env: Env, inputs: LowerInputs) -> None:
    expand = stage.expander()
    pairs = [(expand(k), expand(v)) for k, v in env.pairs]
    for name, value in pairs:
        if not name:
            raise DockerfileError("ENV names can not be blank")
        stage.set_env(name, value)
    stage.note("ENV " + " ".join(f"{k}={v}" for k, v in pairs))


def _label(stage: Stage, label: Label, inputs: LowerInputs) -> None:
    pairs = [(stage.expand(k), stage.expand(v)) for k, v in label.pairs]
    if not all(k for k, _ in pairs):
        raise DockerfileError("LABEL names can not be blank")
    stage.set(labels={**stage.config.labels, **dict(pairs)})
    stage.note("LABEL " + " ".join(f"{k}={v}" for k, v in pairs))


def _run(stage: Stage, run: Run, inputs: LowerInputs) -> None:
    command, script = run.command, None
    mounts = tuple(_mount(stage, text, inputs) for text in run.mounts)
    if run.heredocs and command.shell:
        line, first = " ".join(command.words), run.heredocs[0]
        if not is_heredoc_word(line):
            line = line + "".join(f"\n{h.content}{h.name}" for h in run.heredocs)
        elif first.content.startswith("#!"):
            line, script = f"/dev/pipes/{first.name}", first.content
        else:
            line = first.content
        command = Command((line,), shell=True)
    if run.security not in ("", "sandbox"):
        raise DockerfileError(f"RUN --security={run.security} is not supported", hint="steps always run in the sandbox")
    if run.devices:
        raise DockerfileError("RUN --device is not supported", hint="steps see no devices of the host")
    network = run.network or inputs.network
    if network not in ("default", "none", "host"):
        raise DockerfileError(f'invalid network mode "{network}"', hint="use default, none or host")
    argv = stage.with_shell(command)
    op = RunOp(argv, tuple(stage.variables.items()), stage.workdir, stage.config.user, mounts, network,
               proxy_args(inputs.build_args), script, inputs.hostname)  # fmt: skip
    args = {name: stage.variables.get(name, "") for name in stage.args}
    prefix = f"|{len(args)} {format_pairs(args)} " if args else ""
    stage.step(op, f"RUN {prefix}{' '.join(argv)} # buildkit", run, no_cache=inputs.no_cache)


def _mount(stage: Stage, text: str, inputs: LowerInputs) -> MountInput:
    spec: MountSpec = mount_rules.parse_mount(mount_rules.expand_mount(text, stage.expander()))
    base = "/run/buildkit" if isinstance(spec, SshSpec) else stage.workdir
    target = getattr(spec, "target", "")
    if target and not target.startswith("/"):
        spec = replace(spec, target=posixpath.normpath(posixpath.join("/", base, target)))
    if isinstance(spec, CacheSpec) and inputs.cache_namespace:
        spec = replace(spec, id=f"{inputs.cache_namespace}/{spec.id}")
    if isinstance(spec, BindSpec):
        return MountInput(spec, inputs.find(spec.from_, stage.index) if spec.from_ else Source(None, ""))
    if isinstance(spec, CacheSpec) and spec.from_:
        return MountInput(spec, inputs.find(spec.from_, stage.index))
    return MountInput(spec)


def _copy(stage: Stage, copy: Copy, inputs: LowerInputs) -> None:
    expand = stage.expander()
    if "$" in copy.from_:
        raise DockerfileError("variable expansion is not supported for --from, define a new stage with FROM using ARG from "
                              "global scope as a workaround")  # fmt: skip
    source = inputs.find(copy.from_, stage.index) if copy.from_ else Source(None, "")
    heredocs = tuple(_expanded(stage, h) if h.expand else h for h in copy.heredocs)
    sources, destination = tuple(expand(s) for s in copy.sources), expand(copy.destination)
    chown, chmod, checksum = expand(copy.chown), expand(copy.chmod), expand(copy.checksum)
    check_sources(replace(copy, sources=sources, destination=destination, checksum=checksum))
    op = CopyOp(sources, destination, stage.workdir, source, heredocs, copy.add, chown, chmod, copy.link, copy.parents,
                copy.exclude, checksum, copy.keep_git_dir, copy.unpack)  # fmt: skip
    flags = "".join(f" --{k}={v}" for k, v in (("chown", chown), ("chmod", chmod)) if v) + (" --parents" if copy.parents else "")
    words = [*sources, *(f"<<{h.name}" for h in heredocs), destination]
    verb = "ADD" if copy.add else "COPY"
    stage.step(op, f"{verb}{flags} {' '.join(words)} # buildkit", copy, no_cache=inputs.no_cache)


def _expanded(stage: Stage, heredoc: Heredoc) -> Heredoc:
    return replace(heredoc, content=expand_heredoc(heredoc.content, stage.variables, escape=stage.escape))


def _workdir(stage: Stage, workdir: Workdir, inputs: LowerInputs) -> None:
    path = stage.expand(workdir.path)
    if not path.startswith("/"):
        path = posixpath.normpath(posixpath.join("/", stage.workdir, path))
    stage.set(working_dir=path)
    if posixpath.normpath(path).strip("/"):
        stage.step(WorkdirOp(path, stage.config.user), f"WORKDIR {path}", workdir, no_cache=inputs.no_cache)
    else:
        stage.note(f"WORKDIR {path}")


def _user(stage: Stage, user: User, inputs: LowerInputs) -> None:
    stage.set(user=stage.expand(user.user))
    stage.note(f"USER {stage.config.user}")


def _volume(stage: Stage, volume: Volume, inputs: LowerInputs) -> None:
    paths = [stage.expand(p) for p in volume.paths]
    if not all(paths):
        raise DockerfileError("VOLUME specified can not be an empty string")
    stage.set(volumes=tuple(dict.fromkeys((*stage.config.volumes, *paths))))
    stage.note(f"VOLUME [{' '.join(paths)}]")


def _expose(stage: Stage, expose: Expose, inputs: LowerInputs) -> None:
    words = [w for text in expose.ports for w in expand_words(text, stage.variables, escape=stage.escape)]
    ports = parse_ports(words)
    stage.set(exposed_ports=tuple(dict.fromkeys((*stage.config.exposed_ports, *ports))))
    stage.note(f"EXPOSE [{' '.join(ports)}]")


def _quoted(words: tuple[str, ...]) -> str:
    return "[" + " ".join(json.dumps(w, ensure_ascii=False) for w in words) + "]"


def _cmd(stage: Stage, cmd: Cmd, inputs: LowerInputs) -> None:
    words = stage.with_shell(cmd.command)
    stage.set(cmd=words, args_escaped=True)
    stage.cmd_set = True
    stage.note(f"CMD {_quoted(words)}")


def _entrypoint(stage: Stage, entrypoint: Entrypoint, inputs: LowerInputs) -> None:
    words = stage.with_shell(entrypoint.command)
    stage.set(entrypoint=words)
    if not stage.cmd_set:
        stage.set(cmd=None)
    stage.note(f"ENTRYPOINT {_quoted(words)}")


def _healthcheck(stage: Stage, check: HealthcheckInstruction, inputs: LowerInputs) -> None:
    test = check.test
    health = Healthcheck(test, check.interval, check.timeout, check.start_period, check.start_interval, check.retries)
    stage.set(healthcheck=health)
    times = " ".join(f"{k}:{_duration(v)}" for k, v in (("Interval", health.interval), ("Timeout", health.timeout),
                     ("StartPeriod", health.start_period), ("StartInterval", health.start_interval)))  # fmt: skip
    stage.note(f"HEALTHCHECK {{Test:[{' '.join(test)}] {times} Retries:{health.retries}}}")


def _duration(nanoseconds: int) -> str:
    """A duration as Go prints it: 1m30s, 500ms, 2h0m0s."""
    if nanoseconds < 10**9:
        return next((f"{nanoseconds / unit:g}{name}" for unit, name in ((10**6, "ms"), (10**3, "µs"), (1, "ns"))
                     if nanoseconds >= unit), "0s")  # fmt: skip
    minutes, seconds = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{seconds / 1e9:.9f}".rstrip("0").rstrip(".") + "s"
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}" if minutes else text


def _stopsignal(stage: Stage, stop: Stopsignal, inputs: LowerInputs) -> None:
    signal = stage.expand(stop.signal)
    check_signal(signal)
    stage.set(stop_signal=signal)
    stage.note(f"STOPSIGNAL {signal}")


def _shell(stage: Stage, shell: Shell, inputs: LowerInputs) -> None:
    stage.set(shell=shell.words)
    stage.note(f"SHELL [{' '.join(shell.words)}]")


def _onbuild(stage: Stage, onbuild: Onbuild, inputs: LowerInputs) -> None:
    stage.triggers.append(onbuild.expression)
    stage.set(on_build=(*stage.config.on_build, onbuild.expression))


def _maintainer(stage: Stage, maintainer: Maintainer, inputs: LowerInputs) -> None:
    stage.author = maintainer.author
    stage.history.append(PlannedHistory(f"MAINTAINER {maintainer.author}"))


def _from(stage: Stage, origin: From, inputs: LowerInputs) -> None:
    raise DockerfileError("FROM isn't allowed as an ONBUILD trigger")


_RULES: Mapping[type, Callable[..., None]] = {
    Arg: _arg, Env: _env, Label: _label, Run: _run, Copy: _copy, Workdir: _workdir, User: _user, Volume: _volume,
    Expose: _expose, Cmd: _cmd, Entrypoint: _entrypoint, HealthcheckInstruction: _healthcheck, Stopsignal: _stopsignal,
    Shell: _shell, Onbuild: _onbuild, Maintainer: _maintainer, From: _from,
}  # fmt: skip
