"""Variables that exist without anybody declaring them: platforms, proxies (spec: Dockerfile reference, "Predefined ARGs")."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import UsageError
from engine.image.platform import Platform

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
_BOOLEANS = (dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True)
             | dict.fromkeys(("", "0", "f", "F", "false", "FALSE", "False"), False))  # fmt: skip
"""What Go reads as booleans, and nothing."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def platform_args(build: Platform, target: Platform, stage: str) -> dict[str, str]:
    """BUILDPLATFORM … TARGETSTAGE: readable in FROM, and in a stage that declares them. `stage` is the target's name."""
    out: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        out |= {f"{prefix}PLATFORM": str(platform), f"{prefix}OS": platform.os, f"{prefix}OSVERSION": platform.os_version,
                f"{prefix}ARCH": platform.architecture, f"{prefix}VARIANT": platform.variant}  # fmt: skip
    return out | {"TARGETSTAGE": stage or "default"}


def proxy_args(build_args: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The proxy variables a RUN sees, in lower and upper case, whatever the case they were given in."""
    given = {k.lower(): v for k, v in build_args.items() if k.lower() in PROXIES}
    return tuple((name, given[key]) for key in PROXIES if key in given for name in (key, key.upper()))


def is_proxy(name: str) -> bool:
    """Whether a build argument is one of the predefined proxy variables."""
    return name.lower() in PROXIES


def is_indexed(build_args: Mapping[str, str], platforms: int) -> bool:
    """Whether the result is an image index: when there are several platforms, or the build argument BUILDKIT_MULTI_PLATFORM says
    so. Raises `UsageError` when that is no boolean, or contradicts."""
    text = build_args.get("BUILDKIT_MULTI_PLATFORM", "")
    if text not in _BOOLEANS:
        raise UsageError(f"invalid boolean value for multi-platform: {text}", hint="BUILDKIT_MULTI_PLATFORM is true or false")
    if text and not _BOOLEANS[text] and platforms > 1:
        raise UsageError("conflicting config: returning multiple target platforms is not allowed",
                         hint="build for one --platform, or leave BUILDKIT_MULTI_PLATFORM out")
    return _BOOLEANS[text] or platforms > 1
