"""The system calls that no step may make: those of which docker's default profile refuses, and no missing capability does.

They reach what namespaces do not divide (the kernel's keyrings), or have been ways into kernels, and builds have no use for
them. Programs can do without, since containers are where most of them run. Source: moby's default seccomp profile.
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import ENOSYS, EPERM

from engine.isolate import seccomp, syscalls
from engine.isolate.seccomp import at_least, end, equal, jump, load, program

_NATIVE = {
    "x86_64": (248, 249, 250, 298, 304, 321, 323),
    "aarch64": (217, 218, 219, 241, 265, 280, 282),
    "riscv64": (217, 218, 219, 241, 265, 280, 282),
}
"""add_key, request_key, keyctl, perf_event_open, open_by_handle_at, bpf, userfaultfd."""
_I386 = (286, 287, 288, 336, 342, 357, 374)
_IO_URING = (425, 426, 427)
"""The same on every architecture; a ring makes calls that no filter sees."""
_AUDIT_I386 = 0x40000003
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1


def apply() -> None:
    """Puts the caller, and what it starts or becomes, under the profile, with a session keyring of its own. Needs CAP_SYS_ADMIN in
    the caller's user namespace. Raises `OSError` where that is not possible."""
    machine = os.uname().machine
    if machine not in _NATIVE:
        raise OSError(ENOSYS, "no filter for this processor")
    with suppress(OSError):  # a container around us may refuse it as we do
        syscalls.syscall(_KEYCTL[machine], _KEYCTL_JOIN_SESSION_KEYRING, 0)
    seccomp.confine(_filter(machine))


def _filter(machine: str) -> bytes:
    own = [equal(number, "refused") for number in (*_NATIVE[machine], *_IO_URING)]
    foreign = [equal(number, "refused") for number in (*_I386, *_IO_URING)]
    return program(
        load(seccomp.ARCHITECTURE),
        equal(seccomp.AUDIT[machine], "own"),
        equal(_AUDIT_I386, otherwise="allowed"),
        load(seccomp.CALL), *foreign, jump("allowed"),
        "own", load(seccomp.CALL), at_least(seccomp.X32, "unknown"), *own,
        "allowed", end(seccomp.ALLOW),
        "refused", end(seccomp.ERROR | EPERM),
        "unknown", end(seccomp.ERROR | ENOSYS),
    )  # fmt: skip
