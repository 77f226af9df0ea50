"""`aniko build`: the flags of docker buildx build, and some of its own."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from engine.cli.parser import add_switch
from engine.errors import EngineError, RunError, UsageError

if TYPE_CHECKING:
    from engine.progress.base import Renderer
    from engine.progress.events import Event, Sink
    from engine.request import BuildRequest, BuildResult
    from engine.settings import Settings
    from engine.workers.spawn import Spawned

SUMMARY = "build an image from a Dockerfile"

ELSEWHERE = {
    "--load": "there is no daemon to load into: write -o type=docker,dest=image.tar, and load that",
    "--builder": "there are no builders: everything runs in this process",
    "--squash": "a stage `FROM scratch` with `COPY --from=…` makes one layer",
    "--rm": "nothing is left behind by a build",
    "--force-rm": "nothing is left behind by a build",
} | dict.fromkeys(
    ("--add-host", "--allow", "--attest", "--call", "--cgroup-parent",
     "--no-cache-filter", "--policy", "--shm-size", "--ulimit"), "docker buildx has it, aniko has not yet",
)  # fmt: skip
"""Flags that people know from other builders, and what to do instead."""


def configure(parser: argparse.ArgumentParser) -> None:
    """All flags, in the groups that the help shows."""
    parser.usage = f"{parser.prog} [flags] CONTEXT"
    parser.add_argument("context", metavar="CONTEXT",
                        help="a directory, a tar file, a git or http URL, or - for a tar (or a Dockerfile) on standard input")
    _configure_image(parser.add_argument_group("the image"))
    _configure_inputs(parser.add_argument_group("what goes into it"))
    _configure_outputs(parser.add_argument_group("where it goes"))
    _configure_engine(parser.add_argument_group("how it is built"))
    _configure_cache(parser.add_argument_group("what is known of earlier builds"))


def _configure_image(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-f", "--file", metavar="PATH",
                       help="the Dockerfile, or - for standard input (default: CONTEXT/Dockerfile)")
    group.add_argument("-t", "--tag", metavar="NAME", action="append", default=[],
                       help="a name for the image: [REGISTRY/]NAME[:TAG]")
    group.add_argument("--target", metavar="STAGE", default="", help="the stage to build (default: the last)")
    group.add_argument("--platform", metavar="OS/ARCH", action="append", default=[],
                       help="what to build for, with commas between several; `local` is this machine")
    group.add_argument("--label", metavar="K=V", action="append", default=[], help="a label in the image's config")
    group.add_argument("--annotation", metavar="K=V", action="append", default=[], help="an annotation of the image's manifest")
    group.add_argument("--compression", choices=("gzip", "zstd", "none"), help="of new layers (default: gzip)")
    group.add_argument("--compression-level", metavar="N", type=int, help="gzip: 0 to 9, zstd: 1 to 22")


def _configure_inputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--build-arg", metavar="K[=V]", action="append", default=[],
                       help="a value for ARG K; without =V that of the environment variable K, if it is set")
    group.add_argument("--build-context", metavar="NAME=SOURCE", action="append", default=[],
                       help="another context, for FROM NAME and --from=NAME: a directory, tar, URL, docker-image://REF, "
                            "oci-layout://DIR, target:STAGE")
    group.add_argument("--secret", metavar="id=ID[,src=PATH|env=VAR]", action="append", default=[],
                       help="a secret for RUN --mount=type=secret; an id alone is a variable's or file's name")
    group.add_argument("--ssh", metavar="default|ID[=PATH]", action="append", default=[],
                       help="an SSH agent's socket, or keys, for RUN --mount=type=ssh")
    add_switch(group, "--pull", help="ask the registry whether it has newer base images")


def _configure_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-o", "--output", metavar="type=TYPE[,dest=PATH]", action="append", default=[],
                       help="registry, oci, docker, tar or local; tar=false writes oci and docker as a directory; "
                            "DIR means type=local, - a tar to standard output")
    add_switch(group, "--push", help="push the image under its names: the same as --output type=registry")
    group.add_argument("--iidfile", metavar="PATH", help="write the image's id (its config's digest, or the index's) to a file")
    group.add_argument("--metadata-file", metavar="PATH", help="write digests and names to a file, as JSON")
    for name in ("--provenance", "--sbom"):
        group.add_argument(name, choices=("false",), help="no attestations are made: only the value false is taken")
    group.add_argument("--insecure-registry", metavar="HOST[:PORT]", action="append", default=[],
                       help="speak http, or https with a certificate that nobody checks, to this registry "
                            "(not needed on the loopback)")


def _configure_engine(group: argparse._ArgumentGroup) -> None:
    add_switch(group, "--check", help="check the Dockerfile and build nothing; exit code 1 if there are warnings")
    group.add_argument("--network", choices=("default", "none", "host"), default="default", help="the network of RUN")
    group.add_argument("--isolation", choices=("auto", "userns", "chroot"), default="auto",
                       help="how RUN is kept apart from this machine")
    group.add_argument("--snapshots", choices=("auto", "overlay", "walk"), default="auto",
                       help="how the changes of a RUN are found")
    group.add_argument("--state-dir", metavar="DIR",
                       help="where blobs, layers and records are kept (default: $ANIKO_STATE_DIR, else aniko in the XDG state "
                            "directory)")
    group.add_argument("--progress", choices=("auto", "tty", "plain", "json", "quiet"),
                       help="how to show progress (default: auto)")
    group.add_argument("--trace", metavar="FILE", help="write where the time went, for chrome://tracing or ui.perfetto.dev")
    add_switch(group, "-q", "--quiet", help="show nothing but errors; print the image's digest on standard output")


def _configure_cache(group: argparse._ArgumentGroup) -> None:
    add_switch(group, "--no-cache", help="run every step, and keep what comes of it in place of earlier results")
    group.add_argument("--cache-from", metavar="type=TYPE,ref=REF|src=DIR", action="append", default=[],
                       help="look for results in a repository or an image (type=registry,ref=REF, or REF alone), or in a directory "
                            "(type=local,src=DIR), too")
    group.add_argument("--cache-to", metavar="type=TYPE[,ref=REF|dest=DIR][,mode=min|max]", action="append", default=[],
                       help="write results to a repository (type=registry,ref=REF) or a directory (type=local,dest=DIR): those in "
                            "the image (min), or all (max); or into the image (type=inline)")
    group.add_argument("--cache-repo", metavar="REF", help="the same as --cache-from REF --cache-to type=registry,ref=REF,mode=max")
    group.add_argument("--cache-scope", metavar="NAME[,NAME]", action="append", default=[],
                       help="parts of the caches, such as branches: the first is written, all are read")
    group.add_argument("--cache-ttl", metavar="TIME", help="results in registries that are older do not count: 24h, 14d")
    group.add_argument("--cache-mounts-from", metavar="REF", action="append", default=[],
                       help="where cache mounts are restored from: a repository, whose tag is a scope such as a branch")
    group.add_argument("--cache-mounts-to", metavar="REF", action="append", default=[],
                       help="where the cache mounts of the steps that ran are saved to: what has changed of them travels")
    add_switch(group, "--explain", help="say of each step where its result was found, or what changed that it was not")


def execute(arguments: argparse.Namespace) -> int:
    """Builds; returns 0, or with JSON progress the code of the error that is the last JSON line."""
    from engine.cli import failure, inputs, paths

    renderer = _renderer(arguments, os.environ)
    try:
        config = paths.docker_config(os.environ)
        request = inputs.request(arguments, os.environ, config, sys.stdin.buffer)
        _refuse_terminals(request, quiet=_is_quiet(arguments))
        settings = inputs.settings(arguments, os.environ, config)
        if arguments.check:
            return _check(settings, request, renderer)
        _build(arguments, settings, request, renderer)
    except Exception as error:
        renderer.close()
        told = failure.cause(error)
        if arguments.progress == "json" and isinstance(told, EngineError):
            return _tell_program(renderer, told)
        if isinstance(told, RunError) and renderer.shows_output:
            told.output = ()
        raise
    return 0


def _build(arguments: argparse.Namespace, settings: Settings, request: BuildRequest, renderer: Renderer) -> None:
    from engine.cli import loop, results

    stdin = sys.stdin.buffer if request.context == "-" else None
    with _spawned(settings, request) as spawned, _traced(arguments.trace, renderer) as sink:
        result = loop.run(lambda: _run(settings, request, renderer, sink, stdin, spawned))
    renderer.close()
    results.write(result, iidfile=arguments.iidfile, metadata_file=arguments.metadata_file)
    if _is_quiet(arguments):
        print(result.digest)
    elif arguments.progress != "json":
        sys.stderr.write(results.summary(request, result))


@contextmanager
def _spawned(settings: Settings, request: BuildRequest) -> Iterator[Spawned | None]:
    """The process for workers, before much else is imported, if nothing of the build can be known: hardly any needs none then."""
    from engine.cli import paths

    if request.cache_from or not paths.is_new(settings.state_dir):
        yield None
        return
    from engine.workers.spawn import spawn

    with spawn() as spawned:
        yield spawned


@contextmanager
def _traced(path: str | None, renderer: Renderer) -> Iterator[Sink]:
    """The sink of a build, whose trace is written in the end, also if the build fails."""
    if path is None:
        yield renderer
        return
    from engine.progress.spans import recording
    from engine.progress.trace import Trace

    trace = Trace()

    def both(event: Event) -> None:
        trace(event)
        renderer(event)

    try:
        with recording(trace.span):
            yield both
    finally:
        trace.write(Path(path))


def _check(settings: Settings, request: BuildRequest, renderer: Renderer) -> int:
    """Checks the Dockerfile; returns 0 if there is nothing to say of it, else 1."""
    from engine.cli import loop

    async def check() -> int:
        from engine import Engine

        async with Engine(settings) as engine:
            return await engine.check(request, sink=renderer, stdin=sys.stdin.buffer if request.context == "-" else None)

    count = loop.run(check)
    renderer.close()
    sys.stderr.write(f"check complete, {count or 'no'} warning{'' if count == 1 else 's'} found\n")
    return 1 if count else 0


async def _run(settings: Settings, request: BuildRequest, renderer: Renderer, sink: Sink,
               stdin: BinaryIO | None, spawned: Spawned | None) -> BuildResult:  # fmt: skip
    import anyio

    from engine import Engine

    async def tick() -> None:
        while True:
            await anyio.sleep(0.1)
            renderer.tick()

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        async with Engine(settings, spawned=spawned) as engine:
            result = await engine.build(request, sink=sink, stdin=stdin)
        group.cancel_scope.cancel()
    return result


def _is_quiet(arguments: argparse.Namespace) -> bool:
    return bool(arguments.quiet) or arguments.progress == "quiet"


def _renderer(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Renderer:
    """The renderer that is asked for, on standard error."""
    if arguments.quiet and arguments.progress not in (None, "quiet"):
        raise UsageError(f"--progress {arguments.progress} and --quiet cannot be used together", hint="leave one of them out")
    stream, colour = sys.stderr, not environ.get("NO_COLOR")
    terminal = stream.isatty()
    kind = "quiet" if arguments.quiet else arguments.progress or "auto"
    if kind == "tty" and not terminal:
        raise UsageError("--progress tty needs a terminal on standard error", hint="use --progress plain")
    if kind == "auto":
        kind = "tty" if terminal and environ.get("TERM", "dumb") != "dumb" else "plain"
    if kind == "tty":
        from engine.progress.tty import TtyRenderer

        return TtyRenderer(stream, _terminal_size, colour=colour)
    if kind == "plain":
        from engine.progress.plain import PlainRenderer

        return PlainRenderer(stream, colour=colour)
    if kind == "json":
        from engine.progress.json import JsonRenderer

        return JsonRenderer(stream)
    from engine.progress.quiet import QuietRenderer

    return QuietRenderer()


def _terminal_size() -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except OSError:
        columns = rows = 0
    fallback = shutil.get_terminal_size()
    return columns or fallback.columns, rows or fallback.lines


def _refuse_terminals(request: BuildRequest, *, quiet: bool) -> None:
    """Neither reads a tar from a terminal, nor writes one to it, nor mixes one with the digest."""
    if request.context == "-" and sys.stdin.isatty():
        raise UsageError("the context is read from standard input, which is a terminal", hint="aniko build - < context.tar")
    if not any(output.destination is None and output.kind != "registry" for output in request.outputs):
        return
    if sys.stdout.isatty():
        raise UsageError("refusing to write an archive to a terminal", hint="redirect it, or name a file: dest=PATH")
    if quiet:
        raise UsageError("standard output cannot take both an archive and the digest that --quiet prints",
                         hint="write the archive to a file with dest=PATH, or use --progress plain")


def _tell_program(renderer: Renderer, error: EngineError) -> int:
    from engine.cli import failure
    from engine.progress.json import JsonRenderer

    if isinstance(renderer, JsonRenderer):
        renderer.write("error", failure.fields(error))
    return error.exit_code
