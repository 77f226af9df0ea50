"""The signals that STOPSIGNAL accepts: those of Linux by name, with or without SIG, and any number but 0."""

from __future__ import annotations

from engine.dockerfile.gotext import parse_int
from engine.errors import DockerfileError

_NAMES = frozenset((
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL", "PROF", "PWR",
    "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH",
    "XCPU", "XFSZ", "RTMIN", "RTMAX", *(f"RTMIN+{n}" for n in range(1, 16)), *(f"RTMAX-{n}" for n in range(1, 15)),
))  # fmt: skip


def check_signal(text: str) -> None:
    """Raises `DockerfileError` unless the text names a signal."""
    number = parse_int(text)
    if number == 0 or (number is None and text.upper().removeprefix("SIG") not in _NAMES):
        raise DockerfileError(f"invalid signal: {text}")
