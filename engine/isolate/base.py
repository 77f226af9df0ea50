"""What it takes to run a command in a root filesystem, and the values that describe it. They are pickled to the process
that runs it, so they hold standard types only."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class OverlayRoot(Struct, frozen=True):
    """A root that overlayfs mounts: `lower` directories (topmost first), and where changes go. With `upper` None it is
    read-only. Absolute paths."""

    lower: tuple[str, ...]
    upper: str | None = None
    work: str | None = None


class DirectoryRoot(Struct, frozen=True):
    """A root that is a plain directory, with nothing mounted to make it."""

    path: str


Root = OverlayRoot | DirectoryRoot


class BindMount(Struct, frozen=True):
    """`source` inside `origin` (an absolute path on the host, or a root that is mounted for it) appears at `target`.

    `source` is resolved inside the origin, following no link out of it. Writable binds of an origin that must not change
    (`discard_writes`) get an overlay, or a copy where none can be mounted: the writes vanish with the RUN.
    """

    target: str
    origin: str | Root
    source: str = ""
    readonly: bool = True
    discard_writes: bool = False


class TmpfsMount(Struct, frozen=True):
    """An empty memory filesystem at `target`; `size` in bytes, 0 for no limit of its own."""

    target: str
    size: int = 0


class FileMount(Struct, frozen=True):
    """A small file with this content, owner and mode at `target`, read-only, never in the layer: a secret."""

    target: str
    content: bytes
    mode: int = 0o400
    uid: int = 0
    gid: int = 0

    def __repr__(self) -> str:
        return f"FileMount({self.target!r}, ..., {self.mode:#o}, {self.uid}, {self.gid})"


class SocketMount(Struct, frozen=True):
    """The host's Unix socket `socket` at `target` (an SSH agent)."""

    target: str
    socket: str
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


Mount = BindMount | TmpfsMount | FileMount | SocketMount


class RunSpec(Struct, frozen=True):
    """One process to run to its end in a root. Mounts are made in their order; mount targets that do not exist are created
    for the time of the run and removed after it, their parent's times as before.

    `groups` are the supplementary groups. `env` is the whole environment. `hosts` and `resolv_conf` are the contents of the
    files bound over /etc/hosts and /etc/resolv.conf, None to leave the image's own.
    """

    root: Root
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: Literal["default", "none", "host"] = "default"
    hostname: str = "buildkitsandbox"
    hosts: str | None = None
    resolv_conf: str | None = None
    stdin: bytes | None = None

    def __repr__(self) -> str:
        return f"RunSpec({self.root!r}, {self.argv!r}, cwd={self.cwd!r}, uid={self.uid}, gid={self.gid}, mounts={self.mounts!r})"


class RunOutcome(Struct, frozen=True):
    """How the process ended: its exit code, or 128 + signal number."""

    status: int


class IdMap(Struct, frozen=True):
    """Which owners files can have on disk. `identity`: all that the host has (root). `subids`: 0 to `count` - 1, through
    newuidmap. `single`: only 0. `none`: no user namespace and not root: files on disk always belong to the user."""

    kind: Literal["identity", "subids", "single", "none"]
    count: int = 1

    def holds(self, uid: int, gid: int) -> bool:
        """Whether a file on disk can have this owner."""
        return self.kind == "identity" or (uid < self.count and gid < self.count and self.kind != "none")


class Environment(Struct, frozen=True):
    """What this machine lets us do, as the probe saw it. `isolation` None: no RUN is possible, and `reasons` says why."""

    isolation: Literal["userns", "chroot"] | None
    snapshots: Literal["overlay", "walk"]
    ids: IdMap
    xattrs: Literal["trusted", "user"] = "user"
    """The extended attributes that overlayfs keeps its marks in: `trusted.overlay.*`, or `user.overlay.*`."""
    user_namespace: Literal["server", "step"] | None = None
    """With isolation `userns`: the fork server's own, which the steps share, or one for each step (root, who can do without for all
    the rest); None if the kernel makes none, and root's steps go without."""
    reasons: tuple[str, ...] = ()
    """One sentence for each choice, for people: `userns: root, all ids mapped` or `userns: not possible: …`."""
