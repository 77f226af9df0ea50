"""References, digests and platforms: what is taken, how it is completed, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ContentError, UsageError
from engine.image.digest import Digest
from engine.image.platform import Platform
from engine.image.reference import Reference

HEX = "a" * 64


@pytest.mark.parametrize(("text", "whole"), [
    ("busybox", "docker.io/library/busybox:latest"),
    ("user/app", "docker.io/user/app:latest"),
    ("docker.io/busybox:1", "docker.io/library/busybox:1"),
    ("127.0.0.1:5000/app:1", "127.0.0.1:5000/app:1"),
    ("localhost/app", "localhost/app:latest"),
    ("registry.example.com/a/b/c", "registry.example.com/a/b/c:latest"),
    (f"app@sha256:{HEX}", f"docker.io/library/app@sha256:{HEX}"),
    (f"app:1@sha256:{HEX}", f"docker.io/library/app:1@sha256:{HEX}"),
    ("[::1]:5000/app:1", "[::1]:5000/app:1"),
])
def test_references_are_completed_as_docker_does(text: str, whole: str) -> None:
    assert str(Reference.parse(text)) == whole
    assert Reference.parse(str(Reference.parse(text))) == Reference.parse(text)


@pytest.mark.parametrize("text", ["", "App", "a//b", "a:", "a:b:c", "a@sha256:12", "-a", "a/../b", "x" * 256, "a b", "host:5000/"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid reference"):
        Reference.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_an_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(reference)) == reference


def test_people_see_short_names() -> None:
    assert Reference.parse("docker.io/library/busybox").familiar == "busybox:latest"
    assert Reference.parse("127.0.0.1:5000/app").familiar == "127.0.0.1:5000/app:latest"


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "g" * 64, "sha256:" + "a" * 63, "md5:" + "a" * 32, HEX])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(ContentError, match="invalid digest"):
        Digest.parse(text)


def test_a_digest_is_of_bytes() -> None:
    assert str(Digest.of(b"")) == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(("text", "whole"), [
    ("linux/amd64", "linux/amd64"), ("linux/x86_64", "linux/amd64"), ("arm64", "linux/arm64"), ("linux/arm64/v8", "linux/arm64"),
    ("linux/arm", "linux/arm/v7"), ("linux/arm/v6", "linux/arm/v6"), ("aarch64", "linux/arm64"), ("LINUX/AMD64", "linux/amd64"),
])
def test_platforms_have_one_form(text: str, whole: str) -> None:
    assert str(Platform.parse(text)) == whole


@pytest.mark.parametrize("text", ["", "a/b/c/d", "linux/", "quantum", "linux/am d64"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Platform.parse(text)


def test_older_variants_run_too() -> None:
    assert [str(p) for p in Platform.parse("linux/arm/v7").runs()] == ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]
