"""From a command line to the values that a build is made of. What is read from the process (environment, standard input) is
an argument."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import replace

from engine.cli import amounts, carried, flags, paths
from engine.cli.caches import caches
from engine.errors import DockerfileError, UsageError
from engine.image.reference import Reference
from engine.request import BuildRequest
from engine.settings import Compression, Settings

MAX_DOCKERFILE_SIZE = 16 << 20
"""Bytes read from standard input for `-f -`."""
_LEVELS: dict[str, range] = {"gzip": range(0, 10), "zstd": range(1, 23), "none": range(0)}


def settings(arguments: argparse.Namespace, environ: Mapping[str, str], config: Mapping[str, object]) -> Settings:
    """What holds for the engine. `config` is docker's."""
    return Settings(
        state_dir=paths.state_dir(arguments.state_dir, environ),
        isolation=arguments.isolation,
        snapshots=arguments.snapshots,
        insecure_registries=frozenset(arguments.insecure_registry),
        auth=config,
        environment=dict(environ),
        ca_file=Path(environ["SSL_CERT_FILE"]) if environ.get("SSL_CERT_FILE") else None,
    )


def request(
    arguments: argparse.Namespace, environ: Mapping[str, str], config: Mapping[str, object], stdin: BinaryIO
) -> BuildRequest:
    """The build that is asked for. `config` is docker's. Raises `UsageError` for flags that contradict each other."""
    if arguments.context == "-" and arguments.file == "-":
        raise UsageError("standard input cannot be both the context and the Dockerfile",
                         hint="give the context as a directory or a file")
    if not arguments.context:
        raise UsageError("the context is empty", hint="end the command with a directory: aniko build .")
    out = flags.outputs(arguments.output, push=arguments.push)
    tags = _tags([*arguments.tag, *out.names], by_digest=out.by_digest)
    if not tags and any(output.kind == "registry" for output in out.outputs):
        raise UsageError("a tag is needed to push", hint="name the image: -t REGISTRY/NAME:TAG")
    args = _build_args(arguments.build_arg, environ, config)
    compression, level = _compression(arguments, out.image)
    annotations = {k.removeprefix("annotation."): v for k, v in out.image.items() if k.startswith("annotation.")}
    cache = caches(arguments.cache_from, arguments.cache_to, arguments.cache_repo, arguments.cache_scope)
    secrets = [flags.secret(value, environ) for value in arguments.secret]
    agents = [flags.ssh(value, environ) for value in arguments.ssh]
    return BuildRequest(
        context=arguments.context,
        dockerfile=None if arguments.file == "-" else arguments.file,
        dockerfile_text=_dockerfile(stdin) if arguments.file == "-" else None,
        tags=tags,
        build_args=args,
        target=arguments.target,
        platforms=flags.platforms(arguments.platform, flags.local_platform()),
        labels=flags.pairs(arguments.label, "--label"),
        annotations=annotations | flags.manifest_annotations(arguments.annotation),
        secrets={secret.id: secret for secret in secrets},
        ssh={agent.id: agent for agent in agents},
        contexts=_contexts(arguments.build_context),
        network=arguments.network,
        no_cache=arguments.no_cache,
        pull=arguments.pull,
        outputs=out.outputs,
        compression=compression,
        compression_level=level,
        force_compression=flags.boolean(out.image.get("force-compression", "false"), "force-compression"),
        docker_types=not flags.boolean(out.image.get("oci-mediatypes", "true"), "oci-mediatypes"),
        source_date_epoch=_epoch(args),
        rewrite_timestamp=flags.boolean(out.image.get("rewrite-timestamp", "false"), "rewrite-timestamp"),
        cache_from=cache.sources,
        cache_to=cache.target,
        cache_inline=cache.inline,
        cache_scopes=cache.scopes,
        cache_ttl=amounts.seconds(arguments.cache_ttl),
        cache_mounts_from=carried.sources(arguments.cache_mounts_from),
        cache_mounts_to=carried.target(arguments.cache_mounts_to),
        explain=arguments.explain or arguments.progress == "json",
    )


def _tags(values: Sequence[str], *, by_digest: bool) -> tuple[Reference, ...]:
    """The names of the image; those that are pushed by digest have no tag, also not `latest`."""
    tags = tuple(dict.fromkeys(Reference.parse(value) for value in values))
    if by_digest:
        for value in values:
            if ":" in value.rpartition("/")[2]:
                raise UsageError(f"can't push tagged ref {value} by digest", hint="name the repository alone")
        tags = tuple(replace(tag, tag=None) for tag in tags)
    for tag in tags:
        if tag.digest:
            raise UsageError(f"invalid tag {tag}: a name to build for cannot have a digest")
    return tags


def _build_args(values: Sequence[str], environ: Mapping[str, str], config: Mapping[str, object]) -> dict[str, str]:
    """What is given; and, as docker buildx has it, the proxies of docker's configuration and SOURCE_DATE_EPOCH."""
    args = paths.proxies(config) | flags.build_args(values, environ)
    if environ.get("SOURCE_DATE_EPOCH") and "SOURCE_DATE_EPOCH" not in args:
        args["SOURCE_DATE_EPOCH"] = environ["SOURCE_DATE_EPOCH"]
    return args


def _epoch(args: Mapping[str, str]) -> int | None:
    text = args.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"invalid SOURCE_DATE_EPOCH {text!r}", hint="give seconds since 1970, as date +%s prints them")
    return int(text)


def _compression(arguments: argparse.Namespace, image: Mapping[str, str]) -> tuple[Compression, int | None]:
    name: str = arguments.compression or image.get("compression") or "gzip"
    if arguments.compression and image.get("compression", name) != name:
        raise UsageError(f"--compression {name} contradicts --output compression={image['compression']}")
    levels = _LEVELS.get("none" if name == "uncompressed" else name)
    if levels is None:
        raise UsageError(f"unsupported compression {name!r}", hint="gzip, zstd or none")
    text = image.get("compression-level")
    if text and not (text.isascii() and text.isdigit()):
        raise UsageError(f"invalid compression-level {text!r}")
    level: int | None = arguments.compression_level if arguments.compression_level is not None else int(text) if text else None
    if level is not None and level not in levels:
        raise UsageError(f"invalid compression level {level} for {name}",
                         hint=f"{levels[0]} to {levels[-1]}" if levels else "leave --compression-level out")
    return ("gzip" if name == "gzip" else "zstd" if name == "zstd" else "none"), level


def _contexts(values: Sequence[str]) -> dict[str, str]:
    named = flags.pairs(values, "--build-context")
    for name, source in named.items():
        if not source:
            raise UsageError(f"build context {name} has no source", hint=f"--build-context {name}=DIR")
    return named


def _dockerfile(stdin: BinaryIO) -> str:
    data = stdin.read(MAX_DOCKERFILE_SIZE + 1)
    if len(data) > MAX_DOCKERFILE_SIZE:
        raise DockerfileError(f"the Dockerfile on standard input is larger than {MAX_DOCKERFILE_SIZE} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DockerfileError(f"the Dockerfile on standard input is not UTF-8: {error.reason}") from error
