"""Build arguments that are about the build itself, whether the Dockerfile declares them or not."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from engine.errors import UsageError
from engine.image.descriptor import OCI_INDEX, OCI_MANIFEST
from engine.image.platform import Platform
from engine.request import OutputRequest

pytestmark = pytest.mark.system

DOCKERFILE = "FROM scratch\nCOPY <<E /e\nE\n"


def made(shop, dockerfile: str, **options):
    """The result of a build."""
    request = shop.request(shop.context({}, dockerfile), **options)

    async def run():
        return await shop.engine.build(request)

    return shop.portal.call(run)


def test_an_image_of_one_platform_as_an_index(shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = made(shop, DOCKERFILE, args={"BUILDKIT_MULTI_PLATFORM": "1"}, outputs=(OutputRequest("oci", out, archive=False),))
    assert result.media_type == OCI_INDEX
    entries = json.loads(result.manifest)["manifests"]
    assert [(entry["mediaType"], entry["platform"]["os"]) for entry in entries] == [(OCI_MANIFEST, "linux")]
    assert json.loads((out / "index.json").read_bytes())["manifests"][0]["digest"] == str(result.digest)
    assert made(shop, DOCKERFILE, args={"BUILDKIT_MULTI_PLATFORM": "false"}).media_type == OCI_MANIFEST


def test_the_files_of_an_index_lie_in_a_directory_of_its_platform(shop, tmp_path: Path) -> None:
    outputs = (OutputRequest("local", tmp_path / "d"), OutputRequest("tar", tmp_path / "t.tar"))
    made(shop, DOCKERFILE, args={"BUILDKIT_MULTI_PLATFORM": "true"}, platform="linux/amd64", outputs=outputs)
    assert (tmp_path / "d/linux_amd64/e").exists()
    with tarfile.open(tmp_path / "t.tar") as tar:
        assert [name for name in tar.getnames() if name.endswith("/e")] == ["linux_amd64/e"]


@pytest.mark.parametrize(("value", "platform", "output", "message"), [
    ("maybe", "", "oci", "invalid boolean value for multi-platform: maybe"),
    ("0", "linux/amd64,linux/arm64", "oci", "returning multiple target platforms is not allowed"),
    ("1", "", "docker", "docker exporter does not currently support exporting manifest lists"),
])  # fmt: skip
def test_what_an_index_cannot_be(shop, tmp_path: Path, value: str, platform: str, output, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(shop, DOCKERFILE, args={"BUILDKIT_MULTI_PLATFORM": value}, outputs=(OutputRequest(output, tmp_path / "o"),),
             platforms=tuple(Platform.parse(p) for p in platform.split(",") if p))  # fmt: skip


def test_cache_mounts_of_a_namespace_are_its_own(shop) -> None:
    dockerfile = "FROM @busybox\nRUN --mount=type=cache,id=args,target=/c touch /c/{0}; ls /c > /x\n"
    shop.build(dockerfile.format("none"))
    spaced = [shop.build(dockerfile.format(name), args={"BUILDKIT_CACHE_MOUNT_NS": "mine"}).files for name in ("a", "b")]
    assert [files["/x"] for files in spaced] == ["- 644 0:0 a\n", "- 644 0:0 a\nb\n"]
    assert shop.build(dockerfile.format("more")).files["/x"] == "- 644 0:0 more\nnone\n"


def test_an_empty_hostname_is_the_usual_one(shop) -> None:
    files = shop.build("FROM @busybox\nRUN hostname > /x\n", args={"BUILDKIT_SANDBOX_HOSTNAME": ""}).files
    assert files["/x"] == "- 644 0:0 buildkitsandbox\n"


@pytest.mark.parametrize("name", ["BUILDKIT_BUILD_NAME", "BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE", "BUILDKIT_SYNTAX"])
def test_arguments_about_what_there_is_not_here_change_nothing(shop, name: str) -> None:
    assert made(shop, DOCKERFILE, args={name: "true"}, source_date_epoch=1).digest == made(shop, DOCKERFILE, source_date_epoch=1).digest
