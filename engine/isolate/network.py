"""No network for a command: a network namespace with nothing but loopback, or, where none can be made, a seccomp filter.

The filter leaves a process only Unix and netlink sockets, so loopback is gone too, and set-user-ID programs gain nothing
(`no_new_privs` is the price of a filter without CAP_SYS_ADMIN). Sources: seccomp(2), network_namespaces(7), netdevice(7).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from contextlib import suppress
from errno import EAFNOSUPPORT, ENOSYS, EPERM

from engine.isolate import syscalls

_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41

_SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198), "riscv64": (0xC00000F3, 198)}
"""Audit architecture and number of socket(2)."""
_IO_URING_SETUP = 425  # the same everywhere; a ring could open sockets that no filter sees
_X32 = 0x40000000
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_MODE_FILTER = 2


def leave_network() -> None:
    """Moves the caller into a new network namespace; raises `OSError` without the privilege for it. Its one device is down at
    first; programs expect it up."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control, suppress(OSError):
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", _IFF_UP_RUNNING, b""))


def forbid_network() -> None:
    """Forbids the caller, and what it becomes or starts, all sockets but Unix and netlink ones; raises `OSError` where that is
    not possible."""
    known = _SOCKET.get(os.uname().machine)
    if known is None:
        raise OSError(ENOSYS, "no filter for this processor")
    program = _program(*known)
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    holder = ctypes.create_string_buffer(described, len(described))
    syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(holder))


def _program(architecture: int, number: int) -> bytes:
    """The filter, in the classic BPF of seccomp(2): (code, jump if true, jump if false, value)."""
    load, equal, at_least, done = 0x20, 0x15, 0x35, 0x06
    instructions = (
        (load, 0, 0, 4),  # the architecture
        (equal, 0, 8, architecture),  # another one has other numbers
        (load, 0, 0, 0),  # the call
        (at_least, 6, 0, _X32),
        (equal, 6, 0, _IO_URING_SETUP),
        (equal, 0, 3, number),
        (load, 0, 0, 16),  # its first argument
        (equal, 1, 0, socket.AF_UNIX),
        (equal, 0, 3, socket.AF_NETLINK),
        (done, 0, 0, _ALLOW),
        (done, 0, 0, _ERRNO | EPERM),
        (done, 0, 0, _ERRNO | ENOSYS),
        (done, 0, 0, _ERRNO | EAFNOSUPPORT),
    )  # fmt: skip
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
