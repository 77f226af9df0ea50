"""aniko: container images from Dockerfiles, without a daemon and without root.

    async with Engine(settings) as engine:
        result = await engine.build(BuildRequest(context=".", tags=(Reference.parse("127.0.0.1:5000/app:1"),)))

The names below are the public API; everything else may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.api import Engine, build
    from engine.errors import EngineError
    from engine.image.digest import Digest
    from engine.image.platform import Platform
    from engine.image.reference import Reference
    from engine.progress.events import Event
    from engine.request import BuildRequest, BuildResult, OutputRequest, SecretSource, SshSource
    from engine.settings import Limits, Settings

__version__ = "0.1.0"

_HOMES = {
    "Engine": "api", "build": "api", "EngineError": "errors", "Digest": "image.digest", "Platform": "image.platform",
    "Reference": "image.reference", "Event": "progress.events", "BuildRequest": "request", "BuildResult": "request",
    "OutputRequest": "request", "SecretSource": "request", "SshSource": "request", "Limits": "settings", "Settings": "settings",
}  # fmt: skip

__all__ = ["BuildRequest", "BuildResult", "Digest", "Engine", "EngineError", "Event", "Limits", "OutputRequest", "Platform",
           "Reference", "SecretSource", "Settings", "SshSource", "build"]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import engine` stays as quick as it looks."""
    if name not in _HOMES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(f"engine.{_HOMES[name]}"), name)
