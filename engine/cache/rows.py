"""Records as rows of a table, and back."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engine import codec
from engine.cache.base import Record
from engine.errors import ContentError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.layer.base import Layer

COLUMNS = "key, step, created, blob, size, layer"


def pack(ingredients: Mapping[str, str]) -> bytes:
    """Ingredients as compressed JSON: those of a COPY name every file."""
    return zlib.compress(codec.encode(dict(ingredients)), 1)


def unpack(packed: bytes) -> dict[str, str]:
    """What `pack` was given; empty when the bytes are damaged, for ingredients only explain."""
    try:
        return {str(k): str(v) for k, v in codec.decode(zlib.decompress(packed)).items()}
    except (zlib.error, ValueError, AttributeError):
        return {}


def to_row(record: Record, used: float) -> tuple[Any, ...]:
    """The columns of `COLUMNS`, and when the record was last used."""
    layer = record.layer
    value = None
    if layer is not None:
        value = codec.encode({"diffId": str(layer.diff_id), "blob": layer.blob.to_json()}).decode()
    return (str(record.key), record.step, record.created, str(layer.blob.digest) if layer else None,
            layer.blob.size if layer else 0, value, used)  # fmt: skip


def from_row(row: tuple[Any, ...], ingredients: Mapping[str, str]) -> Record | None:
    """The record of a row; None when the row makes no sense."""
    key, step, created, _, _, value = row
    try:
        layer = None
        if value is not None:
            fields = codec.decode(value)
            layer = Layer(Digest.parse(fields["diffId"]), Descriptor.from_json(fields["blob"]))
        return Record(Digest.parse(key), layer, float(created), str(step), ingredients)
    except (ContentError, ValueError, KeyError, TypeError, AttributeError):
        return None


class LazyIngredients(Mapping[str, str]):
    """Ingredients that are fetched when somebody looks at them: most hits are never explained."""

    def __init__(self, load: Callable[[], Mapping[str, str]]) -> None:
        self._load = load
        self._loaded: Mapping[str, str] | None = None

    def _all(self) -> Mapping[str, str]:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self._all()) == dict(other)

    def __repr__(self) -> str:
        return repr(dict(self._all()))

    __hash__ = None  # type: ignore[assignment]  # a mapping with equality by content, as dict
