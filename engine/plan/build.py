"""Stages → plan: which stages are built, on which images, in which steps.

Two things of the outside world are needed on the way: the configs of base images (for their environment and their ONBUILD
triggers), which may in turn make further stages needed. So planning is a small conversation: `images_wanted` names the configs
still missing, and when there are none, `make_plan` makes the plan.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from engine.dockerfile.instructions import Instruction
from engine.dockerfile.parser import parse_trigger
from engine.errors import EngineError
from engine.image.config import ImageConfig, RuntimeConfig
from engine.image.platform import Platform
from engine.image.reference import Reference
from engine.plan.base import SCRATCH, CopyOp, ImageSource, Plan, PlannedHistory, RunOp, Source, StateId, Step
from engine.plan.lower import LowerInputs, lower
from engine.plan.names import context_name, image_reference, is_files
from engine.plan.stage import Stage, continue_from, start
from engine.plan.stages import (
    ContextBase,
    ImageBase,
    ScratchBase,
    StageBase,
    StageGraph,
    StageNode,
    inherited_triggers,
    needed,
)

_HEREDOC = re.compile(r"""<<-?["']?\w+["']?$""")
_SUMMARY = 40
"""How much of a heredoc stands in the name of its step."""

ImageKey = tuple[Reference, Platform]


class PlanInputs(Struct, frozen=True):
    """What of a build request goes into the steps."""

    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    network: str = "default"
    no_cache: bool = False


def images_wanted(graph: StageGraph, configs: Mapping[ImageKey, ImageConfig]) -> dict[ImageKey, StageNode]:
    """The base images whose configs are needed next, each with a stage that starts from it; empty when all are known."""
    wanted: dict[ImageKey, StageNode] = {}
    for index in needed(graph, _triggers(graph, configs)):
        base = graph.stages[index].base
        if isinstance(base, ImageBase) and (base.reference, base.platform) not in configs:
            wanted.setdefault((base.reference, base.platform), graph.stages[index])
    return wanted


def _triggers(graph: StageGraph, configs: Mapping[ImageKey, ImageConfig]) -> dict[int, tuple[Instruction, ...]]:
    """The ONBUILD instructions that stages get from their base images, as far as those are known."""
    out: dict[int, tuple[Instruction, ...]] = {}
    for node in graph.stages:
        if isinstance(node.base, ImageBase) and (config := configs.get((node.base.reference, node.base.platform))):
            out[node.index] = _image_triggers(node, graph, config)
    return out


def _image_triggers(node: StageNode, graph: StageGraph, config: ImageConfig) -> tuple[Instruction, ...]:
    try:
        location = node.block.origin.location
        return tuple(replace(parse_trigger(text), location=location) for text in config.config.on_build)
    except EngineError as error:
        raise error.at(node.block.origin.location, graph.dockerfile.text) from None


class _Planner:
    """Collects the images and stages of one plan."""

    def __init__(self, graph: StageGraph, configs: Mapping[ImageKey, ImageConfig], inputs: PlanInputs) -> None:
        self.graph, self.configs, self.inputs = graph, configs, inputs
        self.images: dict[ImageKey, ImageSource] = {}
        self.stages: dict[int, Stage] = {}
        known = {**graph.predefined, **graph.global_args}
        hostname = inputs.build_args.get("BUILDKIT_SANDBOX_HOSTNAME") or "buildkitsandbox"
        namespace = inputs.build_args.get("BUILDKIT_CACHE_MOUNT_NS", "")
        self.lowering = LowerInputs(inputs.build_args, known, self.find, inputs.network, inputs.no_cache, hostname, namespace)

    def image(self, reference: Reference, platform: Platform, name: str) -> StateId:
        """The state an image gives."""
        key = (reference, platform)
        if key not in self.images:
            self.images[key] = ImageSource(f"image:{len(self.images)}", name, reference, platform)
        return self.images[key].id

    def find(self, name: str, stage: int) -> Source:
        """What `--from=name` means in a stage: a named context, an earlier stage, or an image."""
        context = context_name(name, self.inputs.contexts)
        if context is not None and is_files(self.inputs.contexts[context]):
            return Source(None, context)
        if (found := self.graph.reference(name, stage)) is not None:
            return Source(self.stages[found].state)
        if context is None and name == "scratch":
            return Source(SCRATCH)
        reference = image_reference(name, self.inputs.contexts)
        return Source(self.image(reference, self.graph.stages[stage].platform, name))

    def stage(self, node: StageNode, triggers: tuple[Instruction, ...]) -> None:
        """Lowers one stage; the ones it needs are already there."""
        escape = self.graph.dockerfile.escape
        if isinstance(node.base, StageBase):
            stage = continue_from(self.stages[node.base.index], node.index, node.name)
            triggers = inherited_triggers(self.graph, node)
            stage.set(on_build=())
        elif isinstance(node.base, ScratchBase | ContextBase):
            config = RuntimeConfig(working_dir="/")
            stage = start(node.index, node.name, node.platform, escape, config, SCRATCH)
            if isinstance(node.base, ContextBase):
                op = CopyOp(("/",), "/", "/", Source(None, node.base.name))
                stage.step(op, f"COPY / / # from context {node.base.name}", node.block.origin, no_cache=self.inputs.no_cache)
        else:
            image = self.configs[node.base.reference, node.base.platform]
            state = self.image(node.base.reference, node.base.platform, node.base.name)
            stage = start(node.index, node.name, node.platform, escape, image.config, state)
            stage.author = image.author
        self.stages[node.index] = stage
        lower(stage, triggers, self.lowering, self.graph.dockerfile.text)
        lower(stage, node.block.instructions, self.lowering, self.graph.dockerfile.text)


def make_plan(graph: StageGraph, configs: Mapping[ImageKey, ImageConfig], inputs: PlanInputs) -> Plan:
    """The plan of a graph whose base configs are all known; raises `DockerfileError`."""
    triggers = _triggers(graph, configs)
    planner = _Planner(graph, configs, inputs)
    order = needed(graph, triggers)
    for index in order:
        planner.stage(graph.stages[index], triggers.get(index, ()))
    result = planner.stages[graph.target]
    root = _root(graph, graph.stages[graph.target])
    base = configs[root.base.reference, root.base.platform] if isinstance(root.base, ImageBase) else None
    config = replace(result.config, labels={**result.config.labels, **inputs.labels})
    if not config.working_dir and base is None:
        config = replace(config, working_dir="/")
    elif config.working_dir and not posixpath.isabs(config.working_dir):
        config = replace(config, working_dir=posixpath.join("/", config.working_dir))
    whole = ImageConfig(
        platform=base.platform if base else result.platform, config=config, author=result.author,
        diff_ids=base.diff_ids if base else (), history=base.history if base else (), extra=base.extra if base else {},
    )  # fmt: skip
    steps = _named([s for i in order for s in planner.stages[i].steps], graph, planner.stages)
    used = {n for s in steps for n in s.needs} | {result.state}
    images = tuple(i for i in planner.images.values() if i.id in used)
    return Plan(result.platform, images, steps, result.state, whole, _history(result))


def _history(stage: Stage) -> tuple[PlannedHistory, ...]:
    return tuple(stage.history)


def _root(graph: StageGraph, node: StageNode) -> StageNode:
    while isinstance(node.base, StageBase):
        node = graph.stages[node.base.index]
    return node


def _title(step: Step) -> str:
    """An instruction on one line, as people read it: blanks collapsed, and of a heredoc how it begins."""
    title = " ".join(step.name.split())
    if isinstance(step.op, RunOp) and _HEREDOC.search(title):
        body = " ".join((step.op.script or step.op.argv[-1]).split())
        title += f" ({body if len(body) <= _SUMMARY else body[:_SUMMARY] + '…'})"
    return title


def _named(steps: list[Step], graph: StageGraph, stages: Mapping[int, Stage]) -> tuple[Step, ...]:
    """Steps with names that say where they stand: `[build 2/4] RUN make`."""
    out = []
    for step in steps:
        index, _, number = step.id.partition(".")
        stage = stages[int(index)]
        prefix = f"{stage.name} " if len(stages) > 1 else ""
        out.append(replace(step, name=f"[{prefix}{int(number) + 1}/{len(stage.steps) + 1}] {_title(step)}"))
    return tuple(out)
