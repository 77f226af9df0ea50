"""Content digests (OCI image spec, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re

from msgspec import Struct

from engine.errors import ContentError

_FORM = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")


class Digest(Struct, frozen=True, order=True):
    """`algorithm:hex`, checked when it is made. sha256 and sha512 are known; what the engine makes is sha256."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if not _FORM.fullmatch(f"{self.algorithm}:{self.hex}"):
            raise ContentError(f"invalid digest {self.algorithm}:{self.hex!r}")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest a text stands for; raises `ContentError` when it is none."""
        algorithm, _, hexadecimal = text.partition(":")
        return cls(algorithm, hexadecimal)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The sha256 digest of some bytes."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @property
    def short(self) -> str:
        """The first twelve digits, for people."""
        return self.hex[:12]
