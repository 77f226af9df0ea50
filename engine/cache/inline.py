"""The cache in an image: a field of its config that says which keys its layers are the results of. Pure.

    "dev.aniko.cache.v1": {"steps": [{"keys": ["sha256:…", …], "layer": 3, "step": "RUN make"}, …]}

`layer` is the place of a layer among the image's, absent for a step that made none. Digest, size and type of the blob are what the
manifest says now, so the cache survives a copy of the image that compresses its layers anew; the time is that of the history. There
is nothing in it that two builds of the same image would not both write.

Whoever can write the image can write what they like: a record can do no more than name a layer of that image, whose blob is
verified against its digest when it is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from engine import codec
from engine.cache.base import Record
from engine.errors import ContentError
from engine.image.descriptor import DOCKER_CONFIG, OCI_CONFIG, Descriptor
from engine.image.digest import Digest
from engine.image.manifest import Manifest
from engine.layer.base import Layer

FIELD = "dev.aniko.cache.v1"
FOREIGN = "moby.buildkit.cache.v0"
"""BuildKit's field of the same purpose."""
_MOST_STEPS, _MOST_KEYS = 10_000, 16
_LONGEST_STEP = 4096


class Made(Struct, frozen=True):
    """A step of an image: the keys that it is found under, and the place of its layer among the image's, None if it made none."""

    keys: tuple[Digest, ...]
    layer: int | None
    step: str


def without(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The unknown fields of a base's config, less the caches: they are about the base."""
    return {name: value for name, value in extra.items() if name not in (FIELD, FOREIGN)}


def field(made: Iterable[Made]) -> dict[str, Any]:
    """The field's value."""
    steps: list[dict[str, Any]] = []
    for one in made:
        place = {"layer": one.layer} if one.layer is not None else {}
        steps.append({"keys": [str(key) for key in one.keys], **place, "step": one.step[:_LONGEST_STEP]})
    return {"steps": steps}


def may_be_in(manifest: Manifest) -> bool:
    """Whether the config that a manifest names is an image's."""
    return not manifest.artifact_type and manifest.config.media_type in (OCI_CONFIG, DOCKER_CONFIG)


def read(config: bytes, layers: Sequence[Descriptor]) -> list[Record]:
    """The records in an image's config, whose manifest has these layers; none if there is no such field. Raises `ContentError`."""
    try:
        value = codec.decode(config)
        field = value.get(FIELD)
        if field is None:
            return []
        diff_ids = [Digest.parse(text) for text in value["rootfs"]["diff_ids"]]
        if len(diff_ids) != len(layers):
            raise ContentError(f"the image has {len(layers)} layers but its config names {len(diff_ids)}")
        chain = [Layer(diff_id, Descriptor(blob.media_type, blob.digest, blob.size))
                 for diff_id, blob in zip(diff_ids, layers, strict=True)]  # fmt: skip
        times = _times(value.get("history") or (), len(layers))
        steps = field["steps"]
        if len(steps) > _MOST_STEPS:
            raise ContentError(f"the cache in the image has {len(steps)} steps, more than {_MOST_STEPS}")
        return [record for step in steps for record in _records(step, chain, times)]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ContentError(f"the cache in the image cannot be read: {error!r}") from error


def _records(step: Mapping[str, Any], chain: Sequence[Layer], times: Sequence[float]) -> list[Record]:
    place = step.get("layer")
    if place is not None and (type(place) is not int or not 0 <= place < len(chain)):
        raise ContentError(f"the cache in the image names a layer {place!r} of {len(chain)}")
    if len(step["keys"]) > _MOST_KEYS:
        raise ContentError(f"the cache in the image has a step with {len(step['keys'])} keys")
    layer, created = (chain[place], times[place]) if place is not None else (None, max(times, default=0.0))
    text = str(step.get("step", ""))[:_LONGEST_STEP]
    return [Record(Digest.parse(key), layer, created, text) for key in step["keys"]]


def _times(history: Sequence[Mapping[str, Any]], layers: int) -> list[float]:
    """When each layer was made, in seconds since the epoch; 0 where the history does not say."""
    times = [_seconds(str(entry.get("created") or "")) for entry in history if not entry.get("empty_layer")]
    return times if len(times) == layers else [0.0] * layers


def _seconds(text: str) -> float:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
