"""What checks of a Dockerfile need to know of base images, and what is wrong with those. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from engine.dockerfile.gotext import quote
from engine.dockerfile.instructions import Warning_
from engine.image.config import ImageConfig
from engine.plan.build import ImageKey
from engine.plan.stages import ImageBase, StageGraph, StageNode


def images_of(graph: StageGraph) -> dict[ImageKey, StageNode]:
    """The images that stages start from, each with the first stage that does; of all stages, also of those nobody needs."""
    found: dict[ImageKey, StageNode] = {}
    for node in graph.stages:
        if isinstance(node.base, ImageBase):
            found.setdefault((node.base.reference, node.base.platform), node)
    return found


@dataclass
class BaseFacts:
    """What is known of the base images of a build's platforms."""

    environments: dict[str, Collection[str]] = field(default_factory=dict)
    """The names of the variables that an image sets, by what FROM says: build arguments may have made another image of it."""
    warnings: dict[Warning_, None] = field(default_factory=dict)

    def learn(self, graph: StageGraph, configs: Mapping[ImageKey, ImageConfig]) -> None:
        """Looks at the images of which the configs are known."""
        for node in graph.stages:
            base = node.base
            if isinstance(base, ImageBase) and (config := configs.get((base.reference, base.platform))):
                self.environments[node.block.origin.image] = dict(config.config.env).keys()
                have, want = config.platform, base.platform
                if have.architecture and (have.os, have.architecture) != (want.os, want.architecture):
                    message = (f"Base image {base.name} was pulled with platform {quote(str(have))}, expected {quote(str(want))} "
                               "for current build")  # fmt: skip
                    self.warnings[Warning_("InvalidBaseImagePlatform", message, node.block.origin.location)] = None
