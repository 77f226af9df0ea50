"""The flags about cache mounts that are carried to registries: text in, references out."""

from __future__ import annotations

from collections.abc import Sequence

from engine.cli.flags import fields
from engine.errors import UsageError
from engine.image.reference import Reference


def sources(values: Sequence[str]) -> tuple[Reference, ...]:
    """Where cache mounts are restored from, in the order of the flags."""
    return tuple(dict.fromkeys(_reference(value, "--cache-mounts-from") for value in values))


def target(values: Sequence[str]) -> Reference | None:
    """Where cache mounts are saved to: one place at most."""
    found = dict.fromkeys(_reference(value, "--cache-mounts-to") for value in values)
    if len(found) > 1:
        raise UsageError("cache mounts can only be saved to one repository", hint="name others with --cache-mounts-from")
    return next(iter(found), None)


def _reference(value: str, flag: str) -> Reference:
    """REF, or the same as buildx would write a cache: `type=registry,ref=REF`."""
    if "=" in value.partition(",")[0]:
        known = fields(value, flag, ("type", "ref"))
        if known.get("type", "registry") != "registry" or not known.get("ref"):
            raise UsageError(f"cache mounts are only carried to registries, not to {value!r}", hint=f"{flag} REPOSITORY[:TAG]")
        value = known["ref"]
    reference = Reference.parse(value)
    if reference.digest:
        raise UsageError(f"{flag} {value}: a repository is wanted, and not one manifest", hint=f"{flag} REPOSITORY[:TAG]")
    return reference
