"""Engine: an async context manager over everything. Many builds may run in one at the same time, and share what is equal."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import anyio
from msgspec.structs import replace

from engine.cache.flight import SingleFlight
from engine.cache.session import CacheSession
from engine.content.reserve import Reserve
from engine.context.base import Context
from engine.context.open import ContextOptions, open_context
from engine.errors import EngineError, UsageError
from engine.image.digest import Digest
from engine.image.reference import OCI_LAYOUT
from engine.output.base import Output
from engine.output.make import make_outputs
from engine.progress.events import Sink
from engine.progress.reporter import Reporter
from engine.request import BuildRequest, BuildResult
from engine.settings import Settings
from engine.solve.build import build as solve_build
from engine.solve.check import check
from engine.solve.images import BaseImage, Images
from engine.solve.mechanisms import Job, read_secret
from engine.solve.state import GoneError
from engine.wiring import Wiring

if TYPE_CHECKING:
    from engine.solve.rebuild import Choose, Rebuilt
    from engine.workers.spawn import Spawned

MOST_GONE = 20
"""Layers that a build can do without before it gives up on the cache."""


class Engine:
    """Builds images. Use it as an async context manager: leaving it ends every process it started."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time, spawned: Spawned | None = None) -> None:
        """`clock` gives seconds since the epoch. `spawned` is a process for its workers, started before there was an event loop."""
        self._settings = settings
        self._spawned = spawned
        self._clock = clock
        self._wiring: Wiring | None = None

    async def __aenter__(self) -> Engine:
        spawned, self._spawned = self._spawned, None
        self._wiring = await Wiring(self._settings, clock=self._clock, spawned=spawned).__aenter__()
        Reserve(self._settings.state_dir / "reserve").keep()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._wiring is not None:
            await self._wiring.__aexit__(*exc)
            self._wiring = None

    async def build(self, request: BuildRequest, *, sink: Sink | None = None, stdin: BinaryIO | None = None) -> BuildResult:
        """Builds what is asked for and writes its outputs.

        `sink` is called with every event, in the event loop. `stdin` is read when the context is `-`. Raises `EngineError`; when
        it is cancelled, nothing of the build is left running, and nothing half-written lies under a final name.
        """
        if self._wiring is None:
            raise UsageError("the engine is not open", hint="use `async with Engine(settings) as engine`")
        request = _complete(request)
        report = Reporter(sink, time.monotonic)
        try:
            async with AsyncExitStack() as stack:
                scratch = self._wiring.scratch.directory("build")
                stack.callback(shutil.rmtree, scratch, ignore_errors=True)
                contexts = _Contexts(self._wiring, request, stdin, stack, scratch)
                result = await self._attempts(self._wiring, request, report, contexts)
        except BaseException:
            report.ended(False)
            raise
        report.ended(True, str(result.digest))
        return result

    async def check(self, request: BuildRequest, *, sink: Sink | None = None, stdin: BinaryIO | None = None) -> int:
        """Reads and checks the Dockerfile of a request, and builds nothing; returns how many warnings there were, which come to
        the `sink`. Of base images the configs are read, where they can be had. Raises `EngineError` for what would end a build
        before its first step."""
        if self._wiring is None:
            raise UsageError("the engine is not open", hint="use `async with Engine(settings) as engine`")
        report = Reporter(sink, time.monotonic)
        async with AsyncExitStack() as stack:
            scratch = self._wiring.scratch.directory("check")
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            images = Images(self._wiring.mechanisms.content, self._wiring.puller, self._wiring.mechanisms.blobs)
            return await check(_Contexts(self._wiring, request, stdin, stack, scratch).open, report, request, images)

    async def rebuild(self, request: BuildRequest, choose: Choose, *, sink: Sink | None = None,
                      stdin: BinaryIO | None = None) -> tuple[int, list[Rebuilt]]:  # fmt: skip
        """Runs some of the steps again that the cache has for a build, and compares: see `engine.solve.rebuild.rebuild`. Neither
        is anything recorded, nor an output written. Raises `EngineError`."""
        from engine.solve.rebuild import rebuild

        if self._wiring is None:
            raise UsageError("the engine is not open", hint="use `async with Engine(settings) as engine`")
        request = replace(_complete(request), cache_to=None)
        report = Reporter(sink, time.monotonic)
        async with AsyncExitStack() as stack:
            scratch = self._wiring.scratch.directory("rebuild")
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            contexts = _Contexts(self._wiring, request, stdin, stack, scratch)
            cache = await stack.enter_async_context(self._wiring.cache(request, report.warn))
            return await rebuild(self._job(self._wiring, request, report, cache, contexts), request, choose)

    async def _attempts(self, wiring: Wiring, request: BuildRequest, report: Reporter, contexts: _Contexts) -> BuildResult:
        """Builds; and again without what turned out to need a layer that is nowhere any more."""
        gone: set[Digest] = set()
        while True:
            try:
                async with wiring.cache(request, report.warn, gone) as cache:
                    outputs = await self._outputs(wiring, request, report)
                    return await solve_build(self._job(wiring, request, report, cache, contexts), request, outputs)
            except GoneError as error:
                if error.digest in gone or len(gone) == MOST_GONE:
                    raise
                gone.add(error.digest)
                report.warn(f"{error.message}: what needs it is built anew")

    @staticmethod
    def _job(wiring: Wiring, request: BuildRequest, report: Reporter, cache: CacheSession, contexts: _Contexts) -> Job:
        async def used(image: BaseImage) -> None:
            if image.reference.registry != OCI_LAYOUT:
                manifest = image.manifest.descriptor.digest
                await cache.used_base(image.reference, manifest, [manifest, image.manifest.config.digest], image.state.chain)

        mechanisms = wiring.mechanisms
        images = Images(mechanisms.content, wiring.puller, mechanisms.blobs, used)
        return Job(
            mechanisms=mechanisms, images=images, report=report, cache=cache, scratch=contexts.scratch, context=contexts.open,
            secrets=request.secrets, ssh=request.ssh, compression=request.compression,
            compression_level=request.compression_level, epoch=request.source_date_epoch,
            rewrite_timestamp=request.rewrite_timestamp, no_cache=request.no_cache,
            share_all=request.cache_to is None or request.cache_to.mode == "max", explain=request.explain,
            carrier=wiring.carrier(request, report, contexts.scratch), environment=wiring.settings.environment,
        )  # fmt: skip

    @staticmethod
    async def _outputs(wiring: Wiring, request: BuildRequest, report: Reporter) -> list[Output]:
        def progress(what: str, done: int, total: int) -> None:
            report.progress("exporting to registry", what, done, total)

        return make_outputs(request, wiring, progress=progress)


class _Contexts:
    """The contexts of one build, opened when first asked for and closed with it."""

    def __init__(self, wiring: Wiring, request: BuildRequest, stdin: BinaryIO | None, stack: AsyncExitStack, scratch: Path) -> None:
        self._wiring, self._request, self._stdin, self._stack, self.scratch = wiring, request, stdin, stack, scratch
        self._open: dict[str, Context] = {}
        self._flight = SingleFlight()

    async def open(self, name: str) -> Context:
        """The build context (`""`) or a named one."""
        if name not in self._open:
            self._open[name] = await self._flight.run(name, lambda: self._make(name))
        return self._open[name]

    async def _make(self, name: str) -> Context:
        spec = self._request.contexts[name] if name else self._request.context
        wiring, environment = self._wiring, self._wiring.settings.environment
        dockerfile = None if name else self._request.dockerfile
        keep = _is_true(self._request.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR") or "")
        options = ContextOptions(self.scratch, wiring.hasher, dockerfile, None if name else self._stdin, environment, keep,
                                 named=bool(name), secrets=partial(read_secret, self._request.secrets))  # fmt: skip
        context = await open_context(spec, options)
        self._stack.push_async_callback(context.aclose)
        return context


def _complete(request: BuildRequest) -> BuildRequest:
    """The request with what follows from its build arguments: SOURCE_DATE_EPOCH, BUILDKIT_INLINE_CACHE."""
    epoch = request.source_date_epoch
    if epoch is None and (text := request.build_args.get("SOURCE_DATE_EPOCH")):
        if not text.lstrip("-").isdecimal():
            raise UsageError(f"invalid SOURCE_DATE_EPOCH: {text!r} is no number of seconds")
        epoch = int(text)
    inline = request.cache_inline or _is_true(request.build_args.get("BUILDKIT_INLINE_CACHE") or "")
    return replace(request, source_date_epoch=epoch, cache_inline=inline)


def _is_true(text: str) -> bool:
    return text.lower() in ("1", "t", "true")


async def _build(request: BuildRequest, settings: Settings, sink: Sink | None) -> BuildResult:
    async with Engine(settings) as engine:
        return await engine.build(request, sink=sink)


def build(request: BuildRequest, settings: Settings, *, sink: Sink | None = None) -> BuildResult:
    """Builds one image, blocking; for scripts that have no event loop. Raises `EngineError`."""
    return anyio.run(_build, request, settings, sink)


__all__ = ["Engine", "EngineError", "Path", "build"]
