"""The Linux calls that Python's `os` has no name for, as functions that raise `OSError`. Paths are bytes or str, or open
descriptors given as `/proc/self/fd/N` by `at`. Sources: mount(2), unshare(2), pivot_root(2), mount_setattr(2), prctl(2),
capabilities(7)."""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_RELATIME = 1 << 21
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NODEV = 0x4

PR_SET_PDEATHSIG = 1
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_AT_RECURSIVE = 0x8000
_CAPABILITY_VERSION_3 = 0x20080522
_AT_FDCWD = -100
_RESOLVE_NO_MAGICLINKS = 0x02
_SYS_OPENAT2 = 437  # this and the next are the same on every architecture
_SYS_MOUNT_SETATTR = 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "armv7l": 218, "ppc64le": 203, "s390x": 217}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _bytes(path: str | bytes | None) -> bytes | None:
    return os.fsencode(path) if path is not None else None


def at(fd: int) -> str:
    """A path that names what an open descriptor refers to, whatever its real path is now."""
    return f"/proc/self/fd/{fd}"


def syscall(number: int, *arguments: int) -> int:
    """A call by its number, with numbers and addresses for arguments."""
    return _check(_libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(value) for value in arguments)), f"system call {number}")


def open_directory(path: bytes) -> int:
    """openat2(2): a descriptor that only names a directory. The links of /proc that lead anywhere are not followed (ELOOP)."""
    name = ctypes.create_string_buffer(path)
    how = ctypes.create_string_buffer(struct.pack("=QQQ", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _RESOLVE_NO_MAGICLINKS), 24)
    return syscall(_SYS_OPENAT2, _AT_FDCWD, ctypes.addressof(name), ctypes.addressof(how), 24)


def unshare(flags: int) -> None:
    """Moves the caller into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str | bytes | None, target: str | bytes, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    _check(_libc.mount(_bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(data)),
           f"mount {kind or ''} on {os.fsdecode(target)}")


def unmount(target: str | bytes, flags: int = MNT_DETACH) -> None:
    """umount2(2), lazily unless told otherwise."""
    _check(_libc.umount2(_bytes(target), flags), f"unmount {os.fsdecode(target)}")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    number = _SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(38, "pivot_root: not known on this processor")
    _check(_libc.syscall(number, _bytes(new), _bytes(old)), "pivot_root")


def mount_setattr(path: str, set_attributes: int, *, recursive: bool = False) -> None:
    """Adds attributes to a mount, and with `recursive` to those below it (Linux 5.12)."""
    attributes = struct.pack("=QQQQ", set_attributes, 0, 0, 0)
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, -100, _bytes(path), _AT_RECURSIVE if recursive else 0, attributes,
                         ctypes.c_size_t(len(attributes))), f"mount_setattr {path}")


def prctl(option: int, value: int = 0, value2: int = 0) -> int:
    """prctl(2)."""
    return _check(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(value2), ctypes.c_ulong(0), ctypes.c_ulong(0)),
                  "prctl")


def sethostname(name: bytes) -> None:
    """sethostname(2)."""
    _check(_libc.sethostname(name, ctypes.c_size_t(len(name))), "sethostname")


def capset(effective: int, permitted: int, inheritable: int = 0) -> None:
    """capset(2) on the caller; each argument is a set of bits."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low = 0xFFFFFFFF
    data = struct.pack("=6I", effective & low, permitted & low, inheritable & low,
                       effective >> 32, permitted >> 32, inheritable >> 32)
    _check(_libc.capset(header, data), "capset")


def capabilities() -> int:
    """The caller's effective capabilities, as bits."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, data), "capget")
    words = struct.unpack("=6I", data.raw)
    return int(words[0] | words[3] << 32)
