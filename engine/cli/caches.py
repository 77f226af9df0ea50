"""The flags about caches, as docker buildx reads them where it has them: text in, the request's values out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.cli.flags import fields
from engine.cli.parser import did_you_mean
from engine.errors import UsageError
from engine.image.reference import Reference
from engine.request import CacheLocation

_KINDS = {"registry": ""} | {
    "inline": "write --cache-to type=registry,ref=REPOSITORY: the layers are mounted from there, not uploaded twice",
    "local": "the state directory is a local cache: keep it (--state-dir), or write type=registry and serve a directory with "
             "aniko registry",
    "gha": "write type=registry,ref=REPOSITORY", "s3": "write type=registry,ref=REPOSITORY",
    "azblob": "write type=registry,ref=REPOSITORY",
}  # fmt: skip
_IGNORED = ("image-manifest", "oci-mediatypes")
"""What buildx can be told of the form of its caches, and is always so here."""
_SCOPE = re.compile(r"[^\s,\x00-\x1f]{1,200}")


@dataclass(frozen=True, slots=True)
class CacheFlags:
    """What the flags ask for: see `BuildRequest`."""

    sources: tuple[CacheLocation, ...]
    target: CacheLocation | None
    scopes: tuple[str, ...]


def caches(cache_from: Sequence[str], cache_to: Sequence[str], repository: str | None, scopes: Sequence[str]) -> CacheFlags:
    """`type=registry,ref=REF[,mode=min|max]`, or just REF; `repository` is read and written with mode=max."""
    sources = [_location(value, "--cache-from") for value in cache_from]
    targets = [_location(value, "--cache-to") for value in cache_to]
    if repository:
        both = CacheLocation(Reference.parse(repository), "max")
        sources.append(both)
        targets.append(both)
    if len({target.repository for target in targets}) > 1:
        raise UsageError("only one cache can be written", hint="name one with --cache-to, and others with --cache-from")
    names = [name for value in scopes for name in value.split(",") if name]
    for name in names:
        if not _SCOPE.fullmatch(name):
            raise UsageError(f"invalid cache scope {name!r}")
    if names and not sources and not targets:
        raise UsageError("--cache-scope needs a cache", hint="--cache-repo REF, --cache-from or --cache-to")
    return CacheFlags(tuple(dict.fromkeys(sources)), targets[-1] if targets else None, tuple(dict.fromkeys(names)))


def _location(value: str, flag: str) -> CacheLocation:
    if "=" not in value.partition(",")[0]:
        return CacheLocation(Reference.parse(value))
    keys = ("type", "ref", "mode", "src", "dest", *_IGNORED) if flag == "--cache-to" else ("type", "ref", "src", "dest")
    known = fields(value, flag, keys)
    kind = known.get("type", "registry")
    if kind not in _KINDS:
        raise UsageError(f"unsupported cache type {kind!r}", hint=did_you_mean(kind, ["registry"]) or "the type is registry")
    if _KINDS[kind]:
        raise UsageError(f"caches of type {kind} are not supported", hint=_KINDS[kind])
    if not known.get("ref") or known.get("src") or known.get("dest"):
        raise UsageError(f"a cache of type registry is named by ref in {flag} {value!r}", hint=f"{flag} type=registry,ref=REF")
    mode = known.get("mode", "min")
    if mode not in ("min", "max"):
        raise UsageError(f"unsupported cache mode {mode!r}", hint="min or max")
    for name in _IGNORED:
        if known.get(name, "true") != "true":
            raise UsageError(f"{name} of a cache can only be true")
    return CacheLocation(Reference.parse(known["ref"]), "max" if mode == "max" else "min")
