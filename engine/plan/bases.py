"""What checks of a Dockerfile need to know of base images, and what is wrong with those. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct, field

from engine.dockerfile.gotext import quote
from engine.dockerfile.instructions import Warning_
from engine.errors import PlatformError
from engine.image.config import ImageConfig
from engine.image.platform import Platform
from engine.image.reference import Reference
from engine.plan.build import ImageKey
from engine.plan.stages import ImageBase, StageGraph, StageNode


def images_of(graph: StageGraph) -> dict[ImageKey, StageNode]:
    """The images that stages start from, each with the first stage that does; of all stages, also of those nobody needs."""
    found: dict[ImageKey, StageNode] = {}
    for node in graph.stages:
        if isinstance(node.base, ImageBase):
            found.setdefault((node.base.reference, node.base.platform), node)
    return found


def require_platform(reference: Reference, platform: Platform, config: ImageConfig) -> None:
    """Raises `PlatformError` for a base that cannot be used for a platform. An index has the one that is asked for or is refused
    before; what is no index may be for any, and a build on it would be an image that says it runs where it does not."""
    have = config.platform
    if have.architecture and not any(
        (have.os, have.architecture) == (p.os, p.architecture) and have.variant in (p.variant, "") for p in platform.runs()
    ):
        raise PlatformError(f"{reference.familiar}: is for {have}, not for {platform}",
                            hint=f"build with --platform {have}, or write FROM --platform={have}")  # fmt: skip


class BaseFacts(Struct):
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
