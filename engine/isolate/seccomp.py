"""System call filters, and the calls that one process lets another answer (user notification).

A filter is a program of the classic BPF. `program` assembles one from what `load`, `mask`, `equal`, `at_least`, `jump` and `end`
give, and labels, which are strings: jumps name them, and lead down only. Sources: seccomp(2), seccomp_unotify(2),
linux/seccomp.h, linux/bpf_common.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
from errno import ENOENT, ENOSYS

from msgspec import Struct

from engine.isolate import syscalls

_LOAD, _AND, _JUMP, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x06
CALL, ARCHITECTURE = 0, 4
"""Where the number of the call and its architecture lie in what a filter sees."""

ALLOW = 0x7FFF0000
ERROR = 0x00050000
NOTIFY = 0x7FC00000
X32 = 0x40000000
"""What numbers of the x32 ABI start at: they are other calls of the same architecture."""

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
"""The architectures, as filters see them."""

_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_MODE_FILTER = 2
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277, "riscv64": 277}
_SET_MODE_FILTER = 1
_SPEC_ALLOW = 1 << 2
_NEW_LISTENER = 1 << 3

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_RECEIVE, _SEND, _IS_VALID = 0xC0502100, 0xC0182101, 0x40082102
_CONTINUE = 1

Instruction = tuple[int, str, str, int]
"""Code, label if true, label if false (empty: what follows), value."""


def argument(index: int) -> int:
    """Where the low half of an argument lies in what a filter sees, on the little-endian processors of `AUDIT`."""
    return 16 + 8 * index


def load(offset: int) -> Instruction:
    """Loads a word of what a filter sees: `CALL`, `ARCHITECTURE` or an `argument`."""
    return _LOAD, "", "", offset


def mask(value: int) -> Instruction:
    """Keeps these bits of the word."""
    return _AND, "", "", value


def equal(value: int, then: str = "", otherwise: str = "") -> Instruction:
    """Compares the word."""
    return _EQUAL, then, otherwise, value


def at_least(value: int, then: str) -> Instruction:
    """Compares the word."""
    return _AT_LEAST, then, "", value


def jump(to: str) -> Instruction:
    """Goes on elsewhere."""
    return _JUMP, to, "", 0


def end(action: int) -> Instruction:
    """Ends with `ALLOW`, `NOTIFY`, or `ERROR` and an error number."""
    return _RETURN, "", "", action


def program(*lines: Instruction | str) -> bytes:
    """The filter that these instructions and labels are."""
    labels: dict[str, int] = {}
    instructions: list[Instruction] = []
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(instructions)
        else:
            instructions.append(line)
    out = []
    for at, (code, then, otherwise, value) in enumerate(instructions, 1):
        skips = [labels[label] - at if label else 0 for label in (then, otherwise)]
        if code == _JUMP:
            value, skips = skips[0], [0, 0]
        out.append(struct.pack("HBBI", code, *skips, value))
    return b"".join(out)


def restrict(filter_: bytes) -> None:
    """Puts the caller, and what it starts or becomes, under a filter for good, without need of a privilege: no program gains
    any by being set-user-ID from then on."""
    buffer, described = _described(filter_)
    syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(described))
    del buffer


def confine(filter_: bytes) -> None:
    """As `restrict`, but set-user-ID programs gain what they should. Needs CAP_SYS_ADMIN in the caller's user namespace."""
    buffer, described = _described(filter_)
    syscalls.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(described))
    del buffer


def listen(filter_: bytes) -> int:
    """Puts the caller under a filter; returns the descriptor on which another process hears of calls that it says `NOTIFY` for,
    with `receive`. Needs CAP_SYS_ADMIN in the caller's user namespace, and Linux 5.5. Raises `OSError`."""
    number = _SYS_SECCOMP.get(os.uname().machine)
    if number is None:
        raise OSError(ENOSYS, "seccomp: not known on this processor")
    buffer, described = _described(filter_)
    listener = syscalls.syscall(number, _SET_MODE_FILTER, _SPEC_ALLOW | _NEW_LISTENER, ctypes.addressof(described))
    del buffer
    return listener


def _described(filter_: bytes) -> tuple[object, ctypes.Array[ctypes.c_char]]:
    """A `struct sock_fprog`, and the memory it points to, which must live as long."""
    buffer = ctypes.create_string_buffer(filter_, len(filter_))
    described = struct.pack("HxxxxxxP", len(filter_) // 8, ctypes.addressof(buffer))
    return buffer, ctypes.create_string_buffer(described, len(described))


class Notification(Struct, frozen=True):
    """A call that waits for an answer: `thread` makes it, in the reader's pid namespace."""

    id: int
    thread: int
    call: int
    arguments: tuple[int, ...]


def receive(listener: int) -> Notification | None:
    """The next call; None if there is none now. Raises `EOFError` if no process is left that could make one."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    events = dict(poll.poll(0)).get(listener, 0)
    if not events & select.POLLIN:  # asked for now, the call would wait for ever
        if events:
            raise EOFError
        return None
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        if error.errno == ENOENT:  # killed meanwhile
            return None
        raise
    number, thread, _flags, call, _architecture, _address, *arguments = _NOTIFICATION.unpack(buffer)
    return Notification(number, thread, call, tuple(arguments))


def waiting(listener: int, notification: Notification) -> bool:
    """Whether the thread still waits. What was opened by its number before this is its own, not a later thread's."""
    try:
        fcntl.ioctl(listener, _IS_VALID, struct.pack("=Q", notification.id))
    except OSError:
        return False
    return True


def answer(listener: int, notification: Notification, error: int | None) -> None:
    """Lets the call return: 0, an error number, or with None what the kernel makes of it for the thread itself."""
    flags = _CONTINUE if error is None else 0
    try:
        fcntl.ioctl(listener, _SEND, _RESPONSE.pack(notification.id, 0, -(error or 0), flags))
    except OSError as gone:
        if gone.errno != ENOENT:
            raise
