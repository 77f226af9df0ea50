"""Checking a Dockerfile without building it: its text, the order of its stages, and what base images have to do with it."""

from __future__ import annotations

from collections.abc import Collection

import anyio

from engine.dockerfile.lint import lint
from engine.errors import EngineError
from engine.image.config import ImageConfig
from engine.plan.bases import BaseFacts, images_of
from engine.plan.build import ImageKey, images_wanted, make_plan
from engine.plan.stages import StageGraph, build_graph, needed
from engine.progress.reporter import Reporter
from engine.request import BuildRequest
from engine.solve.build import OpenContext, graph_inputs, host_platform, plan_inputs, read_dockerfile, report_warnings
from engine.solve.images import Images

PATIENCE = 5.0
"""Seconds that all registries together are waited for: a check is to be quick, and to work without a network."""


async def check(open_context: OpenContext, report: Reporter, request: BuildRequest, images: Images) -> int:
    """Reads and checks the Dockerfile, and runs nothing; returns how many warnings the checks gave. Of base images only the configs
    are read; those that cannot be had are told of in a warning that does not count. Raises `EngineError` for what would end a build
    before its first step."""
    dockerfile, warned = await read_dockerfile(open_context, report, request)
    host = host_platform()
    facts = BaseFacts()
    graphs = [build_graph(dockerfile, graph_inputs(request, host, target)) for target in request.platforms or (host,)]
    for graph in graphs:
        needed(graph, {})  # which finds circles
    configs = await _configs(graphs, images, report)
    for graph in graphs:
        facts.learn(graph, configs)
        if not images_wanted(graph, configs):
            make_plan(graph, configs, plan_inputs(request))
    found = lint(dockerfile, base_environments=facts.environments, more=tuple(facts.warnings))
    report_warnings(dockerfile, report, found, warned)
    return len({*warned, *found})


async def _configs(graphs: Collection[StageGraph], images: Images, report: Reporter) -> dict[ImageKey, ImageConfig]:
    """The configs of base images, as far as they can be had in time."""
    wanted = dict.fromkeys(key for graph in graphs for key in images_of(graph))
    configs: dict[ImageKey, ImageConfig] = {}
    failures: dict[ImageKey, str] = {}

    async def one(key: ImageKey) -> None:
        try:
            configs[key] = (await images.resolve(*key)).config
        except EngineError as error:
            failures[key] = error.message

    with anyio.move_on_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for key in wanted:
                tasks.start_soon(one, key)
    for key in wanted:
        if key not in configs:
            reason = failures.get(key, f"no answer within {PATIENCE:g} seconds")
            name = key[0].familiar
            reason = reason.removeprefix(f"{name}: ")
            report.warn(f"cannot read base image {name}, so what depends on it is not checked: {reason}")
    return configs
