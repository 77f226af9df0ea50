"""The cache in an image's config: what is written is read again, and what cannot be read is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cache import inline
from engine.cache.inline import Made
from engine.errors import ContentError
from engine.image.descriptor import DOCKER_LAYER_GZIP, OCI_CONFIG, OCI_EMPTY, OCI_LAYER_GZIP, Descriptor
from engine.image.digest import Digest
from engine.image.manifest import make_manifest
from engine.layer.base import Layer
from engine.solve.assemble import rfc3339


def digest(name: str) -> Digest:
    return Digest.of(name.encode())


LAYERS = tuple(Descriptor(OCI_LAYER_GZIP, digest(f"blob {n}"), 100 + n, {"from": "test"}) for n in range(3))
TIMES = ("2020-01-01T00:00:00Z", "2021-01-01T00:00:00.25Z", "2022-01-01T00:00:00Z")
MADE = (Made((digest("a"), digest("b")), 1, "COPY a /"), Made((digest("c"),), None, "WORKDIR /"), Made((digest("d"),), 2, "RUN x"))


def config(**changes: Any) -> dict[str, Any]:
    history = [{"created": time} for time in TIMES]
    history.insert(1, {"created": "1999-01-01T00:00:00Z", "empty_layer": True})  # type: ignore[dict-item]
    return {"rootfs": {"diff_ids": [str(digest(f"tar {n}")) for n in range(3)]}, "history": history,
            inline.FIELD: inline.field(MADE)} | changes  # fmt: skip


def read(value: Any, layers: tuple[Descriptor, ...] = LAYERS) -> dict[Digest, Any]:
    return {record.key: record for record in inline.read(json.dumps(value).encode(), layers)}


def test_what_is_written_is_read_again() -> None:
    found = read(config())
    assert found.keys() == {digest(name) for name in "abcd"}
    first, empty, last = found[digest("a")], found[digest("c")], found[digest("d")]
    assert first.layer == Layer(digest("tar 1"), Descriptor(OCI_LAYER_GZIP, digest("blob 1"), 101))
    assert (first.step, first.created) == ("COPY a /", 1609459200.25)
    assert found[digest("b")].layer == first.layer
    assert (empty.layer, empty.step) == (None, "WORKDIR /")
    assert last.layer == Layer(digest("tar 2"), Descriptor(OCI_LAYER_GZIP, digest("blob 2"), 102))


def test_the_blobs_are_those_of_the_manifest_however_it_was_copied() -> None:
    copied = tuple(Descriptor(DOCKER_LAYER_GZIP, digest(f"copy {n}"), n) for n in range(3))
    layer = read(config(), copied)[digest("d")].layer
    assert layer == Layer(digest("tar 2"), copied[2])


def test_an_image_without_the_field_has_no_cache() -> None:
    assert inline.read(b'{"rootfs": {}}', LAYERS) == []


@pytest.mark.parametrize("history", [[], [{"created": TIMES[0]}], [{"created": "soon"}] * 3, [{}] * 3])
def test_a_history_that_does_not_say_when_is_no_harm(history: list[Any]) -> None:
    assert {record.created for record in read(config(history=history)).values()} == {0.0}


@pytest.mark.parametrize("field", [
    [], "steps", {}, {"steps": {}}, {"steps": [[]]}, {"steps": [{}]}, {"steps": [{"keys": ["x"]}]}, {"steps": [{"keys": 1}]},
    {"steps": [{"keys": [str(digest("a"))], "layer": 3}]}, {"steps": [{"keys": [str(digest("a"))], "layer": -1}]},
    {"steps": [{"keys": [str(digest("a"))], "layer": True}]}, {"steps": [{"keys": [str(digest("a"))], "layer": "1"}]},
    {"steps": [{"keys": [str(digest("a"))] * 17}]}, {"steps": [{"keys": []}] * 10_001},
])  # fmt: skip
def test_what_is_no_cache_is_refused(field: Any) -> None:
    if field == {"steps": {}}:
        assert read(config(**{inline.FIELD: field})) == {}
        return
    with pytest.raises(ContentError):
        read(config(**{inline.FIELD: field}))


@pytest.mark.parametrize("changes", [{"rootfs": {"diff_ids": []}}, {"rootfs": None}, {"rootfs": {"diff_ids": ["x"] * 3}}, {"history": 1}])
def test_a_config_that_does_not_fit_the_manifest_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ContentError):
        read(config(**changes))


@pytest.mark.parametrize("raw", [b"", b"[]", b"1", b"\xff"])
def test_what_is_no_config_is_refused(raw: bytes) -> None:
    with pytest.raises(ContentError):
        inline.read(raw, LAYERS)


def test_only_images_are_looked_into() -> None:
    image, artifact = Descriptor(OCI_CONFIG, digest("c"), 1), Descriptor(OCI_EMPTY, digest("c"), 1)
    assert inline.may_be_in(make_manifest(image, []))
    assert not inline.may_be_in(make_manifest(artifact, []))
    assert not inline.may_be_in(make_manifest(image, [], artifact_type="application/vnd.aniko.cache.record.v1"))


def test_a_bases_caches_are_not_the_images() -> None:
    assert inline.without({inline.FIELD: 1, "moby.buildkit.cache.v0": 2, "os.features": 3}) == {"os.features": 3}


@given(st.floats(min_value=0, max_value=2**33))
def test_a_time_that_was_read_is_written_as_it_was(seconds: float) -> None:
    """So an image whose steps are found in an image has the same history."""
    text = rfc3339(seconds)
    value = config(history=[{"created": text}] * 3)
    assert rfc3339(read(value)[digest("a")].created) == text
