"""One stage while its instructions are read: variables, config and the steps so far. Only `lower` changes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from engine.dockerfile.expand import expand
from engine.dockerfile.instructions import Command, Instruction
from engine.image.config import RuntimeConfig
from engine.image.platform import Platform
from engine.plan.base import SCRATCH, Op, PlannedHistory, StateId, Step
from engine.plan.scope import DEFAULT_PATH

DEFAULT_SHELL = ("/bin/sh", "-c")


class Stage(Struct):
    """A stage's state between two instructions.

    `variables` is what the next instruction can see: ENV and ARG together, the last declaration winning. `args` are the declared
    build arguments in order, for the history of RUN.
    """

    index: int
    name: str
    platform: Platform
    escape: str
    config: RuntimeConfig
    state: StateId = SCRATCH
    variables: dict[str, str] = field(default_factory=dict)
    args: dict[str, str | None] = field(default_factory=dict)
    history: list[PlannedHistory] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    images: list[StateId] = field(default_factory=list)
    author: str = ""
    cmd_set: bool = False
    triggers: list[str] = field(default_factory=list)
    """The ONBUILD expressions this stage stores."""

    def expand(self, text: str) -> str:
        """A text with the variables of this moment."""
        return expand(text, self.variables, escape=self.escape)

    def expander(self) -> Callable[[str], str]:
        """Like `expand`, but with the variables as they are now even when they change later."""
        before = dict(self.variables)
        return lambda text: expand(text, before, escape=self.escape)

    def set(self, **fields: object) -> None:
        """Changes fields of the runtime config."""
        self.config = replace(self.config, **fields)

    def set_env(self, name: str, value: str) -> None:
        """ENV: visible to what follows, and kept in the image. A changed variable keeps its place."""
        env = dict(self.config.env)
        env[name] = value
        self.set(env=tuple(env.items()))
        self.variables[name] = value

    def with_shell(self, command: Command) -> tuple[str, ...]:
        """The words to run: as they are, or one line handed to the shell."""
        return (*(self.config.shell or DEFAULT_SHELL), " ".join(command.words)) if command.shell else command.words

    @property
    def workdir(self) -> str:
        """Where commands run and relative paths start."""
        return self.config.working_dir or "/"

    def note(self, created_by: str) -> None:
        """Adds a history entry without a layer."""
        self.history.append(PlannedHistory(created_by))

    def step(self, op: Op, created_by: str, instruction: Instruction, *, no_cache: bool) -> None:
        """Adds a step on the present state, which becomes the present state."""
        step_id = f"{self.index}.{len(self.steps) + 1}"
        self.steps.append(Step(step_id, instruction.text, op, self.state, self.platform, instruction.location, no_cache))
        self.history.append(PlannedHistory(created_by, step_id))
        self.state = step_id


def start(index: int, name: str, platform: Platform, escape: str, config: RuntimeConfig, state: StateId) -> Stage:
    """A stage that begins with an image's config: its variables are visible, its ONBUILD triggers are not inherited."""
    if "PATH" not in dict(config.env) and platform.os != "windows":
        config = replace(config, env=(*config.env, ("PATH", DEFAULT_PATH)))
    stage = Stage(index, name, platform, escape, replace(config, on_build=()), state)
    stage.variables.update(config.env)
    return stage


def continue_from(base: Stage, index: int, name: str) -> Stage:
    """A stage that begins where another one ended; its build arguments stay visible."""
    return Stage(index, name, base.platform, base.escape, base.config, base.state, dict(base.variables), dict(base.args),
                 list(base.history), author=base.author)


def format_pairs(pairs: Mapping[str, str | None]) -> str:
    """`A=1 B` as history entries have it."""
    return " ".join(k if v is None else f"{k}={v}" for k, v in pairs.items())
