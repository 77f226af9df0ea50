"""The flags about caches, as docker buildx reads them where it has them: text in, the request's values out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from engine.cli.flags import fields
from engine.cli.parser import did_you_mean
from engine.errors import UsageError
from engine.image.reference import Reference, cache_layout
from engine.request import CacheLocation

_KINDS = ("registry", "local", "inline")
_ELSEWHERE = dict.fromkeys(("gha", "s3", "azblob"), "write type=registry,ref=REF, or type=local,dest=DIR and keep the directory")
_KEYS = {
    ("registry", "--cache-from"): ("ref",), ("registry", "--cache-to"): ("ref", "mode"),
    ("local", "--cache-from"): ("src", "tag"), ("local", "--cache-to"): ("dest", "mode", "tag"),
    ("inline", "--cache-to"): ("mode",),
}  # fmt: skip
_FORMS = {
    ("registry", "--cache-from"): "type=registry,ref=REF", ("registry", "--cache-to"): "type=registry,ref=REF[,mode=min|max]",
    ("local", "--cache-from"): "type=local,src=DIR", ("local", "--cache-to"): "type=local,dest=DIR[,mode=min|max]",
}  # fmt: skip
_IGNORED = ("image-manifest", "oci-mediatypes", "ignore-error")
"""What buildx can be told of its caches, and is always so here."""
_SCOPE = re.compile(r"[^\s,\x00-\x1f]{1,200}")


class CacheFlags(Struct, frozen=True):
    """What the flags ask for: see `BuildRequest`."""

    sources: tuple[CacheLocation, ...]
    target: CacheLocation | None
    scopes: tuple[str, ...]
    inline: bool = False


def caches(cache_from: Sequence[str], cache_to: Sequence[str], repository: str | None, scopes: Sequence[str]) -> CacheFlags:
    """`type=registry,ref=REF[,mode=min|max]` or just REF, `type=local,src=DIR`, `type=inline`; `repository` is read and written
    with mode=max."""
    sources = [_location(value, "--cache-from") for value in cache_from]
    written = [_location(value, "--cache-to") for value in cache_to]
    targets = [target for target in written if target is not None]
    if repository:
        both = CacheLocation(Reference.parse(repository), "max")
        sources.append(both)
        targets.append(both)
    if len({target.repository for target in targets}) > 1:
        raise UsageError("only one cache can be written, beside that in the image",
                         hint="name one with --cache-to, and others with --cache-from")  # fmt: skip
    names = [name for value in scopes for name in value.split(",") if name]
    for name in names:
        if not _SCOPE.fullmatch(name):
            raise UsageError(f"invalid cache scope {name!r}")
    if names and not sources and not targets:
        raise UsageError("--cache-scope needs a cache", hint="--cache-repo REF, --cache-from or --cache-to")
    found = tuple(dict.fromkeys(source for source in sources if source is not None))
    return CacheFlags(found, targets[-1] if targets else None, tuple(dict.fromkeys(names)), len(targets) < len(written))


def _location(value: str, flag: str) -> CacheLocation | None:
    """The cache that a flag's value names; None for the one in the image."""
    reads = flag == "--cache-from"
    if "=" not in value.partition(",")[0]:
        return CacheLocation(Reference.parse(value), image=reads)
    known = fields(value, flag, ("type", *dict.fromkeys(key for keys in _KEYS.values() for key in keys), *_IGNORED))
    kind = known.get("type", "registry")
    _check(kind, flag, known, value)
    mode = known.get("mode", "min")
    if mode not in ("min", "max"):
        raise UsageError(f"unsupported cache mode {mode!r}", hint="min or max")
    for name in _IGNORED:
        if known.get(name, "true") != "true":
            raise UsageError(f"{name} of a cache can only be true")
    if kind == "inline":
        if mode == "max":
            raise UsageError("a cache in the image can only have mode=min: it has no layers but the image's",
                             hint="write all steps to type=registry,ref=REPOSITORY,mode=max")  # fmt: skip
        return None
    if kind == "local":
        directory = os.path.abspath(known["src" if reads else "dest"])
        return CacheLocation(cache_layout(directory, known.get("tag") or None), "max" if mode == "max" else "min")
    return CacheLocation(Reference.parse(known["ref"]), "max" if mode == "max" else "min", image=reads)


def _check(kind: str, flag: str, known: Mapping[str, str], value: str) -> None:
    """Raises `UsageError` for kinds there are not, and keys that a kind has not, or lacks."""
    if kind in _ELSEWHERE:
        raise UsageError(f"caches of type {kind} are not supported", hint=_ELSEWHERE[kind])
    if kind not in _KINDS:
        raise UsageError(f"unsupported cache type {kind!r}", hint=did_you_mean(kind, _KINDS) or "registry, local or inline")
    keys = _KEYS.get((kind, flag))
    if keys is None:
        raise UsageError(f"{flag} cannot be of type {kind}", hint="an image's cache is read with --cache-from IMAGE")
    unexpected = known.keys() - {"type", *keys, *(_IGNORED if flag == "--cache-to" else ())}
    if unexpected:
        raise UsageError(f"unexpected key {sorted(unexpected)[0]!r} in {flag} {value!r}",
                         hint=f"{flag} {_FORMS.get((kind, flag), 'type=inline')}")  # fmt: skip
    if kind != "inline" and not known.get(keys[0]):
        raise UsageError(f"a cache of type {kind} is named by {keys[0]} in {flag} {value!r}",
                         hint=f"{flag} {_FORMS[kind, flag]}")  # fmt: skip
