"""Names that come from a URL, checked when they are made: nothing else ever becomes a path of the storage directory."""

from __future__ import annotations

import re

from msgspec import Struct

from engine.errors import ContentError
from engine.image.digest import Digest
from engine.registry.server.refusals import Refusal

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
MAX_NAME = 255


class Repository(Struct, frozen=True, order=True):
    """A repository's name (OCI distribution spec, "Pulling manifests"); raises `Refusal` NAME_INVALID when it is none.

    No component can be `.` or `..`, be empty or begin with `_`, so a name is safe as a path and the storage may put
    directories of its own, which begin with `_`, beside nested repositories.
    """

    name: str

    def __post_init__(self) -> None:
        if len(self.name) > MAX_NAME or not _REPOSITORY.fullmatch(self.name):
            raise Refusal("NAME_INVALID", {"name": self.name[:MAX_NAME]})

    def __str__(self) -> str:
        return self.name


class Tag(Struct, frozen=True, order=True):
    """A tag; raises `Refusal` TAG_INVALID. It can begin with `.` nowhere, so it is safe as a file name."""

    name: str

    def __post_init__(self) -> None:
        if not _TAG.fullmatch(self.name):
            raise Refusal("TAG_INVALID", {"tag": self.name[:MAX_NAME]})

    def __str__(self) -> str:
        return self.name


def parse_digest(text: str) -> Digest:
    """A digest; raises `Refusal` DIGEST_INVALID."""
    try:
        return Digest.parse(text)
    except ContentError as error:
        raise Refusal("DIGEST_INVALID", {"digest": text[:MAX_NAME]}) from error


def parse_reference(text: str) -> Tag | Digest:
    """What the last part of a manifest URL is: a digest if it has a colon, else a tag."""
    return parse_digest(text) if ":" in text else Tag(text)
