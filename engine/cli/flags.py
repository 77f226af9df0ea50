"""Values of flags, as docker buildx reads them: text in, the request's values out. The environment is an argument."""

from __future__ import annotations

import csv
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

from engine.cli.parser import did_you_mean
from engine.errors import SecretError, UsageError
from engine.image.platform import Platform
from engine.request import OutputRequest, SecretSource, SshSource

MAX_SECRET_SIZE = 500 * 1024
"""Bytes; BuildKit's limit."""
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_OUTPUT_KINDS = ("registry", "oci", "docker", "tar", "local", "image")
_IMAGE_KEYS = ("compression", "compression-level", "force-compression", "oci-mediatypes", "rewrite-timestamp")
_FILE_KEYS = ("rewrite-timestamp",)
"""What of these also concerns the files alone."""
_PUSH_KEYS = ("push-by-digest", "name-canonical")
_STORE_KEYS = {
    "unpack": "there is no image store to unpack into", "store": "there is no image store: push the image, or write it to a file",
    "dangling-name-prefix": "there is no image store: name the image with name= or -t",
    "registry.insecure": "use --insecure-registry HOST", "oci-artifact": "no attestations are made",
}  # fmt: skip
"""What buildx can say of images, and has no meaning here: true is an error."""
_ANNOTATION_TYPE = re.compile(r"([a-z,-]+)(\[[A-Za-z0-9_/,-]+\])?:(.*)", re.DOTALL)


class OutputFlags(Struct, frozen=True):
    """What the outputs of a command line say: places, and what concerns the image itself."""

    outputs: tuple[OutputRequest, ...] = ()
    names: tuple[str, ...] = ()
    image: Mapping[str, str] = field(default_factory=dict)
    """The keys of `_IMAGE_KEYS`, and `annotation.KEY`."""
    by_digest: bool = False
    """Whether the names are pushed to without a tag."""


def pairs(values: Sequence[str], flag: str) -> dict[str, str]:
    """`KEY=VALUE`, repeated; the last of equal keys counts, and a key alone has the empty value."""
    out = {}
    for value in values:
        key, _, text = value.partition("=")
        if not key:
            raise UsageError(f"invalid {flag} {value!r}: the key is missing", hint=f"{flag} KEY=VALUE")
        out[key] = text
    return out


def build_args(values: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """As `pairs`, but a key alone takes its value from the environment, and is left out when it has none there."""
    with_values = [v if "=" in v else f"{v}={environ[v]}" for v in values if "=" in v or v in environ]
    return pairs(with_values, "--build-arg")


def manifest_annotations(values: Sequence[str]) -> dict[str, str]:
    """`[manifest:]KEY=VALUE`: annotations of the image manifest; other objects cannot have any yet."""
    out: dict[str, str] = {}
    for value in values:
        match = _ANNOTATION_TYPE.fullmatch(value.partition("=")[0])
        if match and (match[1] != "manifest" or match[2]):
            raise UsageError(f"unsupported annotation type {match[1]}{match[2] or ''!s} in {value!r}",
                             hint="annotations of the image manifest have no prefix, or `manifest:`")
        text = value.removeprefix("manifest:")
        if "=" not in text:
            raise UsageError(f"invalid --annotation {value!r}: there is no value", hint="--annotation KEY=VALUE")
        out |= pairs([text], "--annotation")
    return out


def platforms(values: Sequence[str], local: Platform) -> tuple[Platform, ...]:
    """A list with commas, repeated; `local` is this machine. Equal ones count once."""
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    found = [local if name == "local" else Platform.parse(name, local) for name in names]
    return tuple(dict.fromkeys(found))


def local_platform() -> Platform:
    """This machine's."""
    return Platform.normal("linux", os.uname().machine, "")


def secret(value: str, environ: Mapping[str, str]) -> SecretSource:
    """`id=ID[,src=PATH|env=NAME][,type=file|env]`; an ID alone is the variable of that name, else the file of that name."""
    known = fields(value, "--secret", ("id", "src", "source", "env", "type"))
    name, path, variable = known.get("id", ""), known.get("src") or known.get("source", ""), known.get("env", "")
    kind = known.get("type", "")
    if kind not in ("", "file", "env"):
        raise UsageError(f"unsupported secret type {kind!r}", hint="the types are file and env")
    if not name:
        raise UsageError(f"secret {value!r} has no id", hint="--secret id=ID,src=PATH")
    if kind == "env" and not variable:
        variable, path = path or name, ""
    elif not variable and not path:
        variable, path = (name, "") if name in environ and kind != "file" else ("", name)
    if path:
        return SecretSource(name, file=_secret_file(path))
    if variable not in environ:
        raise SecretError(f"secret {name}: environment variable {variable} is not set")
    return SecretSource(name, value=environ[variable].encode(errors="surrogateescape"))


def _secret_file(path: str) -> Path:
    try:
        status = os.stat(path)
    except OSError as error:
        raise SecretError(f"cannot read secret file {path}: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise SecretError(f"cannot read secret file {path}: it is a directory")
    if status.st_size > MAX_SECRET_SIZE:
        raise SecretError(f"secret file {path} has {status.st_size} bytes, the limit is {MAX_SECRET_SIZE}")
    return Path(os.path.abspath(path))


def ssh(value: str, environ: Mapping[str, str]) -> SshSource:
    """`default`, or `ID[=PATH[,PATH]]`: the agent of SSH_AUTH_SOCK, another agent's socket, or private keys."""
    name, _, rest = value.partition("=")
    paths = [path for path in rest.split(",") if path] or [environ.get("SSH_AUTH_SOCK", "")]
    if not name:
        raise UsageError(f"invalid --ssh {value!r}: the id is missing", hint="--ssh default, or --ssh ID=PATH")
    if not paths[0]:
        raise UsageError(f"no SSH agent for {name}: SSH_AUTH_SOCK is not set", hint="start an agent, or name a key: "
                         f"--ssh {name}=PATH")
    sockets = [path for path in paths if _is_socket(path)]
    if sockets and len(paths) > 1:
        raise UsageError(f"invalid --ssh {value!r}: an agent's socket cannot be combined with other paths")
    files = tuple(Path(os.path.abspath(path)) for path in paths)
    return SshSource(name, socket=files[0]) if sockets else SshSource(name, keys=files)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as error:
        raise SecretError(f"cannot read {path} for --ssh: {error.strerror}") from error


def outputs(values: Sequence[str], *, push: bool) -> OutputFlags:
    """`type=KIND[,dest=PATH][,tar=false]…`, `DIR` (type=local) or `-` (a tar on standard output), repeated; `push` is one more
    with type=registry."""
    found: list[OutputRequest] = []
    names: list[str] = []
    image: dict[str, str] = {}
    by_digest = False
    for value in [*values, *(["type=registry"] if push else [])]:
        output, known = _output(value)
        if output and output not in found:
            found.append(output)
        names += [name for name in known.pop("name", "").split(",") if name]
        by_digest |= known.pop("push-by-digest", "") == "true"
        for key, text in known.items():
            if image.setdefault(key, text) != text:
                raise UsageError(f"outputs of one build cannot differ in {key}: {image[key]} and {text}")
    if names and len(values) > 1:
        raise UsageError("name= needs a build with one output", hint="name the image with -t")
    if sum(o.destination is None and o.kind != "registry" for o in found) > 1:
        raise UsageError("only one output can go to standard output", hint="give the others a dest=PATH")
    return OutputFlags(tuple(found), tuple(names), image, by_digest)


def _output(value: str) -> tuple[OutputRequest | None, dict[str, str]]:
    if _csv(value, "--output") == [value] and not value.startswith("type="):
        known = {"type": "tar"} if value == "-" else {"type": "local", "dest": value}
    else:
        keys = ("type", "dest", "tar", "push", "name", *_IMAGE_KEYS, *_PUSH_KEYS, *_STORE_KEYS)
        known = fields(value, "--output", keys, prefix="annotation.")
    kind, dest = known.pop("type", ""), known.pop("dest", "")
    archive, push = boolean(known.pop("tar", "true"), "tar"), boolean(known.pop("push", "false"), "push")
    if kind not in _OUTPUT_KINDS:
        hint = did_you_mean(kind, _OUTPUT_KINDS) or f"the types are {', '.join(_OUTPUT_KINDS)}"
        raise UsageError(f"unsupported output type {kind!r}" if kind else f"no type in --output {value!r}", hint=hint)
    known = _image_keys(known, kind, push=push or kind == "registry")
    if kind in ("image", "registry"):
        if dest:
            raise UsageError(f"output type {kind} takes no dest", hint="name the image with -t")
        return (OutputRequest("registry") if push or kind == "registry" else None), known
    if push:
        raise UsageError(f"output type {kind} cannot be pushed", hint="add --push")
    if not archive and kind in ("tar", "local"):
        raise UsageError(f"output type {kind} takes no tar=", hint="type=local writes a directory, type=tar an archive")
    to_stdout = dest in ("", "-")
    if to_stdout and (kind == "local" or not archive):
        raise UsageError(f"a destination is needed for {value!r}", hint=f"type={kind},dest=DIR")
    destination = None if to_stdout else Path(os.path.abspath(dest))
    return OutputRequest(kind, destination, archive), known  # type: ignore[arg-type]  # kind is checked above


def _image_keys(known: Mapping[str, str], kind: str, *, push: bool) -> dict[str, str]:
    """What an output says of the image, booleans as `true` or `false`; raises `UsageError` for what it cannot say."""
    out = dict(known)
    for key in {*_PUSH_KEYS, *_STORE_KEYS, "force-compression", "oci-mediatypes", "rewrite-timestamp"} & out.keys():
        if key != "dangling-name-prefix":
            out[key] = str(boolean(out[key], key)).lower()
    for key in out:
        if kind in ("tar", "local") and key not in _FILE_KEYS:
            raise UsageError(f"output type {kind} takes no {key}", hint="it has the files alone, and no image; type=oci has both")
        if key in _STORE_KEYS and out[key] != "false":
            raise UsageError(f"{key}= is not supported in --output", hint=_STORE_KEYS[key])
        if key == "push-by-digest" and not push and out[key] == "true":
            raise UsageError(f"{key}= needs an image that is pushed", hint="type=registry, or type=image,push=true")
    return {key: text for key, text in out.items() if key not in _STORE_KEYS and key != "name-canonical"}


def boolean(text: str, key: str) -> bool:
    """The value of a key that is true or false. Raises `UsageError`."""
    if text.lower() not in _BOOLEANS:
        raise UsageError(f"invalid value {text!r} for {key}: true or false is needed")
    return _BOOLEANS[text.lower()]


def _csv(value: str, flag: str) -> list[str]:
    try:
        rows = list(csv.reader([value], strict=True))
    except csv.Error as error:
        raise UsageError(f"invalid {flag} {value!r}: {error}") from error
    if len(rows) != 1 or not rows[0]:
        raise UsageError(f"invalid {flag} {value!r}")
    return rows[0]


def fields(value: str, flag: str, keys: tuple[str, ...], prefix: str = "\0") -> dict[str, str]:
    """`KEY=VALUE` with commas; a key that is not known is an error."""
    out = {}
    for part in _csv(value, flag):
        key, equals, text = part.partition("=")
        lower = key.strip().lower()
        if not equals:
            raise UsageError(f"invalid field {part!r} in {flag} {value!r}: KEY=VALUE is needed")
        if lower not in keys and not lower.startswith(prefix):
            hint = did_you_mean(lower, keys) or f"the keys are {', '.join(keys)}"
            raise UsageError(f"unexpected key {key!r} in {flag} {value!r}", hint=hint)
        out[key if lower.startswith(prefix) else lower] = text
    return out
