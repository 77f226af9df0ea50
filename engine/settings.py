"""Settings: one frozen value, made at the edge, passed down. Nothing here reads the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

Isolation = Literal["auto", "userns", "chroot"]
Snapshots = Literal["auto", "overlay", "walk"]
Compression = Literal["gzip", "zstd", "none"]


class Limits(Struct, frozen=True):
    """How much of each scarce resource a process of the engine uses at once."""

    steps: int = 8
    downloads: int = 6
    uploads: int = 6
    workers: int = 2


class Settings(Struct, frozen=True):
    """What holds for all builds of an `Engine`.

    `state_dir` holds blobs, layers, records and roots. `auth` is the content of docker's config.json (auths, credHelpers,
    credsStore), or empty. `environment` is what credential helpers are run with.
    """

    state_dir: Path
    isolation: Isolation = "auto"
    snapshots: Snapshots = "auto"
    limits: Limits = field(default_factory=Limits)
    insecure_registries: frozenset[str] = frozenset()
    auth: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
