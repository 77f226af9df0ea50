"""Records as OCI artifacts."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import codec
from engine.cache import entries
from engine.cache.base import Record
from engine.errors import ContentError
from engine.image.descriptor import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from engine.image.digest import Digest
from engine.image.manifest import make_index, make_manifest, parse
from engine.image.reference import _TAG
from engine.layer.base import Layer

KEY = Digest.of(b"key")
LAYER = Layer(Digest.of(b"tar"), Descriptor(OCI_LAYER_GZIP, Digest.of(b"blob"), 4, {"a": "b"}))
TEXTS = st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace").decode())
RECORDS = st.builds(Record, st.just(KEY), st.none() | st.just(LAYER), st.floats(0, 1e11), TEXTS,
                    st.dictionaries(TEXTS, TEXTS, max_size=4))


@given(RECORDS)
def test_a_record_comes_back_from_its_entry(record: Record) -> None:
    manifest = entries.to_manifest(record)
    assert entries.from_manifest(parse(manifest.raw, OCI_MANIFEST), KEY) == record


def test_an_entry_is_the_same_bytes_for_the_same_record() -> None:
    one, other = (Record(KEY, LAYER, 1.5, "RUN x", dict(pairs)) for pairs in ([("a", "1"), ("b", "2")], [("b", "2"), ("a", "1")]))
    assert entries.to_manifest(one).raw == entries.to_manifest(other).raw


@given(st.text(max_size=60), st.text(max_size=60))
def test_tags_are_valid_and_no_two_scopes_share_one(one: str, other: str) -> None:
    first, second = entries.tag(KEY, one), entries.tag(KEY, other)
    assert _TAG.fullmatch(first)
    assert (one == other) == (first == second)


def test_a_scope_cannot_be_named_to_look_like_anothers_tag() -> None:
    real = entries.tag(KEY, "feature/x")
    forged = real.removesuffix(f"-{KEY.hex}").removeprefix("h-")
    assert entries.tag(KEY, forged) != real
    assert entries.tag(KEY, "x") != entries.tag(KEY, "") != entries.tag(KEY, "k")


def test_ingredients_too_long_for_a_manifest_are_left_out() -> None:
    many = {f"file {number}": Digest.of(b"%d" % number).hex for number in range(5000)}
    manifest = entries.to_manifest(Record(KEY, LAYER, 1.0, "COPY . .", many))
    assert len(manifest.raw) < 4096
    assert entries.from_manifest(manifest, KEY).ingredients == {}


ENTRY = entries.to_manifest(Record(KEY, LAYER, 1.0, "RUN x", {"a": "b"}))
NOTES = dict(ENTRY.annotations)


def variant(notes: dict[str, str] | None = None, layers: list[Descriptor] | None = None, kind: str = entries.ARTIFACT) -> object:
    return make_manifest(ENTRY.config, ENTRY.layers if layers is None else layers, annotations=NOTES if notes is None else notes,
                         artifact_type=kind)


@pytest.mark.parametrize("manifest", [
    make_index([ENTRY.descriptor]), variant(kind=""), variant(kind="application/x"), variant(layers=[]),
    variant(layers=[LAYER.blob, LAYER.blob]), variant({}), variant(NOTES | {"dev.aniko.cache.key": str(Digest.of(b"other"))}),
    variant(NOTES | {"dev.aniko.cache.created": "soon"}), variant(NOTES | {"dev.aniko.cache.diff-id": "sha256:short"}),
], ids=["an index", "no type", "another type", "no layer", "two layers", "no notes", "another key", "no time", "no diff id"])
def test_what_is_not_an_entry_of_the_key_is_refused(manifest: object) -> None:
    with pytest.raises(ContentError):
        entries.from_manifest(manifest, KEY)  # type: ignore[arg-type]  # a manifest or an index


@pytest.mark.parametrize("packed", ["%%%", base64.b64encode(b"no zlib").decode(),
                                    base64.b64encode(zlib.compress(b"[1]")).decode(),
                                    base64.b64encode(zlib.compress(b"{")).decode(),
                                    base64.b64encode(zlib.compress(b'"' + b"a" * (40 << 20) + b'"', 9)).decode()])
def test_ingredients_that_make_no_sense_explain_nothing_and_harm_nobody(packed: str) -> None:
    manifest = variant(NOTES | {"dev.aniko.cache.ingredients": packed})
    assert entries.from_manifest(manifest, KEY).ingredients == {}  # type: ignore[arg-type]  # a manifest or an index


def test_annotations_are_text() -> None:
    assert all(isinstance(value, str) for value in codec.decode(ENTRY.raw)["annotations"].values())
