"""Output requests → outputs. The modules of those that a build does not have are not imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from engine.content.base import ContentStore
from engine.errors import UsageError
from engine.image.descriptor import Descriptor
from engine.image.reference import Reference
from engine.layer.base import Layer
from engine.layer.index import Index
from engine.output.base import Output
from engine.output.blobs import Fetch, Progress
from engine.plan.scope import is_indexed
from engine.registry.base import Registry
from engine.request import BuildRequest, OutputRequest

if TYPE_CHECKING:
    from engine.output.place import Place


class Blobs(Protocol):
    """Gets layer blobs into the content store."""

    async def ensure(self, blob: Descriptor) -> None:
        """Makes the blob be in the content store; raises `RegistryError` or `ContentError`."""


class Trees(Protocol):
    """Knows what is in layers."""

    async def index(self, layer: Layer) -> Index:
        """A layer's index; raises `RegistryError` or `ContentError`."""


class Mechanisms(Protocol):
    """What outputs are made with."""

    @property
    def content(self) -> ContentStore:
        """Where the blobs are."""

    @property
    def blobs(self) -> Blobs:
        """Where those come from that are not."""

    @property
    def trees(self) -> Trees:
        """What is in the layers."""

    @property
    def registry(self) -> Callable[[], Registry]:
        """The registry client, when it is first needed."""


class Wired(Protocol):
    """Whoever has the mechanisms."""

    @property
    def mechanisms(self) -> Mechanisms:
        """They."""


def make_outputs(request: BuildRequest, wired: Wired, *, progress: Progress | None = None,
                 stdout: BinaryIO | None = None) -> list[Output]:
    """The outputs of a build; raises `UsageError` for those that it cannot have, before anything is built. `stdout` is what an
    output without a destination is written to, by default the process's standard output."""
    _check_types(request)
    return [_make(output, request, wired.mechanisms, progress, stdout) for output in request.outputs]


def _check_types(request: BuildRequest) -> None:
    if request.docker_types and (request.annotations or request.compression == "zstd"):
        what = "annotations" if request.annotations else "compression=zstd"
        raise UsageError(f"docker's media types have no place for {what}", hint="leave oci-mediatypes=false out")


def _make(output: OutputRequest, request: BuildRequest, mechanisms: Mechanisms, progress: Progress | None,
          stdout: BinaryIO | None) -> Output:
    if output.kind == "registry":
        if not request.tags:
            raise UsageError("nothing to push: the image has no name", hint="name it with -t REGISTRY/REPOSITORY:TAG")
        from engine.output.registry import RegistryOutput

        return RegistryOutput(mechanisms.registry, mechanisms.content, _fetch(mechanisms.blobs), progress, request.tags)
    if output.kind == "docker" and is_indexed(request.build_args, len(set(request.platforms))):
        raise UsageError("docker exporter does not currently support exporting manifest lists",
                         hint="write several platforms with type=oci, or push them")
    return _make_file(output, _place(output, stdout), mechanisms, progress)


def _make_file(output: OutputRequest, place: Place, mechanisms: Mechanisms, progress: Progress | None) -> Output:
    fetch, index = _fetch(mechanisms.blobs), mechanisms.trees.index
    if output.kind in ("tar", "local"):
        from engine.output.rootfs import LocalOutput, TarOutput

        if isinstance(place.destination, Path) and output.kind == "local":
            return LocalOutput(place.destination, mechanisms.content, fetch, index, progress)
        return TarOutput(place, mechanisms.content, fetch, index, progress)
    from engine.output.docker import DockerOutput
    from engine.output.oci import OciOutput

    kind = OciOutput if output.kind == "oci" else DockerOutput
    return kind(place, mechanisms.content, fetch, progress)


def _fetch(blobs: Blobs) -> Fetch:
    async def fetch(layer: Layer, origin: Reference | None) -> None:
        await blobs.ensure(layer.blob)  # which knows where its blobs come from

    return fetch


def _place(output: OutputRequest, stdout: BinaryIO | None) -> Place:
    from engine.output.place import Place

    if output.destination is not None and output.destination != Path("-"):
        return Place(output.destination, output.archive)
    if not output.archive or output.kind == "local":
        raise UsageError(f"a destination is needed for an output of type {output.kind}", hint=f"type={output.kind},dest=DIR")
    return Place(stdout or open(1, "wb", buffering=0, closefd=False))
