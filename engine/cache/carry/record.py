"""What this machine remembers of a mount's instance: the state it was last the same as, and how its files looked then.

A file whose inode, change time, size and modification time are those that it had then is that file still, and need not be read.
So an unchanged mount costs a walk. The record lies beside the instance; without it, or when it is broken, everything is read.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from engine import codec
from engine.cache.carry.listing import Listing, decode, encode
from engine.content import claims
from engine.content.faults import storing
from engine.errors import ContentError

Look = tuple[int, int]
"""A file's inode and change time (nanoseconds). `(0, 0)` is no file's: it is read again."""
UNKNOWN: Look = (0, 0)

_MAGIC = b"aniko-mount-record 1\n"


class Origin(Struct, frozen=True):
    """The remote state that an instance was last the same as: repository and scope as text, its digest, when it was made."""

    place: str
    digest: str
    created: float


class Record(Struct, frozen=True):
    """An instance as it was: `looks` has one for each entry of the listing, whose packs are those of the origin."""

    origin: Origin
    listing: Listing
    looks: Sequence[Look]

    def to_bytes(self) -> bytes:
        """The record as bytes."""
        head = codec.encode({"place": self.origin.place, "digest": self.origin.digest, "created": self.origin.created})
        looks = array("q", [number for look in self.looks for number in look]).tobytes()
        parts = (head, looks, encode(self.listing))
        return _MAGIC + b"".join(len(part).to_bytes(8, "little") + part for part in parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """The record that `to_bytes` made; raises `ContentError`."""
        origin, at = _origin(data)
        try:
            looks, at = _part(data, at)
            listing = decode(_part(data, at)[0], 1 << 31)
            numbers = array("q")
            numbers.frombytes(looks)
            pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        except ValueError as error:
            raise ContentError(f"the record of a cache mount is corrupt: {error}") from error
        if len(pairs) != len(listing.entries):
            raise ContentError("the record of a cache mount is corrupt: missing rows")
        return cls(origin, listing, pairs)


def path_of(instance: Path | str) -> Path:
    """Where the record of an instance lies."""
    return Path(f"{os.fspath(instance)}.carried")


def load(instance: Path | str) -> Record | None:
    """The record of an instance; None when there is none that can be read."""
    with suppress(OSError, ContentError):
        return Record.from_bytes(path_of(instance).read_bytes())
    return None


def origin(instance: Path | str) -> Origin | None:
    """The origin of an instance, without reading the rest of its record."""
    with suppress(OSError, ContentError), open(path_of(instance), "rb") as file:
        return _origin(file.read(1 << 16))[0]
    return None


def store(instance: Path, record: Record) -> None:
    """Puts a record in place of the one there is, whole; raises `StorageError`."""
    path = path_of(instance)
    draft = path.with_name(f".{path.name}-{claims.unique()}")
    with storing(path):
        try:
            draft.write_bytes(record.to_bytes())
            os.rename(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def _origin(data: bytes) -> tuple[Origin, int]:
    if not data.startswith(_MAGIC):
        raise ContentError("the record of a cache mount is of another version")
    try:
        head, at = _part(data, len(_MAGIC))
        value = codec.decode(head)
        return Origin(str(value["place"]), str(value["digest"]), float(value["created"])), at
    except (ValueError, KeyError, TypeError) as error:
        raise ContentError("the record of a cache mount is corrupt") from error


def _part(data: bytes, at: int) -> tuple[bytes, int]:
    start = at + 8
    end = start + int.from_bytes(data[at:start], "little")
    if start > len(data) or end > len(data):
        raise ValueError("it is cut short")
    return data[start:end], end
