"""Where we knowingly do otherwise than BuildKit: docs/differences.md names these tests."""

from __future__ import annotations

import io
import tarfile

import pytest

from engine.errors import DockerfileError, UsageError

pytestmark = pytest.mark.system


def test_history_names_its_builder(shop) -> None:
    comments = {h.get("comment") for h in shop.build("FROM @busybox\nENV a=b\nCOPY <<E /e\nE\n").raw["history"][1:]}
    assert comments == {"aniko.dockerfile.v0"}


def test_user_attributes_of_files_that_a_run_makes_are_kept(shop) -> None:
    built = shop.build("FROM @busybox\nRUN cp -a /data/xattr /x && echo more >> /data/xattr")
    with tarfile.open(fileobj=io.BytesIO(built.tars[0])) as layer:
        assert layer.getmember("data/xattr").pax_headers.get("SCHILY.xattr.user.color") == "blue"


@pytest.mark.parametrize("flag", ["--security=insecure", "--device=vendor.com/class=gpu"])
def test_more_rights_than_the_sandbox_gives_are_an_error(shop, flag: str) -> None:
    error = shop.fails(f"FROM @busybox\nRUN {flag} true")
    assert isinstance(error, DockerfileError)
    assert "not supported" in error.message


def test_the_host_s_network_needs_no_leave(shop) -> None:
    assert shop.build("FROM @busybox\nRUN --network=host true").layers == [[]]


def test_syntax_is_accepted_and_fetches_nothing(shop) -> None:
    built = shop.build("# syntax=127.0.0.1:1/no/such:frontend\nFROM scratch\nENV a=b")
    assert built.config["Env"][-1] == "a=b"


def test_an_image_comes_without_attestations(shop) -> None:
    built = shop.build("FROM @busybox\nRUN true")
    assert built.result.media_type == "application/vnd.oci.image.manifest.v1+json"


@pytest.mark.parametrize("value", ["context", "now"])
def test_the_epoch_is_a_number(shop, value: str) -> None:
    error = shop.fails("FROM scratch\nCOPY <<E /e\nE\n", args={"SOURCE_DATE_EPOCH": value})
    assert isinstance(error, UsageError)
    assert "SOURCE_DATE_EPOCH" in error.message


def test_layers_of_a_docker_base_come_under_oci_media_types(shop) -> None:
    manifest = shop.build("FROM @docker2\nRUN true").manifest
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
