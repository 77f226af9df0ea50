"""Platforms: `os/architecture[/variant]` (OCI image spec, image-index.md; names as in Go's GOOS and GOARCH)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from engine.errors import UsageError

_ARCHITECTURES = {
    "x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "aarch64": ("arm64", ""), "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"), "armv7l": ("arm", "v7"), "armv6l": ("arm", "v6"), "i386": ("386", ""), "i686": ("386", ""),
}  # fmt: skip
_NAMES = {"amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "mips64le", "mips64", "loong64", "ppc64", "wasm"}
_SYSTEMS = {"linux", "windows", "darwin", "freebsd", "wasip1", "solaris", "netbsd", "openbsd"}
_PART = re.compile(r"[A-Za-z0-9_.-]+")


class Platform(Struct, frozen=True):
    """An operating system, a processor architecture and perhaps a variant of it, in normal form."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str, default: Platform | None = None) -> Platform:
        """`linux/arm64/v8`, `linux/amd64`, or one part of it, completed from `default`; raises `UsageError`."""
        parts = text.strip().lower().split("/")
        if not all(_PART.fullmatch(p) for p in parts) or len(parts) > 3:
            raise UsageError(f"invalid platform {text!r}", hint="use os/architecture[/variant], as in linux/arm64")
        if len(parts) == 1:
            default = default or cls("linux", "amd64")
            if parts[0] in _SYSTEMS:
                return cls(parts[0], default.architecture, default.variant)
            if parts[0] not in _NAMES and parts[0] not in _ARCHITECTURES:
                raise UsageError(f"unknown operating system or architecture {text!r}",
                                 hint="use os/architecture[/variant], as in linux/arm64")
            return cls.normal(default.os, parts[0], "")
        return cls.normal(parts[0], parts[1], parts[2] if len(parts) == 3 else "")

    @classmethod
    def normal(cls, os: str, architecture: str, variant: str, os_version: str = "") -> Platform:
        """A platform with the usual names: x86_64 is amd64, aarch64 is arm64, arm without variant is v7, arm64/v8 is arm64."""
        arch, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
        variant = variant or implied
        if arch == "arm":
            variant = {"": "v7", "7": "v7", "6": "v6", "5": "v5", "8": "v8"}.get(variant, variant)
        if (arch == "arm64" and variant in ("v8", "8")) or (arch == "amd64" and variant == "v1"):
            variant = ""
        return cls(os, arch, variant, os_version)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Platform:
        """From a descriptor's `platform` or the same fields of an image config."""
        return cls.normal(str(value.get("os", "")), str(value.get("architecture", "")), str(value.get("variant", "")),
                          str(value.get("os.version", "")))

    def to_json(self) -> dict[str, str]:
        """The fields as a descriptor's `platform` has them."""
        out = {"architecture": self.architecture, "os": self.os}
        if self.variant:
            out["variant"] = self.variant
        if self.os_version:
            out["os.version"] = self.os_version
        return out

    def runs(self) -> tuple[Platform, ...]:
        """The platforms whose images this one can run, best first: arm/v7 also runs v6 and v5, amd64/v3 runs v2 and plain."""
        variants = [self.variant]
        if self.architecture == "arm" and self.variant in ("v8", "v7", "v6"):
            variants = [f"v{n}" for n in range(int(self.variant[1]), 4, -1)]
        elif self.architecture == "amd64" and self.variant in ("v2", "v3", "v4"):
            variants = [f"v{n}" for n in range(int(self.variant[1]), 1, -1)] + [""]
        elif self.variant:
            variants = [self.variant, ""]
        return tuple(Platform(self.os, self.architecture, v) for v in variants)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))
