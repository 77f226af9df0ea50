"""The mechanisms a solve has things done by, and what belongs to one build. Values only: `wiring` fills them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from engine.cache.base import Cache
from engine.cache.flight import FileLocks, Turns
from engine.cache.mounts import CacheMounts
from engine.cache.session import CacheSession
from engine.content.base import ContentStore
from engine.context.base import Context
from engine.context.digests import DigestStore
from engine.errors import SecretError
from engine.layer.index import IndexStore
from engine.progress.reporter import Reporter
from engine.registry.base import Registry
from engine.request import SecretSource, SshSource
from engine.settings import Compression
from engine.snapshot.base import Snapshotter
from engine.solve.images import Images
from engine.solve.limits import Limiters
from engine.solve.state import Blobs, Trees
from engine.workers.base import Workers

if TYPE_CHECKING:
    from engine.cache.carry.carrier import Carrier

MAX_SECRET = 500 << 10
"""Bytes; BuildKit's limit for a secret."""


class Mechanisms(Struct, frozen=True):
    """What all builds of an engine share. What is dear to start is given as a function that starts it when first called."""

    content: ContentStore
    indexes: IndexStore
    workers: Workers
    snapshots: Callable[[], Awaitable[Snapshotter]]
    registry: Callable[[], Registry]
    cache: Cache
    """The records of this machine. Steps use the cache of their `Job`, which is more than that."""
    locks: FileLocks
    """Locks between processes: of steps, among others."""
    cache_mounts: CacheMounts
    blobs: Blobs
    trees: Trees
    digests: DigestStore
    """Digests of files of contexts that were read before."""
    limiters: Limiters
    turns: Turns
    """Whose turn it is to run a step, among the builds of this engine."""
    clock: Callable[[], float]
    """Seconds since the epoch."""
    network_files: Callable[[], tuple[str, str]]
    """The contents of /etc/hosts and /etc/resolv.conf for a RUN that shares the host's network."""


class Job(Struct, frozen=True):
    """One build. `context(name)` opens a context when it is first asked for; `""` is the build context. With `share_all` a remote
    cache gets the results of all steps, and not only of those whose layers are the image's."""

    mechanisms: Mechanisms
    images: Images
    report: Reporter
    cache: CacheSession
    scratch: Path
    context: Callable[[str], Awaitable[Context]]
    secrets: Mapping[str, SecretSource] = field(default_factory=dict)
    ssh: Mapping[str, SshSource] = field(default_factory=dict)
    compression: Compression = "gzip"
    compression_level: int | None = None
    epoch: int | None = None
    rewrite_timestamp: bool = False
    """Whether no file of a new layer may be later than the epoch."""
    no_cache: bool = False
    share_all: bool = True
    explain: bool = False
    carrier: Carrier | None = None
    """Brings cache mounts from registries, and saves them there, if the build is to."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Proxies, certificates and the SSH agent, for what is fetched for the build."""

    def saving(self) -> AbstractAsyncContextManager[None]:
        """Saves cache mounts, if they are to be saved, beside what the block does."""
        return self.carrier.saving() if self.carrier else nullcontext()

    def secret(self, id: str) -> bytes | None:
        """As `read_secret`."""
        return read_secret(self.secrets, id)

    @property
    def latest_mtime(self) -> int | None:
        """The latest time that a file of a new layer may have, in nanoseconds; None for any."""
        return self.epoch * 10**9 if self.rewrite_timestamp and self.epoch is not None else None

    @property
    def made_mtime(self) -> int:
        """The time that directories and files made by an instruction get, in nanoseconds."""
        return (self.epoch * 10**9) if self.epoch is not None else int(self.mechanisms.clock()) * 10**9


def read_secret(secrets: Mapping[str, SecretSource], id: str) -> bytes | None:
    """A secret's value, None when it was not given; raises `SecretError` when its file cannot be read."""
    source = secrets.get(id)
    if source is None:
        return None
    if source.value is not None:
        value = source.value
    else:
        try:
            value = source.file.read_bytes() if source.file else b""
        except OSError as error:
            raise SecretError(f"secret {id}: cannot read {source.file}: {error.strerror}") from error
    if len(value) > MAX_SECRET:
        raise SecretError(f"secret {id} is larger than the limit of {MAX_SECRET >> 10} KiB")
    return value
