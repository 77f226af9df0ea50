"""Which output a request makes, and which requests are mistakes."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import UsageError
from engine.image.platform import Platform
from engine.image.reference import Reference
from engine.output.docker import DockerOutput
from engine.output.make import make_outputs
from engine.output.oci import OciOutput
from engine.output.registry import RegistryOutput
from engine.output.rootfs import LocalOutput, TarOutput
from engine.request import BuildRequest, OutputRequest

WIRED: Any = SimpleNamespace(mechanisms=SimpleNamespace(
    content=object(), blobs=object(), trees=SimpleNamespace(index=object()),
    registry=lambda: pytest.fail("the client is made when it is needed"))
)  # fmt: skip
TAGS = (Reference.parse("127.0.0.1:5000/app:1"),)


def outputs(*wanted: OutputRequest, tags: tuple[Reference, ...] = TAGS, **more: Any) -> list[Any]:
    return make_outputs(BuildRequest(outputs=wanted, tags=tags, **more), WIRED, stdout=io.BytesIO())


def test_each_kind_has_its_output() -> None:
    place = Path("/out")
    kinds = [OutputRequest("registry"), OutputRequest("oci", place), OutputRequest("docker", place, archive=False),
             OutputRequest("tar", place), OutputRequest("local", place)]  # fmt: skip
    assert [type(o) for o in outputs(*kinds)] == [RegistryOutput, OciOutput, DockerOutput, TarOutput, LocalOutput]


@pytest.mark.parametrize("destination", [None, Path("-")])
@pytest.mark.parametrize("kind", ["oci", "docker", "tar"])
def test_archives_go_to_standard_output_when_nothing_is_said(kind: Any, destination: Path | None) -> None:
    assert len(outputs(OutputRequest(kind, destination))) == 1


@pytest.mark.parametrize("wanted", [
    OutputRequest("local"), OutputRequest("oci", archive=False), OutputRequest("docker", Path("-"), False),
])  # fmt: skip
def test_directories_do_not(wanted: OutputRequest) -> None:
    with pytest.raises(UsageError, match="a destination is needed"):
        outputs(wanted)


def test_a_push_needs_a_name() -> None:
    with pytest.raises(UsageError, match="has no name"):
        outputs(OutputRequest("registry"), tags=())


def test_docker_archives_hold_one_platform() -> None:
    platforms = (Platform("linux", "amd64"), Platform("linux", "arm64"))
    with pytest.raises(UsageError, match="manifest lists"):
        outputs(OutputRequest("docker", Path("/out")), platforms=platforms)
    assert outputs(OutputRequest("oci", Path("/out")), platforms=platforms)
