"""The plan: a graph of steps, as values. Everything here is known before any layer byte is.

A *state* is a root filesystem at some point of the graph, and is named by the vertex that leads to it: an image that is
pulled, a step that runs, or `SCRATCH`. A step has one parent state, on which it works, and other states (or the contexts)
it reads from.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

from engine.dockerfile.instructions import Heredoc
from engine.dockerfile.mounts import MountSpec
from engine.errors import Location
from engine.image.config import ImageConfig
from engine.image.platform import Platform
from engine.image.reference import Reference
from engine.values import Value

StateId = str
SCRATCH: StateId = "scratch"
_NOWHERE = Location(0, 0)


class Source(Struct, frozen=True):
    """Where COPY, ADD or a mount takes files from: a state of the graph, or a context by name (`""` is the build context)."""

    state: StateId | None = None
    context: str = ""


class MountInput(Struct, frozen=True):
    """A RUN's mount, its variables expanded, and where its files come from if it takes any (bind, cache with `from`)."""

    spec: MountSpec
    source: Source | None = None


class RunOp(Value, frozen=True):
    """A process. `env` is what the Dockerfile makes visible; `proxies` are added when it runs and never enter a key."""

    UNCOMPARED: ClassVar = frozenset({"proxies"})

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    mounts: tuple[MountInput, ...] = ()
    network: str = "default"
    proxies: tuple[tuple[str, str], ...] = ()
    script: str | None = None
    """The body of a heredoc that is executed as a file, having a `#!` line; the last word of `argv` is its path."""
    hostname: str = "buildkitsandbox"


class CopyOp(Struct, frozen=True):
    """COPY or ADD, its variables expanded. `remote` sources (ADD of URLs and git repositories) stand among `sources`."""

    sources: tuple[str, ...]
    destination: str
    workdir: str
    source: Source
    heredocs: tuple[Heredoc, ...] = ()
    add: bool = False
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


class WorkdirOp(Struct, frozen=True):
    """A directory that must be there, owned by `user` if it has to be made."""

    path: str
    user: str


Op = RunOp | CopyOp | WorkdirOp


class Step(Value, frozen=True):
    """One instruction that makes a layer."""

    UNCOMPARED: ClassVar = frozenset({"location"})

    id: StateId
    name: str
    op: Op
    parent: StateId
    platform: Platform
    location: Location = _NOWHERE
    no_cache: bool = False

    @property
    def text(self) -> str:
        """The instruction alone, without where it stands: the same in every Dockerfile."""
        return self.name.partition("] ")[2] if self.name.startswith("[") else self.name

    @property
    def sources(self) -> tuple[Source, ...]:
        """What it reads from beside its parent."""
        if isinstance(self.op, RunOp):
            return tuple(m.source for m in self.op.mounts if m.source)
        return (self.op.source,) if isinstance(self.op, CopyOp) else ()

    @property
    def needs(self) -> tuple[StateId, ...]:
        """The states that must exist before it can run."""
        states = (self.parent, *(s.state for s in self.sources if s.state is not None))
        return tuple(dict.fromkeys(s for s in states if s != SCRATCH))


class ImageSource(Struct, frozen=True):
    """An image somebody else made: a base, or the source of a COPY or mount."""

    id: StateId
    name: str
    reference: Reference
    platform: Platform


class PlannedHistory(Struct, frozen=True):
    """A history entry of the new image; `step` is the step whose layer it has, None for an empty one."""

    created_by: str
    step: StateId | None = None


class Plan(Struct, frozen=True):
    """What makes one platform's image. `steps` are in an order in which every step comes after what it needs."""

    platform: Platform
    images: tuple[ImageSource, ...]
    steps: tuple[Step, ...]
    result: StateId
    config: ImageConfig
    """The new image's config: complete but for `created`, `diff_ids` and the history of this build."""
    history: tuple[PlannedHistory, ...]
