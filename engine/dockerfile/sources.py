"""What the sources of COPY and ADD may be (rules 92 and 93), once their variables are expanded."""

from __future__ import annotations

import re

from engine.dockerfile.gotext import quote
from engine.dockerfile.instructions import Copy
from engine.errors import DockerfileError

_SCP = re.compile(r"[A-Za-z0-9_-]+@[A-Za-z0-9.-]+:")
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_CHECKSUM = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+")


def is_git_source(source: str) -> bool:
    """Whether a source is a git repository: `git://`, `ssh://`, `user@host:path`, or http(s) with a path in `.git`."""
    if source.lower().startswith(("git://", "ssh://")) or _SCP.match(source):
        return True
    return bool(_HTTP.match(source)) and re.split("[?#]", source, maxsplit=1)[0].endswith(".git")


def is_http_source(source: str) -> bool:
    """Whether a source is a file to be downloaded."""
    return source.startswith(("http://", "https://")) and not is_git_source(source)


def check_sources(copy: Copy) -> None:
    """Raises `DockerfileError` for a COPY from the network, or a checksum where there is nothing to check with it."""
    if copy.checksum:
        _check_checksum(copy)
    if copy.add:
        return
    for source in copy.sources:
        if is_git_source(source):
            raise DockerfileError("source can't be a git ref for COPY")
        if is_http_source(source):
            raise DockerfileError("source can't be a URL for COPY")


def _check_checksum(copy: Copy) -> None:
    if len(copy.sources) != 1:
        raise DockerfileError("checksum can't be specified for multiple sources")
    if is_git_source(copy.sources[0]):
        return
    if not is_http_source(copy.sources[0]):
        raise DockerfileError("checksum requires HTTP(S) or Git sources")
    if not _CHECKSUM.fullmatch(copy.checksum):
        raise DockerfileError(f"invalid checksum digest format: {quote(copy.checksum)}")
    algorithm, _, value = copy.checksum.partition(":")
    if algorithm != "sha256":
        raise DockerfileError(f"unsupported digest algorithm: {quote(algorithm)}", hint="use sha256:<64 hexadecimal digits>")
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise DockerfileError(f"invalid checksum digest length: {quote(copy.checksum)}")
