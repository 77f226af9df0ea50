"""Manifests and configs: round trips, selection by platform, and what is refused."""

from __future__ import annotations

import pytest

from engine import codec
from engine.errors import ContentError, PlatformError
from engine.image.config import Healthcheck, History, ImageConfig, RuntimeConfig
from engine.image.descriptor import DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from engine.image.digest import Digest
from engine.image.manifest import Index, Manifest, make_index, make_manifest, parse
from engine.image.platform import Platform

CONFIG = Descriptor(OCI_CONFIG, Digest.of(b"{}"), 2)
LAYER = Descriptor(OCI_LAYER_GZIP, Digest.of(b"layer"), 5)


def test_a_made_manifest_is_read_as_itself() -> None:
    made = make_manifest(CONFIG, [LAYER], annotations={"b": "2", "a": "1"})
    read = parse(made.raw, OCI_MANIFEST)
    assert isinstance(read, Manifest)
    assert (read.config, read.layers, dict(read.annotations)) == (CONFIG, (LAYER,), {"a": "1", "b": "2"})
    assert read.descriptor.digest == Digest.of(made.raw)


def test_an_index_gives_the_best_platform() -> None:
    def entry(platform: str, content: bytes) -> Descriptor:
        return Descriptor(OCI_MANIFEST, Digest.of(content), 1, platform=Platform.parse(platform))

    index = make_index([entry("linux/arm/v6", b"6"), entry("linux/arm/v7", b"7"), entry("linux/amd64", b"x")])
    read = parse(index.raw)
    assert isinstance(read, Index)
    assert read.select(Platform.parse("linux/arm/v7")).digest == Digest.of(b"7")
    with pytest.raises(PlatformError, match="no match for platform linux/s390x") as caught:
        read.select(Platform.parse("linux/s390x"))
    assert "linux/amd64" in str(caught.value.hint)


@pytest.mark.parametrize("raw", [
    b"", b"[]", b"null", b'{"schemaVersion": 1}', b'{"schemaVersion": 2, "mediaType": "text/plain"}',
    b'{"schemaVersion": 2, "mediaType": "%b", "manifests": []}' % OCI_MANIFEST.encode(),
    b'{"schemaVersion": 2, "mediaType": "%b", "manifests": [], "layers": []}' % OCI_INDEX.encode(),
    b'{"schemaVersion": 2, "config": {}, "layers": []}',
    b'{"schemaVersion": 2, "config": {"digest": "sha256:1", "size": 1}, "layers": []}',
    b'{"schemaVersion": 2, "config": 5, "layers": []}',
])
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(ContentError):
        parse(raw)


def test_a_manifest_too_large_to_be_one_is_refused() -> None:
    with pytest.raises(ContentError, match="larger than the limit"):
        parse(b" " * (9 << 20))


def test_the_transports_media_type_counts_where_the_body_has_none() -> None:
    raw = codec.encode({"schemaVersion": 2, "config": CONFIG.to_json(), "layers": []})
    assert parse(raw, DOCKER_MANIFEST).media_type == DOCKER_MANIFEST


def test_a_config_survives_a_round_trip_with_what_is_unknown() -> None:
    config = ImageConfig(
        Platform.parse("linux/arm/v7"),
        RuntimeConfig(env=(("A", "1=2"), ("B", "")), entrypoint=("/e",), cmd=("c",), user="u", working_dir="/w",
                      labels={"l": "v"}, exposed_ports=("80/tcp",), volumes=("/v",), stop_signal="9",
                      healthcheck=Healthcheck(("CMD", "x"), interval=5, start_interval=7), shell=("/bin/sh",), on_build=("RUN x",),
                      extra={"Domainname": "d"}),
        diff_ids=(Digest.of(b"l"),), history=(History("RUN x", "2020-01-01T00:00:00Z"), History("ENV a", empty_layer=True)),
        created="2020-01-01T00:00:00Z", author="me", extra={"os.features": ["f"]},
    )  # fmt: skip
    assert ImageConfig.parse(config.encode()) == config


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"config": {"Env": 5}}', b'{"rootfs": {"diff_ids": ["x"]}}'])
def test_what_is_no_config_is_refused(raw: bytes) -> None:
    with pytest.raises(ContentError):
        ImageConfig.parse(raw)
