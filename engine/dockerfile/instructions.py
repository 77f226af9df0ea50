"""The instructions of a Dockerfile, one frozen value for each. Text is as written: variables are not expanded here.

Every instruction has a `location` (lines), and the `text` it was written as (continuations joined, as BuildKit prints it).
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct, field

from engine.errors import Location
from engine.values import Value

_NOWHERE = Location(0, 0)


class _Instruction(Struct, frozen=True, kw_only=True):
    """Two are equal that say the same, wherever they stand and however they are written."""

    location: Location = _NOWHERE
    text: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Instruction) and type(self) is type(other) and self._said() == other._said()

    def __hash__(self) -> int:
        return hash((type(self), self._said()))

    def _said(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__struct_fields__ if name not in ("location", "text"))


class Heredoc(Struct, frozen=True):
    """A here-document: `<<NAME`, `<<-NAME` (`strip_tabs`: leading tabs are already gone from `content`), `<<"NAME"`
    (`expand` is false: its content is taken as it is). Bytes of `content` that are not UTF-8 are kept by `surrogateescape`;
    everywhere else in an instruction they are U+FFFD."""

    name: str
    content: str
    expand: bool = True
    strip_tabs: bool = False
    fd: int = 0


class Command(Struct, frozen=True):
    """What RUN, CMD, ENTRYPOINT run. `shell` form: one line for the shell; else the words of the JSON form."""

    words: tuple[str, ...]
    shell: bool


class From(_Instruction, frozen=True):
    """FROM: what a stage starts from."""

    image: str
    name: str = ""
    """As written after AS, lower-cased; empty for a stage without name."""
    platform: str = ""


class Arg(_Instruction, frozen=True):
    """(name, default) pairs; a default of None means: none was given."""

    pairs: tuple[tuple[str, str | None], ...]


class Env(_Instruction, frozen=True):
    """ENV: (name, value) pairs."""

    pairs: tuple[tuple[str, str], ...]


class Label(_Instruction, frozen=True):
    """`legacy` tells the `LABEL key value` form from `key=value`; the same for ENV is of no consequence."""

    pairs: tuple[tuple[str, str], ...]


class Run(_Instruction, frozen=True):
    """RUN: a command, and how it is run."""

    command: Command
    """For a heredoc form, `words` is the command line (perhaps empty of anything but the `<<EOF`) as written."""
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[str, ...] = ()
    """Each `--mount` as written, to be expanded and parsed when the stage's variables are known."""
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()


class Copy(_Instruction, frozen=True):
    """COPY, or ADD when `add` is true. Heredoc sources are in `heredocs`, the others in `sources`, in their orders."""

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    add: bool = False
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


class Workdir(_Instruction, frozen=True):
    """WORKDIR: a directory, relative to the one before."""

    path: str


class User(_Instruction, frozen=True):
    """USER: a name or number, perhaps with `:group`."""

    user: str


class Volume(_Instruction, frozen=True):
    """VOLUME: paths."""

    paths: tuple[str, ...]


class Expose(_Instruction, frozen=True):
    """EXPOSE: ports as written, one word each."""

    ports: tuple[str, ...]


class Cmd(_Instruction, frozen=True):
    """CMD: the default command."""

    command: Command


class Entrypoint(_Instruction, frozen=True):
    """ENTRYPOINT: what the command is given to."""

    command: Command


class HealthcheckInstruction(_Instruction, frozen=True):
    """HEALTHCHECK. `test` is ("NONE",), ("CMD", word…) or ("CMD-SHELL", line); times are nanoseconds."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Stopsignal(_Instruction, frozen=True):
    """STOPSIGNAL: a name or number."""

    signal: str


class Shell(_Instruction, frozen=True):
    """SHELL: what shell forms are handed to."""

    words: tuple[str, ...]


class Onbuild(_Instruction, frozen=True):
    """`expression` is the trigger as it is stored in the image: raw text, heredocs included."""

    expression: str


class Maintainer(_Instruction, frozen=True):
    """MAINTAINER: the image's author."""

    author: str


Instruction = (
    From | Arg | Env | Label | Run | Copy | Workdir | User | Volume | Expose | Cmd | Entrypoint | HealthcheckInstruction
    | Stopsignal | Shell | Onbuild | Maintainer
)


class StageBlock(Struct, frozen=True):
    """One FROM and the instructions up to the next; `index` counts from 0."""

    index: int
    origin: From
    instructions: tuple[Instruction, ...]


class Warning_(Struct, frozen=True):
    """Something a linter would say: a rule's name (as BuildKit names it), what is wrong, and where."""

    rule: str
    message: str
    location: Location


class Dockerfile(Value, frozen=True):
    """A parsed Dockerfile. `global_args` are the ARGs before the first FROM; `directives` has lower-case names."""

    UNSHOWN: ClassVar = frozenset({"text"})

    text: str
    global_args: tuple[Arg, ...]
    stages: tuple[StageBlock, ...]
    directives: dict[str, str] = field(default_factory=dict)
    escape: str = "\\"
    warnings: tuple[Warning_, ...] = ()
    file: str = "Dockerfile"
