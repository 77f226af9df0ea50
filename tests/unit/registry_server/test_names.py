"""No name that a client can send leads out of the storage directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.image.digest import Digest
from engine.registry.server.names import Repository, Tag, parse_digest, parse_reference
from engine.registry.server.refusals import Refusal
from engine.registry.server.storage import Storage

TEXT = st.one_of(st.text(max_size=300), st.text(alphabet="ab./_-:\0\n", max_size=40))


@given(TEXT)
@example("..")
@example("a/../../b")
@example("a//b")
@example("a/./b")
@example("/etc/passwd")
@example("a/_uploads")
@example("a\n")
@example("a" * 256)
def test_a_repository_is_refused_or_lies_below_the_repositories(text: str) -> None:
    try:
        repository = Repository(text)
    except Refusal as refusal:
        assert refusal.code == "NAME_INVALID"
        return
    path = Storage(Path("/root")).uploads(repository)
    assert os.path.normpath(path) == str(path) == f"/root/repositories/{text}/_uploads"
    assert not any(part.startswith(("_", ".")) for part in text.split("/"))


@given(TEXT)
@example(".")
@example("..")
@example("a/b")
@example("a\n")
def test_a_tag_is_refused_or_is_a_plain_file_name(text: str) -> None:
    try:
        tag = Tag(text)
    except Refusal as refusal:
        assert refusal.code == "TAG_INVALID"
        return
    assert os.path.basename(tag.name) == tag.name and not tag.name.startswith(".") and len(tag.name) <= 128


@given(TEXT)
@example("sha256:../../etc/passwd")
@example("sha256:" + "A" * 64)
def test_a_digest_is_refused_or_is_hexadecimal(text: str) -> None:
    try:
        digest = parse_digest(text)
    except Refusal as refusal:
        assert refusal.code == "DIGEST_INVALID"
        return
    assert set(digest.hex) <= set("0123456789abcdef")


@pytest.mark.parametrize("text", ["a", "library/debian", "a.b/c_d/e__f/g-h/i--j", "0/1", "a" * 255])
def test_names_that_are_fine(text: str) -> None:
    assert str(Repository(text)) == text


def test_a_reference_with_a_colon_is_a_digest() -> None:
    digest = Digest.of(b"")
    assert parse_reference(str(digest)) == digest
    assert parse_reference("v1.0_x-y") == Tag("v1.0_x-y")
