"""Image configs (OCI image spec, config.md; with the fields docker adds: Healthcheck, OnBuild, Shell).

An `ImageConfig` is what is read from a base and written for a new image. Fields the engine does not know are kept in
`extra`, so that a base's `os.features` or a vendor's field survives a build.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from engine import codec
from engine.errors import ContentError
from engine.image.digest import Digest
from engine.image.platform import Platform


class Healthcheck(Struct, frozen=True):
    """How a runtime asks whether a container works. Times are nanoseconds, 0 for the default."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0

    _FIELDS = (("Interval", "interval"), ("Timeout", "timeout"), ("StartPeriod", "start_period"),
               ("StartInterval", "start_interval"), ("Retries", "retries"))  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Healthcheck:
        """From a config's `Healthcheck`."""
        return cls(tuple(value.get("Test") or ()), **{name: int(value.get(key) or 0) for key, name in cls._FIELDS})

    def to_json(self) -> dict[str, Any]:
        """The object as docker writes it, without zeros."""
        out: dict[str, Any] = {"Test": list(self.test)} if self.test else {}
        return out | {key: value for key, name in self._FIELDS if (value := getattr(self, name))}


class RuntimeConfig(Struct, frozen=True):
    """How a container of the image is run. `None` for `cmd`, `entrypoint` and `shell` means: not set."""

    env: tuple[tuple[str, str], ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    user: str = ""
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] = ()
    args_escaped: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    _KNOWN = frozenset({"Env", "Entrypoint", "Cmd", "User", "WorkingDir", "Labels", "ExposedPorts", "Volumes", "StopSignal",
                        "Healthcheck", "Shell", "OnBuild", "ArgsEscaped"})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RuntimeConfig:
        """From a config's `config` object; a variable without `=` has the empty value."""
        env = tuple((k, v) for k, _, v in (str(e).partition("=") for e in value.get("Env") or ()))
        health = value.get("Healthcheck")
        return cls(
            env=env, entrypoint=_words(value.get("Entrypoint")), cmd=_words(value.get("Cmd")),
            user=str(value.get("User") or ""), working_dir=str(value.get("WorkingDir") or ""),
            labels={str(k): str(v) for k, v in (value.get("Labels") or {}).items()},
            exposed_ports=tuple(value.get("ExposedPorts") or ()), volumes=tuple(value.get("Volumes") or ()),
            stop_signal=str(value.get("StopSignal") or ""), healthcheck=Healthcheck.from_json(health) if health else None,
            shell=_words(value.get("Shell")), on_build=tuple(value.get("OnBuild") or ()),
            args_escaped=bool(value.get("ArgsEscaped")), extra={k: v for k, v in value.items() if k not in cls._KNOWN},
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The `config` object, without what is empty."""
        out: dict[str, Any] = {
            "User": self.user, "ExposedPorts": {p: {} for p in sorted(self.exposed_ports)},
            "Env": [f"{k}={v}" for k, v in self.env], "Entrypoint": list(self.entrypoint or ()), "Cmd": list(self.cmd or ()),
            "Healthcheck": self.healthcheck.to_json() if self.healthcheck else None,
            "Volumes": {v: {} for v in sorted(self.volumes)}, "WorkingDir": self.working_dir,
            "Labels": dict(sorted(self.labels.items())), "StopSignal": self.stop_signal, "Shell": list(self.shell or ()),
            "OnBuild": list(self.on_build), "ArgsEscaped": self.args_escaped,
        }  # fmt: skip
        return {k: v for k, v in out.items() if v} | dict(self.extra)


class History(Struct, frozen=True):
    """What one instruction did. `created` is RFC 3339, or empty."""

    created_by: str
    created: str = ""
    comment: str = ""
    author: str = ""
    empty_layer: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> History:
        """From one element of a config's `history`."""
        return cls(str(value.get("created_by") or ""), str(value.get("created") or ""), str(value.get("comment") or ""),
                   str(value.get("author") or ""), bool(value.get("empty_layer")))

    def to_json(self) -> dict[str, Any]:
        """The object, without what is empty."""
        out = {"created": self.created, "created_by": self.created_by, "comment": self.comment, "author": self.author,
               "empty_layer": self.empty_layer}  # fmt: skip
        return {k: v for k, v in out.items() if v}


class ImageConfig(Struct, frozen=True):
    """Everything a config blob says."""

    platform: Platform
    config: RuntimeConfig = field(default_factory=RuntimeConfig)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    created: str = ""
    author: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    _KNOWN = frozenset({"architecture", "os", "variant", "os.version", "config", "rootfs", "history", "created", "author"})

    @classmethod
    def parse(cls, raw: bytes) -> ImageConfig:
        """Raises `ContentError` when the bytes are not an image config."""
        try:
            value = codec.decode(raw)
            rootfs = value.get("rootfs") or {}
            return cls(
                platform=Platform.from_json(value), config=RuntimeConfig.from_json(value.get("config") or {}),
                diff_ids=tuple(Digest.parse(d) for d in rootfs.get("diff_ids") or ()),
                history=tuple(History.from_json(h) for h in value.get("history") or ()),
                created=str(value.get("created") or ""), author=str(value.get("author") or ""),
                extra={k: v for k, v in value.items() if k not in cls._KNOWN},
            )  # fmt: skip
        except (ValueError, TypeError, AttributeError) as error:
            raise ContentError(f"invalid image config: {error}") from error

    def encode(self) -> bytes:
        """The config blob; its bytes depend on the value only."""
        value: dict[str, Any] = {"architecture": self.platform.architecture, "os": self.platform.os}
        if self.platform.variant:
            value["variant"] = self.platform.variant
        if self.platform.os_version:
            value["os.version"] = self.platform.os_version
        value |= {k: v for k, v in (("created", self.created), ("author", self.author)) if v}
        value |= {"config": self.config.to_json(), "rootfs": {"type": "layers", "diff_ids": [str(d) for d in self.diff_ids]},
                  "history": [h.to_json() for h in self.history]}  # fmt: skip
        return codec.encode(value | {k: v for k, v in self.extra.items() if k not in ("container", "container_config")})

    def without_creation_time(self) -> ImageConfig:
        """The same config with no creation time: what a cache key may depend on."""
        return replace(self, created="")


def _words(value: Any) -> tuple[str, ...] | None:
    if not value:
        return None
    return (value,) if isinstance(value, str) else tuple(str(x) for x in value)
