"""The value of `RUN --mount`: comma-separated fields → one frozen value for each type of mount.

A variable stands for (a part of) the value of one field and cannot bring in further fields, so fields are split before
variables are expanded: `parse_mount(expand_mount(text, expand))`. Relative targets stay relative: WORKDIR is not known here.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import Literal

from msgspec import Struct, field

from engine.dockerfile.gotext import parse_bool, parse_unsigned, quote
from engine.dockerfile.suggest import did_you_mean
from engine.errors import DockerfileError

Sharing = Literal["shared", "private", "locked"]

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING: dict[str, Sharing] = {"shared": "shared", "private": "private", "locked": "locked"}
_KEYS = ("type", "from", "source", "target", "readonly", "id", "sharing", "required", "size", "mode", "uid", "gid", "src",
         "dst", "destination", "ro", "rw", "readwrite", "env")  # fmt: skip
_SAME = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_OWNED = ("cache", "secret", "ssh")
_ONLY_FOR = {"required": ("secret", "ssh"), "size": ("tmpfs",), "env": ("secret",)}
_VARIABLE = re.compile(r"\$.")
_SIZE = re.compile(r"([0-9]*\.?[0-9]+|[0-9]+\.) ?(?:b|([kmgtp])(?:i?b)?)?", re.IGNORECASE)


class BindSpec(Struct, frozen=True):
    """A directory or file of the context, or of the stage or image `from_`; what is written with `readwrite` is dropped."""

    target: str
    source: str = ""
    from_: str = ""
    readwrite: bool = False


class CacheSpec(Struct, frozen=True):
    """A directory that outlives builds. It starts as `source` of `from_`, else empty with `mode`, `uid` and `gid`."""

    id: str
    target: str
    sharing: Sharing = "shared"
    from_: str = ""
    source: str = ""
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    readonly: bool = False


class TmpfsSpec(Struct, frozen=True):
    """An empty directory in memory of at most `size` bytes; 0 is no limit."""

    target: str
    size: int = 0


class SecretSpec(Struct, frozen=True):
    """A secret as a file at `target`, in the variable `env`, or both; an empty one of them is not made."""

    id: str
    target: str = ""
    required: bool = False
    mode: int = 0o400
    uid: int = 0
    gid: int = 0
    env: str = ""


class SshSpec(Struct, frozen=True):
    """An SSH agent's socket; an empty `target` is `/run/buildkit/ssh_agent.N`, N counting the RUN's sockets from 0."""

    id: str = "default"
    target: str = ""
    required: bool = False
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


MountSpec = BindSpec | CacheSpec | TmpfsSpec | SecretSpec | SshSpec


class _Fields(Struct):
    """The fields of one mount as they are read. The type matters to the fields behind it."""

    type: str = "bind"
    texts: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    readonly: bool | None = None
    required: bool = False

    def text(self, key: str) -> str:
        return self.texts.get(key, "")


def check_mount_text(text: str) -> None:
    """What can be said of a mount before its variables are known; raises `DockerfileError`."""
    for part in _split(text):
        key, equals, value = part.partition("=")
        if equals:
            _refuse_variable(key.lower(), value)


def expand_mount(text: str, expand: Callable[[str], str]) -> str:
    """A mount's text with the value of each field expanded; raises `DockerfileError` for a variable in `from`."""
    out: list[str] = []
    for part in _split(text):
        key, equals, value = part.partition("=")
        if equals:
            _refuse_variable(key.lower(), value)
            part = f"{key}={expand(value)}"
        out.append(part)
    return ",".join('"' + p.replace('"', '""') + '"' if "," in p or '"' in p else p for p in out)


def parse_mount(text: str) -> MountSpec:
    """Reads an expanded mount; raises `DockerfileError` for what BuildKit refuses, in its words."""
    fields = _Fields()
    for part in _split(text):
        key, equals, value = part.partition("=")
        if equals:
            _refuse_variable(key.lower(), value)
            _set(fields, key.lower(), value, part)
        else:
            _set_bare(fields, key.lower(), part)
    _check(fields)
    return _SPECS[fields.type](fields)


def _split(text: str) -> list[str]:
    """The fields of one line of CSV, by the rules of Go's reader."""
    if '"' not in text:
        if not text:
            raise DockerfileError("failed to parse csv mounts: EOF")
        return text.split(",")
    out: list[str] = []
    at = 0
    while True:
        if text.startswith('"', at):
            value, at = _quoted(text, at)
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            value, at = text[at:end], end
            if '"' in value:
                raise DockerfileError(f'failed to parse csv mounts: bare " in non-quoted field {quote(value)}')
        out.append(value)
        if at >= len(text):
            return out
        at += 1


def _quoted(text: str, at: int) -> tuple[str, int]:
    """A quoted field, in which a quote is doubled, and the index of the comma behind it."""
    out: list[str] = []
    at += 1
    while True:
        end = text.find('"', at)
        if end < 0:
            raise DockerfileError('failed to parse csv mounts: extraneous or missing " in quoted field')
        out.append(text[at:end])
        at = end + 1
        if not text.startswith('"', at):
            break
        out.append('"')
        at += 1
    if at < len(text) and text[at] != ",":
        raise DockerfileError('failed to parse csv mounts: extraneous or missing " in quoted field')
    return "".join(out), at


def _refuse_variable(key: str, value: str) -> None:
    if key == "from" and _VARIABLE.search(value):
        raise DockerfileError("'from' doesn't support variable expansion, define alias stage instead")


def _set_bare(fields: _Fields, key: str, part: str) -> None:
    if key in ("readonly", "ro"):
        fields.readonly = True
    elif key in ("readwrite", "rw"):
        fields.readonly = False
    elif key == "required":
        _check_place(fields, key)
        fields.required = True
    else:
        raise DockerfileError(f"invalid field '{part}' must be a key=value pair")


def _set(fields: _Fields, key: str, value: str, part: str) -> None:
    name = _SAME.get(key, key)
    _check_place(fields, name)
    if name == "type":
        if value.lower() not in _TYPES:
            raise DockerfileError(f"unsupported mount type {quote(value)}{did_you_mean(value, _TYPES)}")
        fields.type = value.lower()
    elif name in ("readonly", "readwrite", "required"):
        truth = parse_bool(value)
        if truth is None:
            raise DockerfileError(f"invalid value for {key}: {value}")
        if name == "required":
            fields.required = truth
        else:
            fields.readonly = truth if name == "readonly" else not truth
    elif name in ("mode", "uid", "gid"):
        number = parse_unsigned(value, 8 if name == "mode" else 10, 32)
        if number is None:
            raise DockerfileError(f"invalid value {value} for {name}")
        fields.numbers[name] = number
    elif name == "size":
        fields.numbers[name] = _size(value)
    elif name == "sharing":
        if value.lower() not in _SHARING:
            raise DockerfileError(f"unsupported sharing value {quote(value)}{did_you_mean(value, _SHARING)}")
        fields.texts[name] = value.lower()
    elif name in ("from", "source", "target", "id", "env"):
        fields.texts[name] = value
    else:
        raise DockerfileError(f"unexpected key '{key}' in '{part}'{did_you_mean(key, _KEYS)}")


def _check_place(fields: _Fields, name: str) -> None:
    if fields.type not in _ONLY_FOR.get(name, _TYPES):
        raise DockerfileError(f"unexpected key '{name}' for mount type '{fields.type}'")


def _size(text: str) -> int:
    """Bytes of a size such as `64m`, `1.5GiB` or `1024`; the units are powers of 1024."""
    match = _SIZE.fullmatch(text)
    if not match or len(text) > 30:
        raise DockerfileError(f"invalid value for size: {text}")
    exponent = " kmgtp".index(match[2].lower()) if match[2] else 0
    return int(float(match[1]) * 1024**exponent)


def _check(fields: _Fields) -> None:
    kind = fields.type
    if kind not in _OWNED:
        for name in ("mode", "uid", "gid"):
            if name in fields.numbers:
                raise DockerfileError(f"{name} not allowed for {quote(kind)} type mounts")
    if kind == "secret":
        if fields.text("from"):
            raise DockerfileError("secret mount should not have a from")
        if fields.text("sharing"):
            raise DockerfileError("secret mount should not define sharing")
        if not (fields.text("source") or fields.text("target") or fields.text("id")):
            raise DockerfileError("invalid secret mount. one of source, target required")
        if fields.text("source") and fields.text("id"):
            raise DockerfileError("both source and id can't be set")
    if fields.text("sharing") and kind != "cache":
        raise DockerfileError(f"invalid cache sharing set for {kind} mount")
    if kind == "ssh" and fields.text("source"):
        raise DockerfileError("ssh does not support source")
    target = fields.text("target")
    if target.startswith("/") and posixpath.normpath(target) in ("/", "//"):
        raise DockerfileError(f"invalid mount target {quote(target)}")


def _bind(fields: _Fields) -> MountSpec:
    return BindSpec(fields.text("target"), fields.text("source"), fields.text("from"), fields.readonly is False)


def _cache(fields: _Fields) -> MountSpec:
    target, numbers = fields.text("target"), fields.numbers
    return CacheSpec(
        fields.text("id") or posixpath.normpath(target), target, _SHARING.get(fields.text("sharing"), "shared"),
        fields.text("from"), fields.text("source"), numbers.get("mode", 0o755), numbers.get("uid", 0), numbers.get("gid", 0),
        fields.readonly is True,
    )  # fmt: skip


def _tmpfs(fields: _Fields) -> MountSpec:
    return TmpfsSpec(fields.text("target"), fields.numbers.get("size", 0))


def _secret(fields: _Fields) -> MountSpec:
    target, env, numbers = fields.text("target"), fields.text("env"), fields.numbers
    name = fields.text("source") or fields.text("id") or posixpath.basename(posixpath.normpath(target))
    if not target and not env:
        target = f"/run/secrets/{posixpath.basename(posixpath.normpath(name))}"
    return SecretSpec(name, target, fields.required, numbers.get("mode", 0o400), numbers.get("uid", 0), numbers.get("gid", 0),
                      env)  # fmt: skip


def _ssh(fields: _Fields) -> MountSpec:
    numbers = fields.numbers
    return SshSpec(fields.text("id") or "default", fields.text("target"), fields.required, numbers.get("mode", 0o600),
                   numbers.get("uid", 0), numbers.get("gid", 0))  # fmt: skip


_SPECS: dict[str, Callable[[_Fields], MountSpec]] = {
    "bind": _bind, "cache": _cache, "tmpfs": _tmpfs, "secret": _secret, "ssh": _ssh,
}  # fmt: skip
