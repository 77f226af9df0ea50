"""What named contexts (`--build-context NAME=SOURCE`) put in the place of images and stages. Pure.

A name is compared as docker buildx does: `alpine`, `alpine:latest` and `docker.io/library/alpine` are one name.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.dockerfile.instructions import Dockerfile
from engine.dockerfile.suggest import did_you_mean
from engine.errors import DockerfileError, UsageError
from engine.image.reference import Reference, layout_reference

_IMAGE, _LAYOUT, _TARGET = "docker-image://", "oci-layout://", "target:"


def context_name(name: str, contexts: Mapping[str, str]) -> str | None:
    """The named context that is meant by what stands in FROM or `from=`; None when it means something else."""
    if name in contexts or not contexts:
        return name if contexts else None
    wanted = _normal(name)
    return next((key for key in contexts if _normal(key) == wanted), None)


def _normal(name: str) -> str:
    try:
        return Reference.parse(name).familiar.removesuffix(":latest")
    except UsageError:
        return name


def is_files(spec: str) -> bool:
    """Whether a named context is a place with files, and neither an image nor a stage."""
    return bool(spec) and not spec.startswith((_IMAGE, _LAYOUT, _TARGET))


def image_reference(name: str, contexts: Mapping[str, str]) -> Reference:
    """The image a name means: itself, or what a named context (`docker-image://…`, `oci-layout://…`) puts in its place."""
    spec = contexts.get(context_name(name, contexts) or "", "")
    if spec.startswith(_IMAGE):
        return Reference.parse(spec.removeprefix(_IMAGE))
    if spec.startswith(_LAYOUT):
        return layout_reference(spec)
    return Reference.parse(name)


def find_stage(dockerfile: Dockerfile, wanted: str) -> int | None:
    """A stage by its name, in any case (the last of that name), or by its number."""
    for block in reversed(dockerfile.stages):
        if block.origin.name and block.origin.name == wanted.lower():
            return block.index
    return int(wanted) if wanted.isdecimal() and int(wanted) < len(dockerfile.stages) else None


def target_contexts(dockerfile: Dockerfile, contexts: Mapping[str, str]) -> dict[str, int]:
    """The named contexts that stand for stages (`target:STAGE`), with the stage's number. Raises `DockerfileError` for a stage that
    does not exist."""
    found: dict[str, int] = {}
    for name, spec in contexts.items():
        if spec.startswith(_TARGET):
            wanted = spec.removeprefix(_TARGET)
            index = find_stage(dockerfile, wanted)
            if index is None:
                near = did_you_mean(wanted, [b.origin.name for b in dockerfile.stages if b.origin.name], case_sensitive=False)
                raise DockerfileError(f'build context {name}: target stage "{wanted}" could not be found{near}',
                                      hint=f"--build-context {name}=target:STAGE names a stage of the same Dockerfile")
            found[name] = index
    return found
