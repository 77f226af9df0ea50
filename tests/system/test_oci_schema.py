"""What is written satisfies the OCI image spec's JSON schemas (schema/*.json of the image spec, put together here)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from engine import Engine
from engine.image.platform import Platform
from engine.registry.server.server import RegistryServer
from engine.request import BuildRequest, OutputRequest

from .conftest import write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

MEDIA_TYPE = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$"}
DIGEST = {"type": "string", "pattern": r"^[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$"}
STRINGS = {"type": "object", "patternProperties": {".{1,}": {"type": "string"}}}
OBJECTS = {"type": "object", "patternProperties": {".{1,}": {"type": "object"}}}
WORDS = {"type": "array", "items": {"type": "string"}}
TIME = {"type": "string", "format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"}
PLATFORM = {"type": "object", "required": ["architecture", "os"], "properties": {
    "architecture": {"type": "string"}, "os": {"type": "string"}, "os.version": {"type": "string"}, "os.features": WORDS,
    "variant": {"type": "string"}}}  # fmt: skip
DESCRIPTOR = {"type": "object", "required": ["mediaType", "size", "digest"], "properties": {
    "mediaType": MEDIA_TYPE, "size": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, "digest": DIGEST, "urls": WORDS,
    "annotations": STRINGS, "artifactType": MEDIA_TYPE, "platform": PLATFORM}}  # fmt: skip
INDEX = {"type": "object", "required": ["schemaVersion", "manifests"], "properties": {
    "schemaVersion": {"const": 2}, "mediaType": {"const": "application/vnd.oci.image.index.v1+json"},
    "manifests": {"type": "array", "items": DESCRIPTOR}, "annotations": STRINGS}}  # fmt: skip
MANIFEST = {"type": "object", "required": ["schemaVersion", "config", "layers"], "properties": {
    "schemaVersion": {"const": 2}, "mediaType": {"const": "application/vnd.oci.image.manifest.v1+json"}, "config": DESCRIPTOR,
    "layers": {"type": "array", "minItems": 1, "items": DESCRIPTOR}, "annotations": STRINGS}}  # fmt: skip
CONFIG = {"type": "object", "required": ["architecture", "os", "rootfs"], "properties": {
    "created": TIME, "author": {"type": "string"}, "architecture": {"type": "string"}, "variant": {"type": "string"},
    "os": {"type": "string"}, "os.version": {"type": "string"},
    "config": {"type": "object", "properties": {
        "User": {"type": "string"}, "ExposedPorts": OBJECTS, "Env": WORDS, "Entrypoint": WORDS, "Cmd": WORDS, "Volumes": OBJECTS,
        "WorkingDir": {"type": "string"}, "Labels": STRINGS, "StopSignal": {"type": "string"}, "ArgsEscaped": {"type": "boolean"}}},
    "rootfs": {"type": "object", "required": ["diff_ids", "type"], "properties": {
        "diff_ids": {"type": "array", "items": DIGEST}, "type": {"enum": ["layers"]}}},
    "history": {"type": "array", "items": {"type": "object", "properties": {
        "created": TIME, "author": {"type": "string"}, "created_by": {"type": "string"}, "comment": {"type": "string"},
        "empty_layer": {"type": "boolean"}}}}}}  # fmt: skip

EVERYTHING = """\
FROM {base} AS build
RUN echo x > /x
FROM {base}
MAINTAINER somebody
ENV A=1
LABEL l=v
EXPOSE 80 53/udp
VOLUME /v
WORKDIR /w
COPY --from=build /x .
USER app
STOPSIGNAL SIGINT
SHELL ["/bin/sh", "-c"]
HEALTHCHECK --interval=5s CMD true
ONBUILD RUN true
ENTRYPOINT ["/bin/sh"]
CMD ["-c", "true"]
"""


def check(value: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)


@pytest.mark.parametrize("platforms", [("linux/amd64",), ("linux/amd64", "linux/arm64")])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_manifests_and_configs_satisfy_the_schema(platforms: tuple[str, ...], compression: Any, base: str,
                                                        registry: RegistryServer, engine: Engine, memory: Path) -> None:  # fmt: skip
    text = EVERYTHING.format(base=base) if len(platforms) == 1 else "FROM scratch\nENV A=1\nCOPY Dockerfile /\n"
    layout = memory / "layout"
    await engine.build(BuildRequest(
        context=str(write_context(memory / "app", text)), platforms=tuple(map(Platform.parse, platforms)), compression=compression,
        annotations={"org.opencontainers.image.title": "t"}, outputs=(OutputRequest("oci", layout, archive=False),),
    ))  # fmt: skip
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout / "index.json").read_text())
    check(index, INDEX)
    seen = [(layout, entry) for entry in index["manifests"]]
    manifests = 0
    for folder, entry in seen:
        value = json.loads((folder / "blobs" / entry["digest"].replace(":", "/")).read_text())
        if "manifests" in value:
            check(value, INDEX)
            seen += [(folder, inner) for inner in value["manifests"]]
            continue
        check(value, MANIFEST)
        config = json.loads((folder / "blobs" / value["config"]["digest"].replace(":", "/")).read_text())
        check(config, CONFIG)
        layers = [h for h in config["history"] if not h.get("empty_layer")]
        assert len(layers) == len(config["rootfs"]["diff_ids"]) == len(value["layers"])
        manifests += 1
    assert manifests == len(platforms)


def test_the_schema_refuses_what_is_wrong() -> None:
    for value, schema in (({"schemaVersion": 1, "manifests": []}, INDEX), ({"schemaVersion": 2, "config": {}, "layers": []}, MANIFEST),
                          ({"os": "linux", "architecture": "amd64"}, CONFIG)):  # fmt: skip
        with pytest.raises(jsonschema.ValidationError):
            check(value, schema)
