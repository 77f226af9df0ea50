"""One build from its request to its outputs: the order of things, and nothing of how they are done."""

from __future__ import annotations

import platform as machine
from collections.abc import Awaitable, Callable, Sequence

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct
from msgspec.structs import replace

from engine.context.base import Context
from engine.dockerfile.directives import parse_check
from engine.dockerfile.ignore import IgnoreMatcher
from engine.dockerfile.instructions import Dockerfile, Warning_
from engine.dockerfile.lint import enforce, lint
from engine.dockerfile.parser import parse
from engine.errors import DockerfileError, EngineError, UsageError
from engine.image.config import ImageConfig
from engine.image.platform import Platform
from engine.layer.base import Chain
from engine.output.base import Built, BuiltImage, Output
from engine.plan.base import Plan
from engine.plan.bases import BaseFacts, require_platform
from engine.plan.build import ImageKey, PlanInputs, images_wanted, make_plan
from engine.plan.scope import is_indexed
from engine.plan.stages import GraphInputs, StageGraph, StageNode, build_graph
from engine.progress.reporter import Reporter
from engine.request import BuildRequest, BuildResult
from engine.solve.ahead import Sender, warm_up
from engine.solve.assemble import assemble, bundle
from engine.solve.driver import solve
from engine.solve.mechanisms import Job
from engine.solve.work import PlanWork

OpenContext = Callable[[str], Awaitable[Context]]
"""Opens a context when it is first asked for; `""` is the build context."""


class Counts(Struct, frozen=True):
    """How many layer steps were found in the cache, and how many ran."""

    cached: int = 0
    ran: int = 0


async def build(job: Job, request: BuildRequest, outputs: Sequence[Output]) -> BuildResult:
    """Builds and writes every output; raises the first `EngineError`, with its place in the Dockerfile where it has one."""
    dockerfile, warned = await read_dockerfile(job.context, job.report, request)
    if request.rewrite_timestamp and job.epoch is None:
        job.report.warn("rewrite-timestamp is asked for, but there is no SOURCE_DATE_EPOCH: times stay as they are")
    host = host_platform()
    targets = request.platforms or (host,)
    indexed = is_indexed(request.build_args, len(targets))
    facts = BaseFacts()
    plans: list[Plan] = []
    try:
        async with anyio.create_task_group() as background:
            warm_up(job, dockerfile, background)
            for target in targets:
                plans.append(await make(job, request, dockerfile, host, target, facts))
            found = lint(dockerfile, base_environments=facts.environments, more=tuple(facts.warnings))
            report_warnings(dockerfile, job.report, found, warned)
            job.report.started(sum(len(plan.steps) for plan in plans))
            near = {tag.registry for tag in request.tags}
            sender = Sender(() if job.cache.is_given(near) else outputs, background)
            images, counts = await _images(job, request, plans, dockerfile.text, sender, background)
            built = bundle(images, request.tags, indexed=indexed, annotations=request.annotations,
                           docker=request.docker_types)  # fmt: skip
            async with job.saving():
                await _write(job, built, outputs)
            background.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _engine_error(group) from None
    if any(output.kind == "registry" for output in request.outputs):
        blobs = dict.fromkeys(layer.blob.digest for image in built.images for layer in image.layers)
        await job.cache.pushed(request.tags, built.top.digest, list(blobs))
    return _result(built, Counts(sum(c.cached for c in counts), sum(c.ran for c in counts)))


async def _images(job: Job, request: BuildRequest, plans: Sequence[Plan], text: str,
                  sender: Sender, closing: TaskGroup) -> tuple[tuple[BuiltImage, ...], list[Counts]]:  # fmt: skip
    """The images of all plans, side by side. What need not be done before they are there is done in `closing`."""
    images: dict[int, BuiltImage] = {}
    counts: list[Counts] = []

    async def one(n: int, plan: Plan) -> None:
        own = replace(job, report=job.report.within(f"{plan.platform} ")) if len(plans) > 1 else job
        images[n], count = await _image(own, request, plan, text, sender, closing)
        counts.append(count)

    async with anyio.create_task_group() as tasks:
        for n, plan in enumerate(plans):
            tasks.start_soon(one, n, plan)
    return tuple(images[n] for n in range(len(plans))), counts


def _engine_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    matching, _ = group.split(EngineError)
    error: BaseException = matching or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def read_dockerfile(open_context: OpenContext, report: Reporter,
                          request: BuildRequest) -> tuple[Dockerfile, Sequence[Warning_]]:  # fmt: skip
    """The parsed Dockerfile of a request, and the warnings it gave, as far as no base image is needed for them; raises
    `DockerfileError` when it is missing or wrong, or fails its own checks."""
    context = await open_context("")
    if request.dockerfile_text is not None:
        name, data = "Dockerfile", request.dockerfile_text.encode("utf-8", "surrogateescape")
    else:
        found = context.dockerfile(request.dockerfile)
        if found is None:
            raise DockerfileError(f"failed to read dockerfile: {request.dockerfile or 'Dockerfile'}: no such file",
                                  hint="name it with -f")  # fmt: skip
        name, data = found
    dockerfile = _configured(parse(data, name), request)
    warnings = lint(dockerfile, ignored=context.rules if isinstance(context.rules, IgnoreMatcher) else None)
    report_warnings(dockerfile, report, warnings)
    return dockerfile, warnings


def report_warnings(dockerfile: Dockerfile, report: Reporter, warnings: Sequence[Warning_],
                    known: Sequence[Warning_] = ()) -> None:  # fmt: skip
    """Reports warnings that are not known yet; raises `DockerfileError` if the Dockerfile wants none."""
    new = [warning for warning in warnings if warning not in known]
    for warning in new:
        report.warn(warning.message, warning.rule, warning.location.first)
    enforce(dockerfile, new)


def _configured(dockerfile: Dockerfile, request: BuildRequest) -> Dockerfile:
    """The Dockerfile with the checks that a build argument asks for in place of its own."""
    checks = request.build_args.get("BUILDKIT_DOCKERFILE_CHECK")
    if checks is None:
        return dockerfile
    try:
        if checks:
            parse_check(checks)
    except DockerfileError as error:
        raise UsageError(f"failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: {error.message}", hint=error.hint) from None
    return replace(dockerfile, directives={**dockerfile.directives, "check": checks})


def graph_inputs(request: BuildRequest, host: Platform, target: Platform) -> GraphInputs:
    """What of a request decides the stages for one platform."""
    return GraphInputs(request.target, request.build_args, host, target, request.contexts)


def plan_inputs(request: BuildRequest) -> PlanInputs:
    """What of a request goes into the steps."""
    return PlanInputs(request.build_args, request.labels, request.contexts, request.network, request.no_cache)


async def make(job: Job, request: BuildRequest, dockerfile: Dockerfile, host: Platform, target: Platform, facts: BaseFacts) -> Plan:
    """The plan for one platform: base images are resolved, side by side, until no more are wanted. `facts` learns of them."""
    graph = build_graph(dockerfile, graph_inputs(request, host, target))
    configs: dict[ImageKey, ImageConfig] = {}
    while wanted := images_wanted(graph, configs):
        await _resolve(job, graph, wanted, configs)
    facts.learn(graph, configs)
    return make_plan(graph, configs, plan_inputs(request))


async def _resolve(job: Job, graph: StageGraph, wanted: dict[ImageKey, StageNode], configs: dict[ImageKey, ImageConfig]) -> None:
    async def one(key: ImageKey, node: StageNode) -> None:
        origin = node.block.origin
        name = f"[internal] load metadata for {key[0]}"
        job.report.step(name, name)
        try:
            configs[key] = (await job.images.resolve(*key)).config
            require_platform(*key, configs[key])
        except EngineError as error:
            job.report.finished(name, "failed", error.message)
            raise error.at(origin.location, graph.dockerfile.text) from None
        job.report.finished(name, "done")

    try:
        async with anyio.create_task_group() as tasks:
            for key, node in wanted.items():
                tasks.start_soon(one, key, node)
    except BaseExceptionGroup as group:
        raise _engine_error(group) from None


async def _image(job: Job, request: BuildRequest, plan: Plan, text: str, sender: Sender,
                 closing: TaskGroup) -> tuple[BuiltImage, Counts]:  # fmt: skip
    async with anyio.create_task_group() as background:
        work = PlanWork(plan, job, text, background, closing, sender)
        try:
            states = await solve(plan, work)
        finally:
            work.close()
        background.cancel_scope.cancel()
    chain = await _compressed(job, request, states[plan.result].chain)
    near = {tag.registry for tag in request.tags}
    await job.cache.settle(near)
    origins = {layer.blob.digest: o for layer in chain if (o := job.mechanisms.blobs.origin(layer.blob.digest, near))}
    cache = await work.made(states) if request.cache_inline else None
    image = assemble(plan, states, origins=origins, annotations=request.annotations, epoch=job.epoch,
                     base_created=plan.config.created, cache=cache, chain=chain, docker=request.docker_types)  # fmt: skip
    return image, Counts(work.cached, work.ran)


async def _compressed(job: Job, request: BuildRequest, chain: Chain) -> Chain:
    """The layers of an image in the compression that is asked for, if all of them are to have it."""
    if not request.force_compression:
        return chain
    from engine.output.recompress import Recompressor

    mechanisms = job.mechanisms
    recompressor = Recompressor(mechanisms.content, mechanisms.blobs, mechanisms.workers, mechanisms.cache, mechanisms.clock,
                                request.compression, request.compression_level)  # fmt: skip
    chain = await recompressor.chain(chain)
    await job.cache.protect(chain)
    return chain


async def _write(job: Job, built: Built, outputs: Sequence[Output]) -> None:
    content = job.mechanisms.content
    for image in built.images:
        content.put(image.config_raw)
        content.put(image.manifest.raw)
    if built.index:
        content.put(built.index.raw)

    async def one(output: Output, step: str) -> None:
        job.report.step(step, step)
        try:
            where = await output.write(built)
        except EngineError as error:
            job.report.finished(step, "failed", error.message)
            raise
        job.report.finished(step, "done", detail=where)

    try:
        async with anyio.create_task_group() as tasks:
            for output in outputs:
                tasks.start_soon(one, output, f"exporting to {output.name}")
    except BaseExceptionGroup as group:
        raise _engine_error(group) from None


def _result(built: Built, counts: Counts) -> BuildResult:
    top = built.index or built.images[0].manifest
    descriptor = top.descriptor
    return BuildResult(descriptor.digest, built.images[0].manifest.config.digest, descriptor.media_type, descriptor.size, top.raw,
                       tuple(str(t) for t in built.tags), counts.cached, counts.ran)  # fmt: skip


def host_platform() -> Platform:
    """The platform of this machine."""
    return Platform.normal("linux", machine.machine().lower(), "")


