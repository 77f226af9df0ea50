"""Where things are on this machine: the state directory and docker's credentials. The environment is an argument."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from engine import codec
from engine.errors import UsageError

_PROXIES = {"httpProxy": "HTTP_PROXY", "httpsProxy": "HTTPS_PROXY", "ftpProxy": "FTP_PROXY", "noProxy": "NO_PROXY",
            "allProxy": "ALL_PROXY"}  # fmt: skip


def state_dir(given: str | None, environ: Mapping[str, str]) -> Path:
    """`--state-dir`, else ANIKO_STATE_DIR, else `aniko` in the XDG state directory (default ~/.local/state); absolute."""
    text = given or environ.get("ANIKO_STATE_DIR") or ""
    if text:
        return Path(os.path.abspath(text))
    xdg = environ.get("XDG_STATE_HOME", "")
    # The XDG base directory specification: a path that is not absolute is to be ignored.
    return (Path(xdg) if os.path.isabs(xdg) else _home(environ) / ".local/state") / "aniko"


def is_new(directory: Path) -> bool:
    """Whether nothing is in a state directory yet, or nothing that can be seen."""
    try:
        return not any(directory.iterdir())
    except OSError:
        return True


def docker_config(environ: Mapping[str, str]) -> dict[str, object]:
    """Docker's config.json (in DOCKER_CONFIG, else ~/.docker), empty if there is none. The `auths` of DOCKER_AUTH_CONFIG come
    before those of the file. Raises `UsageError` when one of them cannot be read."""
    path = Path(environ.get("DOCKER_CONFIG") or _home(environ) / ".docker") / "config.json"
    try:
        config = _object(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        config = {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="set DOCKER_CONFIG to another directory") from error
    text = environ.get("DOCKER_AUTH_CONFIG")
    if text:
        config = _merged(config, _object(text.encode(errors="replace"), "DOCKER_AUTH_CONFIG"))
    return config


def proxies(config: Mapping[str, object]) -> dict[str, str]:
    """The build arguments that docker's configuration asks for: HTTP_PROXY and the like, in both spellings."""
    section = config.get("proxies")
    default = section.get("default") if isinstance(section, dict) else None
    if not isinstance(default, dict):
        return {}
    out: dict[str, str] = {}
    for key, name in _PROXIES.items():
        if value := default.get(key):
            out |= {name: str(value), name.lower(): str(value)}
    return out


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or os.path.expanduser("~"))


def _object(data: bytes, name: str) -> dict[str, object]:
    try:
        value = codec.decode(data) if data.strip() else {}
    except ValueError as error:
        raise UsageError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("auths") or {}, dict):
        raise UsageError(f"{name} is not a docker configuration")
    return value


def _merged(config: dict[str, object], first: dict[str, object]) -> dict[str, object]:
    auths, helpers = config.get("auths") or {}, config.get("credHelpers") or {}
    own = first.get("auths") or {}
    assert isinstance(auths, dict) and isinstance(own, dict)
    merged = config | {"auths": auths | own}
    if isinstance(helpers, dict):
        merged["credHelpers"] = {host: helper for host, helper in helpers.items() if host not in own}
    return merged
