"""No network for a command: a network namespace with nothing but loopback, or, where none can be made, a seccomp filter.

The filter leaves a process only Unix and netlink sockets, so loopback is gone too, and set-user-ID programs gain nothing
(`no_new_privs` is the price of a filter without CAP_SYS_ADMIN). Sources: seccomp(2), network_namespaces(7), netdevice(7).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress
from errno import EAFNOSUPPORT, ENOSYS

from engine.isolate import seccomp, syscalls
from engine.isolate.seccomp import at_least, end, equal, load, program

_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41

_SOCKET = {"x86_64": 41, "aarch64": 198, "riscv64": 198}
"""The number of socket(2)."""
_IO_URING_SETUP = 425  # the same everywhere; a ring could open sockets that no filter sees


def leave_network() -> None:
    """Moves the caller into a new network namespace; raises `OSError` without the privilege for it. Its one device is down at
    first; programs expect it up."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control, suppress(OSError):
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", _IFF_UP_RUNNING, b""))


def forbid_network() -> None:
    """Forbids the caller, and what it becomes or starts, all sockets but Unix and netlink ones; raises `OSError` where that is
    not possible."""
    machine = os.uname().machine
    if machine not in _SOCKET:
        raise OSError(ENOSYS, "no filter for this processor")
    seccomp.restrict(program(
        load(seccomp.ARCHITECTURE),
        equal(seccomp.AUDIT[machine], otherwise="unknown"),  # another one has other numbers
        load(seccomp.CALL),
        at_least(seccomp.X32, "unknown"),
        equal(_IO_URING_SETUP, "unknown"),
        equal(_SOCKET[machine], otherwise="allowed"),
        load(seccomp.argument(0)),
        equal(socket.AF_UNIX, "allowed"),
        equal(socket.AF_NETLINK, "allowed"),
        end(seccomp.ERROR | EAFNOSUPPORT),
        "allowed", end(seccomp.ALLOW),
        "unknown", end(seccomp.ERROR | ENOSYS),
    ))  # fmt: skip
