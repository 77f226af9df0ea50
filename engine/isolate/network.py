"""A network namespace in which there is nothing but the loopback device."""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import suppress

from engine.isolate import syscalls

_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41


def leave_network() -> None:
    """Moves the caller into a new network namespace; raises `OSError` without the privilege for it. Its one device is down at
    first; programs expect it up."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control, suppress(OSError):
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", _IFF_UP_RUNNING, b""))
