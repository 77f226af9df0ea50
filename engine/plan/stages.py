"""The graph of stages: what each FROM stands for, what needs what, and which stages a target needs at all."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush

from msgspec import Struct, field
from msgspec.structs import replace

from engine.dockerfile.expand import expand
from engine.dockerfile.instructions import Copy, Dockerfile, Instruction, Onbuild, Run, StageBlock
from engine.dockerfile.suggest import did_you_mean
from engine.errors import DockerfileError, EngineError
from engine.image.platform import Platform
from engine.image.reference import Reference
from engine.plan.names import context_name, find_stage, image_reference, is_files, target_contexts
from engine.plan.scope import platform_args

STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")


class StageBase(Struct, frozen=True):
    """A stage continues an earlier one."""

    index: int


class ImageBase(Struct, frozen=True):
    """A stage starts from an image; `name` is the reference as the user wrote it."""

    reference: Reference
    platform: Platform
    name: str


class ScratchBase(Struct, frozen=True):
    """A stage starts from nothing."""


class ContextBase(Struct, frozen=True):
    """A stage starts from the files of a named context."""

    name: str


Base = StageBase | ImageBase | ScratchBase | ContextBase


class StageNode(Struct, frozen=True):
    """A stage whose FROM has been read. `platform` is that of its files."""

    block: StageBlock
    base: Base
    platform: Platform

    @property
    def index(self) -> int:
        return self.block.index

    @property
    def name(self) -> str:
        """What it is called in messages: its name, or `stage-N`."""
        return self.block.origin.name or f"stage-{self.block.index}"


class StageGraph(Struct, frozen=True):
    """All stages of a Dockerfile for one target platform, and the one that is wanted."""

    dockerfile: Dockerfile
    stages: tuple[StageNode, ...]
    target: int
    global_args: Mapping[str, str]
    """Values of the ARGs before the first FROM."""
    predefined: Mapping[str, str]
    """Platform arguments, for stages that declare them."""
    contexts: Mapping[str, str] = field(default_factory=dict)
    """Named contexts, which take the place of stages and images of their name."""
    targets: Mapping[str, int] = field(default_factory=dict)
    """Those of them that are stages: they may also be later ones."""

    def find(self, name: str, before: int) -> int | None:
        """The stage that `--from=name` means in stage `before`: a named context's, or the last earlier one of that name, or by
        number."""
        context = context_name(name, self.contexts)
        if context is not None:
            return self.targets.get(context)
        for stage in reversed(self.stages[:before]):
            if stage.block.origin.name and stage.block.origin.name == name.lower():
                return stage.index
        if name.isdecimal() and int(name) < before:
            return int(name)
        return None

    def reference(self, name: str, stage: int) -> int | None:
        """Like `find`, but a name or number that only a later stage (or the stage itself) has is an error."""
        found = self.find(name, stage)
        if found is not None:
            return found
        if context_name(name, self.contexts) is not None:
            return None
        later = [s for s in self.stages[stage:] if s.block.origin.name == name.lower()]
        if later or (name.isdecimal() and int(name) >= stage):
            here = self.stages[stage].name
            if name.isdecimal() and int(name) >= len(self.stages):
                raise DockerfileError(f"invalid stage index {name}: there are {len(self.stages)} stages, counted from 0")
            raise DockerfileError(f'cannot copy from stage "{name}", it needs to be defined before current stage "{here}"',
                                  hint="move that stage above this one")
        return None


class GraphInputs(Struct, frozen=True):
    """What of a build request decides the shape of the graph."""

    target: str
    build_args: Mapping[str, str]
    build_platform: Platform
    target_platform: Platform
    contexts: Mapping[str, str]


def build_graph(dockerfile: Dockerfile, inputs: GraphInputs) -> StageGraph:
    """Reads every FROM; raises `DockerfileError` with its place when one makes no sense."""
    if not dockerfile.stages:
        raise DockerfileError("dockerfile contains no stages to build").at(None, dockerfile.text)
    target = _target(dockerfile, inputs.target)
    predefined = platform_args(inputs.build_platform, inputs.target_platform, _target_name(dockerfile, target))
    predefined = {k: inputs.build_args.get(k, v) for k, v in predefined.items()}
    global_args = _global_args(dockerfile, inputs.build_args, predefined)
    targets = target_contexts(dockerfile, inputs.contexts)
    nodes: list[StageNode] = []
    for block in dockerfile.stages:
        try:
            nodes.append(_node(block, nodes, {**predefined, **global_args}, inputs, dockerfile.escape, targets))
        except EngineError as error:
            raise error.at(block.origin.location, dockerfile.text) from None
    stages = _settle(nodes, dockerfile.text) if targets else tuple(nodes)
    return StageGraph(dockerfile, stages, target, global_args, predefined, inputs.contexts, targets)


def _settle(nodes: Sequence[StageNode], text: str) -> tuple[StageNode, ...]:
    """The stages with the platforms of those that they continue, which may stand below them."""
    out = []
    for node in nodes:
        root, seen = node, {node.index}
        while isinstance(root.base, StageBase):
            if root.base.index in seen:
                raise _circular(node).at(node.block.origin.location, text)
            seen.add(root.base.index)
            root = nodes[root.base.index]
        out.append(replace(node, platform=root.platform))
    return tuple(out)


def _circular(node: StageNode) -> EngineError:
    return DockerfileError(f"circular dependency detected on stage: {node.name}",
                           hint="see which stages the build contexts target:… stand for")


def _target(dockerfile: Dockerfile, wanted: str) -> int:
    if not wanted:
        return dockerfile.stages[-1].index
    found = find_stage(dockerfile, wanted)
    if found is not None:
        return found
    near = did_you_mean(wanted, [b.origin.name for b in dockerfile.stages if b.origin.name], case_sensitive=False)
    raise DockerfileError(f'target stage "{wanted}" could not be found{near}')


def _target_name(dockerfile: Dockerfile, target: int) -> str:
    return dockerfile.stages[target].origin.name


def _global_args(dockerfile: Dockerfile, build_args: Mapping[str, str], predefined: Mapping[str, str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for arg in dockerfile.global_args:
        for name, default in arg.pairs:
            try:
                value = build_args.get(name, expand(default, {**predefined, **out}, escape=dockerfile.escape)
                                       if default is not None and name not in build_args else None)
            except EngineError as error:
                raise error.at(arg.location, dockerfile.text) from None
            if value is None and name in predefined:
                continue
            if value is not None:
                out[name] = value
    return out


def _node(block: StageBlock, earlier: list[StageNode], args: Mapping[str, str], inputs: GraphInputs, escape: str,
          targets: Mapping[str, int]) -> StageNode:  # fmt: skip
    origin = block.origin
    if origin.name and not STAGE_NAME.fullmatch(origin.name):
        raise DockerfileError(f'invalid name for build stage: "{origin.name}", name can\'t start with a number or contain symbols')
    image = expand(origin.image, args, escape=escape)
    if not image:
        raise DockerfileError(f"base name ({origin.image}) should not be blank")
    platform = inputs.target_platform
    if origin.platform:
        text = expand(origin.platform, args, escape=escape)
        if not text:
            raise DockerfileError(f"empty platform value from expression {origin.platform}")
        platform = Platform.parse(text, inputs.target_platform)
    context = context_name(image, inputs.contexts)
    if context is not None and context in targets:
        return StageNode(block, StageBase(targets[context]), platform)
    if context is not None and is_files(inputs.contexts[context]):
        return StageNode(block, ContextBase(context), platform)
    if context is not None:
        return StageNode(block, ImageBase(image_reference(image, inputs.contexts), platform, image), platform)
    for stage in reversed(earlier):
        if stage.block.origin.name and stage.block.origin.name == image.lower():
            return StageNode(block, StageBase(stage.index), stage.platform)
    if image.isdecimal() and int(image) < len(earlier):
        return StageNode(block, StageBase(int(image)), earlier[int(image)].platform)
    if image == "scratch":
        return StageNode(block, ScratchBase(), platform)
    return StageNode(block, ImageBase(image_reference(image, inputs.contexts), platform, image), platform)


def sources_of(instructions: Iterable[Instruction]) -> list[str]:
    """The names in every `--from` of COPY, ADD and mounts, as written."""
    out: list[str] = []
    for instruction in instructions:
        if isinstance(instruction, Copy) and instruction.from_:
            out.append(instruction.from_)
        elif isinstance(instruction, Run):
            out += [name for mount in instruction.mounts if (name := mount_from(mount))]
    return out


def mount_from(mount: str) -> str:
    """The `from` of a mount as written, or nothing."""
    for option in next(csv.reader([mount]), []):
        key, _, value = option.partition("=")
        if key.strip().lower() == "from":
            return value
    return ""


def needed(graph: StageGraph, triggers: Mapping[int, tuple[Instruction, ...]]) -> list[int]:
    """The stages the target needs, each after those that it needs itself, and else in the order of the Dockerfile. `triggers` has
    the ONBUILD instructions each stage gets from its base image. Raises `DockerfileError` for a circle, which named contexts that
    are stages can make."""
    needs: dict[int, set[int]] = {}
    todo = [graph.target]
    while todo:
        index = todo.pop()
        if index in needs:
            continue
        node = graph.stages[index]
        instructions = (*triggers.get(index, ()), *inherited_triggers(graph, node), *node.block.instructions)
        needs[index] = {found for name in sources_of(instructions) if (found := graph.find(name, index)) is not None}
        if isinstance(node.base, StageBase):
            needs[index].add(node.base.index)
        todo += needs[index]
    if not graph.targets:
        return sorted(needs)
    return _ordered(graph, needs)


def _ordered(graph: StageGraph, needs: Mapping[int, Iterable[int]]) -> list[int]:
    """Stages, each after those that it needs; among several that could come next, the first of the Dockerfile."""
    sorter = TopologicalSorter(needs)
    try:
        sorter.prepare()
    except CycleError as error:
        node = graph.stages[min(error.args[1])]
        raise _circular(node).at(node.block.origin.location, graph.dockerfile.text) from None
    order: list[int] = []
    ready: list[int] = []
    while sorter.is_active():
        for index in sorter.get_ready():
            heappush(ready, index)
        order.append(heappop(ready))
        sorter.done(order[-1])
    return order


def inherited_triggers(graph: StageGraph, node: StageNode) -> tuple[Instruction, ...]:
    """The ONBUILD instructions that a stage gets from the stage it continues."""
    from engine.dockerfile.parser import parse_trigger

    if not isinstance(node.base, StageBase):
        return ()
    base = graph.stages[node.base.index].block
    return tuple(parse_trigger(i.expression, graph.dockerfile.escape) for i in base.instructions if isinstance(i, Onbuild))
