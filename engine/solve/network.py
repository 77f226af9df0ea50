"""What a RUN sees at /etc/hosts and /etc/resolv.conf: as BuildKit's sandbox has them."""

from __future__ import annotations

from pathlib import Path

HOSTS = "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def network_files(resolv_conf: Path = Path("/etc/resolv.conf")) -> tuple[str, str]:
    """The contents of both files. The host's resolver is used as it is: a RUN shares the host's network, its loopback
    included, so a stub resolver that listens there answers."""
    try:
        resolver = resolv_conf.read_text(errors="replace")
    except OSError:
        resolver = "nameserver 1.1.1.1\nnameserver 8.8.8.8\n"
    return HOSTS, resolver
