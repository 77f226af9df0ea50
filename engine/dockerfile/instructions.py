"""The instructions of a Dockerfile, one frozen value for each. Text is as written: variables are not expanded here.

Every instruction has a `location` (lines), and the `text` it was written as (continuations joined, as BuildKit prints it).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.errors import Location

_NOWHERE = Location(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instruction:
    location: Location = field(default=_NOWHERE, compare=False)
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document: `<<NAME`, `<<-NAME` (`strip_tabs`: leading tabs are already gone from `content`), `<<"NAME"`
    (`expand` is false: its content is taken as it is). Bytes of `content` that are not UTF-8 are kept by `surrogateescape`;
    everywhere else in an instruction they are U+FFFD."""

    name: str
    content: str
    expand: bool = True
    strip_tabs: bool = False
    fd: int = 0


@dataclass(frozen=True, slots=True)
class Command:
    """What RUN, CMD, ENTRYPOINT run. `shell` form: one line for the shell; else the words of the JSON form."""

    words: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True)
class From(_Instruction):
    """FROM: what a stage starts from."""

    image: str
    name: str = ""
    """As written after AS, lower-cased; empty for a stage without name."""
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Arg(_Instruction):
    """(name, default) pairs; a default of None means: none was given."""

    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Env(_Instruction):
    """ENV: (name, value) pairs."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Label(_Instruction):
    """`legacy` tells the `LABEL key value` form from `key=value`; the same for ENV is of no consequence."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Run(_Instruction):
    """RUN: a command, and how it is run."""

    command: Command
    """For a heredoc form, `words` is the command line (perhaps empty of anything but the `<<EOF`) as written."""
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[str, ...] = ()
    """Each `--mount` as written, to be expanded and parsed when the stage's variables are known."""
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy(_Instruction):
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


@dataclass(frozen=True, slots=True)
class Workdir(_Instruction):
    """WORKDIR: a directory, relative to the one before."""

    path: str


@dataclass(frozen=True, slots=True)
class User(_Instruction):
    """USER: a name or number, perhaps with `:group`."""

    user: str


@dataclass(frozen=True, slots=True)
class Volume(_Instruction):
    """VOLUME: paths."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expose(_Instruction):
    """EXPOSE: ports as written, one word each."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cmd(_Instruction):
    """CMD: the default command."""

    command: Command


@dataclass(frozen=True, slots=True)
class Entrypoint(_Instruction):
    """ENTRYPOINT: what the command is given to."""

    command: Command


@dataclass(frozen=True, slots=True)
class HealthcheckInstruction(_Instruction):
    """HEALTHCHECK. `test` is ("NONE",), ("CMD", word…) or ("CMD-SHELL", line); times are nanoseconds."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Stopsignal(_Instruction):
    """STOPSIGNAL: a name or number."""

    signal: str


@dataclass(frozen=True, slots=True)
class Shell(_Instruction):
    """SHELL: what shell forms are handed to."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Onbuild(_Instruction):
    """`expression` is the trigger as it is stored in the image: raw text, heredocs included."""

    expression: str


@dataclass(frozen=True, slots=True)
class Maintainer(_Instruction):
    """MAINTAINER: the image's author."""

    author: str


Instruction = (
    From | Arg | Env | Label | Run | Copy | Workdir | User | Volume | Expose | Cmd | Entrypoint | HealthcheckInstruction
    | Stopsignal | Shell | Onbuild | Maintainer
)


@dataclass(frozen=True, slots=True)
class StageBlock:
    """One FROM and the instructions up to the next; `index` counts from 0."""

    index: int
    origin: From
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Warning_:
    """Something a linter would say: a rule's name (as BuildKit names it), what is wrong, and where."""

    rule: str
    message: str
    location: Location


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A parsed Dockerfile. `global_args` are the ARGs before the first FROM; `directives` has lower-case names."""

    text: str = field(repr=False)
    global_args: tuple[Arg, ...]
    stages: tuple[StageBlock, ...]
    directives: dict[str, str] = field(default_factory=dict)
    escape: str = "\\"
    warnings: tuple[Warning_, ...] = ()
    file: str = "Dockerfile"
