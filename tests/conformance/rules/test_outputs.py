"""What an output can say of the image: media types, compression, and names without tags."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest

from engine.errors import NotFoundError, UsageError
from engine.image.descriptor import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
)
from engine.image.reference import Reference
from engine.layer.decompress import detect
from engine.request import OutputRequest

pytestmark = pytest.mark.system

NUMBERS = count()


def made(shop, out: Path, dockerfile: str, **options):
    """Builds into a layout; returns the result, and the digests, media types and first bytes of its layers."""
    request = shop.request(shop.context({"f": "f"}, dockerfile), outputs=(OutputRequest("oci", out, archive=False),), **options)

    async def run():
        return await shop.engine.build(request)

    result = shop.portal.call(run)
    layers = []
    for layer in json.loads(result.manifest).get("layers", []):
        with open(out / "blobs/sha256" / layer["digest"].partition(":")[2], "rb") as blob:
            layers.append((layer["digest"], layer["mediaType"], detect(blob.read(6))))
    return result, layers


DOCKERFILE = "FROM @files\nCOPY f /{}\n"


def test_docker_s_media_types_when_told(shop, tmp_path: Path) -> None:
    result, layers = made(shop, tmp_path / "o", DOCKERFILE.format("x"), docker_types=True)
    manifest = json.loads(result.manifest)
    assert (manifest["mediaType"], manifest["config"]["mediaType"]) == (DOCKER_MANIFEST, DOCKER_CONFIG)
    assert {kind for _, kind, _ in layers} <= {DOCKER_LAYER, DOCKER_LAYER_GZIP}
    assert shop.read(tmp_path / "o").files == {"/x": "- 644 0:0 f"}
    index, _ = made(shop, tmp_path / "i", DOCKERFILE.format("x"), docker_types=True, args={"BUILDKIT_MULTI_PLATFORM": "1"})
    assert (index.media_type, json.loads(index.manifest)["manifests"][0]["mediaType"]) == (DOCKER_LIST, DOCKER_MANIFEST)


def test_an_archive_for_docker_is_the_same_image(shop, tmp_path: Path) -> None:
    places = (OutputRequest("docker", tmp_path / "d", archive=False), OutputRequest("oci", tmp_path / "o", archive=False))
    request = shop.request(shop.context({"f": "f"}, DOCKERFILE.format("x")), outputs=places)

    async def run():
        return await shop.engine.build(request)

    digest = str(shop.portal.call(run).digest)
    heads = [json.loads((tmp_path / name / "index.json").read_bytes())["manifests"][0] for name in ("d", "o")]
    assert [(head["mediaType"], head["digest"]) for head in heads] == [(OCI_MANIFEST, digest)] * 2
    assert (tmp_path / "d/manifest.json").exists()


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"annotations": {"a": "b"}}])
def test_what_docker_s_media_types_do_not_know(shop, tmp_path: Path, options) -> None:
    with pytest.raises(UsageError, match="docker's media types have no place for"):
        made(shop, tmp_path / "o", DOCKERFILE.format("x"), docker_types=True, **options)


def test_zstd_of_a_base_is_not_hidden_under_docker_s_media_types(shop, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compressed with zstd, which docker's media types do not know"):
        made(shop, tmp_path / "o", "FROM @zstd\nCOPY f /x\n", docker_types=True)
    _, layers = made(shop, tmp_path / "o", "FROM @zstd\nCOPY f /x\n", docker_types=True, force_compression=True)
    assert {(kind, seen) for _, kind, seen in layers} == {(DOCKER_LAYER_GZIP, "gzip")}


@pytest.mark.parametrize(("compression", "seen"), [("zstd", "zstd"), ("gzip", "gzip"), ("none", "none")])
def test_all_layers_in_one_compression_with_the_same_content(shop, tmp_path: Path, compression: str, seen: str) -> None:
    options = {"compression": compression, "no_cache": False, "source_date_epoch": 1}
    dockerfile = f"FROM @rich\nCOPY f /forced-{compression}\n"
    plain, before = made(shop, tmp_path / "a", dockerfile, **options)
    forced, after = made(shop, tmp_path / "b", dockerfile, force_compression=True, **options)
    assert {kind for _, _, kind in after} == {seen}
    assert forced.image_id == plain.image_id, "the config names the layers by their content"
    assert [x for x, y in zip(before, after, strict=True) if x[2] == seen and x != y] == [], "what has the compression stays"
    again, _ = made(shop, tmp_path / "c", dockerfile, force_compression=True, **options)
    assert again.digest == forced.digest
    assert shop.read(tmp_path / "b").files == shop.read(tmp_path / "a").files


def test_a_cached_layer_of_another_compression_too(shop, tmp_path: Path) -> None:
    dockerfile = "FROM scratch\nCOPY f /cached-then-forced\n"
    assert [kind for _, _, kind in made(shop, tmp_path / "a", dockerfile)[1]] == ["gzip"]
    result, layers = made(shop, tmp_path / "b", dockerfile, compression="zstd", force_compression=True)
    assert (result.ran, [kind for _, kind, _ in layers]) == (0, [OCI_LAYER_ZSTD])


def test_a_push_by_digest_leaves_no_tag(shop) -> None:
    repository = f"{shop.registry.address}/by/digest{next(NUMBERS)}"
    tag = Reference(shop.registry.address, repository.partition("/")[2])
    request = shop.request(shop.context({"f": "f"}, DOCKERFILE.format("x")), tags=(tag,), outputs=(OutputRequest("registry"),))

    async def run():
        return await shop.engine.build(request)

    result = shop.portal.call(run)
    assert result.names == (repository,)
    assert shop.build(f"FROM {repository}@{result.digest}\nCOPY f /y\n", {"f": "f"}, base="files").files == {
        "/x": "- 644 0:0 f", "/y": "- 644 0:0 f"}  # fmt: skip
    assert isinstance(shop.fails(f"FROM {repository}\nCOPY f /y\n", {"f": "f"}), NotFoundError)
