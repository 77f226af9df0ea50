"""The port specifications of EXPOSE (rule 103): `[ip:][host:]port[-end][/tcp|udp|sctp]`, of which only the port counts."""

from __future__ import annotations

from collections.abc import Iterable

from engine.dockerfile.gotext import parse_int, quote
from engine.errors import DockerfileError

_PROTOCOLS = ("tcp", "udp", "sctp")


def parse_ports(words: Iterable[str]) -> list[str]:
    """The ports of expanded words as `8000/tcp`, ranges spelled out, in the order given; raises `DockerfileError`."""
    return [port for word in words for port in _ports(word)]


def split_port(word: str) -> tuple[str, str, str, str]:
    """IP address, host port, container port and protocol as written, each perhaps empty."""
    *host, container = word.split(":")
    port, _, protocol = container.partition("/")
    return ":".join(host[:-1]), host[-1] if host else "", port, protocol


def _ports(word: str) -> list[str]:
    address, host, port, protocol = split_port(word)
    if not port:
        raise DockerfileError(f"invalid port: {quote(word)}: no port specified")
    if protocol and protocol.lower() not in _PROTOCOLS:
        raise DockerfileError(f"invalid port: {quote(word)}: invalid proto: {protocol}")
    _check_address(address)
    ends = _range(port)
    if ends is None:
        raise DockerfileError(f"invalid containerPort: {port}")
    if host:
        host_ends = _range(host)
        if host_ends is None:
            raise DockerfileError(f"invalid hostPort: {host}")
        if ends[0] != ends[1] and ends[1] - ends[0] != host_ends[1] - host_ends[0]:
            raise DockerfileError(f"invalid ranges specified for container and host Ports: {port} and {host}")
    return [f"{number}/{protocol.lower() or 'tcp'}" for number in range(ends[0], ends[1] + 1)]


def _check_address(address: str) -> None:
    if not address:
        return
    import ipaddress  # rarely needed, and not cheap to import

    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise DockerfileError(f"invalid IP address: {address}") from None
    if "%" in bare:
        raise DockerfileError(f"invalid IP address: {address}")


def _range(text: str) -> tuple[int, int] | None:
    first, dash, last = text.partition("-")
    start = _number(first)
    end = _number(last) if dash else start
    return (start, end) if start is not None and end is not None and start <= end else None


def _number(text: str) -> int | None:
    value = parse_int(text)
    return value if value is not None and 0 <= value <= 65535 else None
