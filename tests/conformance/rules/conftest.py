"""One engine and one registry for all cases of the rules: a case is one build in an event loop that goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from msgspec.structs import replace

from engine import BuildRequest, Engine, Settings
from engine.errors import EngineError
from engine.image.platform import Platform
from engine.progress.events import Event
from engine.registry.server.server import RegistryServer
from engine.request import OutputRequest, SecretSource
from tests.conformance.conftest import load

from .images import Built, Case, Context, summary, write


class Workshop:
    """Builds cases and reads what came of them. `@name` in a Dockerfile is a base image of the corpus."""

    def __init__(self, portal: BlockingPortal, engine: Engine, registry: RegistryServer, folder: Path) -> None:
        self.portal, self.engine, self.registry, self.folder = portal, engine, registry, folder
        self._image: ModuleType = load("image")
        self._bases = self._push()
        self._numbers = count()

    def _push(self) -> dict[str, Any]:
        bases = load("bases")
        was, bases.REG = bases.REG, f"{self.registry.address}/conf"
        try:
            folders = bases.build(self.folder / "bases")
            bases.push(self.folder / "bases")
        finally:
            bases.REG = was
        return {"scratch": self._image.Image({}, [])} | {name: self._image.load(*place) for name, place in folders.items()}

    def text(self, dockerfile: str) -> str:
        """A Dockerfile with the names of its bases filled in."""
        return re.sub(r"@([a-z]\w*)(?![\w:/.@])", rf"{self.registry.address}/conf/\1:1", dockerfile)

    def context(self, context: Context, dockerfile: str | None = None) -> Path:
        """A new folder with a context in it."""
        folder = self.folder / f"context-{next(self._numbers)}"
        write(folder, context)
        if dockerfile is not None:
            (folder / "Dockerfile").write_text(self.text(dockerfile))
        return folder

    def request(self, folder: Path, **options: Any) -> BuildRequest:
        """A request with its options given as plain words: `args`, `secrets`, `platform`, `file` (the Dockerfile's path), and the
        request's own fields."""
        values: dict[str, Any] = dict(options)
        values["build_args"] = {k: self.text(v) for k, v in values.pop("args", {}).items()}
        values["secrets"] = {k: SecretSource(k, value=v.encode()) for k, v in values.get("secrets", {}).items()}
        values["dockerfile"] = values.pop("file", None)
        if platform := values.pop("platform", ""):
            values["platforms"] = tuple(Platform.parse(p) for p in platform.split(","))
        return BuildRequest(context=str(folder), **values)

    def build(self, dockerfile: str, context: Context | None = None, *, base: str = "", folder: Path | None = None,
              times: tuple[str, ...] = (), output: Mapping[str, str] | None = None, **options: Any) -> Built:  # fmt: skip
        """Builds a Dockerfile in a context that holds it and some files. `times` are paths whose times count. Raises
        `EngineError`."""
        if folder is None:
            folder = self.context(context or {}, dockerfile)
        else:
            (folder / "Dockerfile").write_text(self.text(dockerfile))
        events: list[Event] = []
        out = self.folder / f"image-{next(self._numbers)}"
        asked = replace(self.request(folder, **options), outputs=(OutputRequest("oci", out, archive=False, options=output or {}),))

        async def make() -> Any:
            return await self.engine.build(asked, sink=events.append)

        result = self.portal.call(make)
        image = self._image.load(out, str(asked.platforms[0]) if asked.platforms else None)
        return self._described(image, base or self._base(image), times, json.loads(result.manifest), result, events)

    def read(self, layout: Path) -> Built:
        """An image that was written somewhere, over its base."""
        image = self._image.load(layout)
        return self._described(image, self._base(image), (), {}, None, [])

    def _base(self, image: Any) -> str:
        return max(self._bases, key=lambda name: self._image.on_base(image, self._bases[name]))

    def _described(self, image: Any, base: str, times: tuple[str, ...], manifest: dict[str, Any], result: Any,
                   events: list[Event]) -> Built:  # fmt: skip
        below = self._bases[base]
        told = self._image.describe(image, below, times)
        assert not told["problems"], told["problems"]
        files = {path: summary(entry, path) for path, entry in told["files"].items()} | dict.fromkeys(told["deleted"], "gone")
        history = [(h["created_by"].replace(self.registry.address, "REG"), h["empty_layer"]) for h in told["history"]]
        tars = image.layers[self._image.on_base(image, below):]
        return Built(told["config"], history, files, told["layer_files"], image.config, manifest, result, tars, tuple(events))

    def check(self, case: Case) -> None:
        """Builds a case of a table and holds it to what the table says."""
        if case.error:
            with pytest.raises(EngineError) as caught:
                self.build(case.dockerfile, case.context, **case.options)
            assert re.search(case.error, f"{caught.value} {caught.value.hint or ''}", re.I), caught.value
        else:
            assert self.build(case.dockerfile, case.context, **case.options).files == dict(case.files)

    def fails(self, dockerfile: str, context: Context | None = None, **options: Any) -> EngineError:
        """The error that a build ends with."""
        with pytest.raises(EngineError) as caught:
            self.build(dockerfile, context, **options)
        return caught.value


@pytest.fixture(scope="session")
def shop(scratch: Path) -> Iterator[Workshop]:
    """An engine, a registry with the bases, and a place for contexts."""
    folder = scratch / "rules"
    folder.mkdir()
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        registry = stack.enter_context(portal.wrap_async_context_manager(RegistryServer(folder / "registry")))
        engine = stack.enter_context(portal.wrap_async_context_manager(Engine(Settings(folder / "state"))))
        yield Workshop(portal, engine, registry, folder)
