"""What `--output` says of the image, as it comes to be in the request."""

from __future__ import annotations

import argparse
import io
from typing import Any

import pytest

from engine.cli import build, inputs
from engine.cli.parser import Parser
from engine.errors import UsageError
from engine.request import BuildRequest


def request(*words: str) -> BuildRequest:
    parser = Parser(prog="build")
    build.configure(parser)
    arguments: argparse.Namespace = parser.parse_args([*words, "."])
    return inputs.request(arguments, {}, {}, io.BytesIO())


def test_media_types_and_compression() -> None:
    plain = request("-o", "type=oci,dest=/o")
    assert (plain.docker_types, plain.force_compression, plain.compression) == (False, False, "gzip")
    told = request("-o", "type=docker,dest=/o,oci-mediatypes=false,force-compression=true,compression=uncompressed")
    assert (told.docker_types, told.force_compression, told.compression) == (True, True, "none")


@pytest.mark.parametrize("words", [
    ("-o", "type=image,name=h.example/app,push-by-digest=true,name-canonical=true,push=true"),
    ("-o", "type=registry,push-by-digest=true", "-t", "h.example/app"),
])  # fmt: skip
def test_a_name_to_push_to_by_digest_has_no_tag(words: Any) -> None:
    assert [str(tag) for tag in request(*words).tags] == ["h.example/app"]


def test_a_tag_cannot_be_pushed_by_digest() -> None:
    with pytest.raises(UsageError, match=r"can't push tagged ref h\.example:5000/app:1 by digest"):
        request("-o", "type=registry,push-by-digest=true", "-t", "h.example:5000/app:1")
