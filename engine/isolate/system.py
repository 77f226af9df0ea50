"""/dev, /sys and /proc as a command expects them, mounted over a root. What is hidden and what is read-only there is what
runc and docker hide and protect."""

from __future__ import annotations

import os
from contextlib import suppress

from engine.isolate import syscalls
from engine.isolate.overlay import bind, restrict
from engine.isolate.paths import Confined

_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
          "core": "/proc/kcore", "ptmx": "pts/ptmx"}
_MASKED = ("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
           "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
           "/sys/devices/virtual/powercap")
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_QUIET = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC


def mount_dev(path: str) -> bool:
    """Mounts a new /dev at a directory: the host's harmless devices, new terminals, shared memory and message queues."""
    syscalls.mount("tmpfs", path, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755,size=65536k")
    for name in _NODES:
        if os.path.exists(f"/dev/{name}"):
            os.close(os.open(f"{path}/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
            syscalls.mount(f"/dev/{name}", f"{path}/{name}", None, syscalls.MS_BIND)
    for name, text in _LINKS.items():
        os.symlink(text, f"{path}/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{path}/{name}")
    _mount_pts(f"{path}/pts")
    syscalls.mount("shm", f"{path}/shm", "tmpfs", _QUIET, "mode=1777,size=65536k")
    with suppress(OSError):  # a kernel without message queues
        syscalls.mount("mqueue", f"{path}/mqueue", "mqueue", _QUIET)
    return True


def _mount_pts(path: str) -> None:
    options = "newinstance,ptmxmode=0666,mode=0620"
    flags = syscalls.MS_NOSUID | syscalls.MS_NOEXEC
    try:
        syscalls.mount("devpts", path, "devpts", flags, options + ",gid=5")
    except OSError:  # group 5 has no id outside
        syscalls.mount("devpts", path, "devpts", flags, options)


def mount_sys(path: str) -> bool:
    """Mounts a read-only /sys at a directory: a fresh one where the network namespace is ours, else the host's. Returns False
    where neither is allowed; no build should need it."""
    try:
        syscalls.mount("sysfs", path, "sysfs", _QUIET | syscalls.MS_RDONLY)
    except OSError:
        try:
            bind("/sys", path, syscalls.MOUNT_ATTR_RDONLY)
        except OSError:
            with suppress(OSError):
                syscalls.unmount(path)
            return False
    return True


def mount_proc(root: str) -> None:
    """A /proc inside a root that shows the caller's process namespace. Where parts of the host's /proc are hidden from us the
    kernel allows no fresh one (mount_too_revealing); then it is the host's, whose `self` is right all the same."""
    inside = Confined(root)
    target = inside.open("proc")
    try:
        syscalls.mount("proc", syscalls.at(target), "proc", _QUIET)
    except PermissionError:
        syscalls.mount("/proc", syscalls.at(target), None, syscalls.MS_BIND | syscalls.MS_REC)
    finally:
        os.close(target)
        inside.close()


def protect() -> None:
    """Hides or write-protects, in the caller's root, what tells about the machine or changes it. To be called with /proc, /dev
    and /sys mounted."""
    for path in _READ_ONLY:
        if os.path.exists(path):
            with suppress(OSError):
                syscalls.mount(path, path, None, syscalls.MS_BIND | syscalls.MS_REC)
                restrict(path, syscalls.MOUNT_ATTR_RDONLY)
    for path in _MASKED:
        with suppress(OSError):
            if os.path.isdir(path):
                syscalls.mount("tmpfs", path, "tmpfs", _QUIET | syscalls.MS_RDONLY, "size=0,mode=555")
            elif os.path.exists(path):
                syscalls.mount("/dev/null", path, None, syscalls.MS_BIND)
