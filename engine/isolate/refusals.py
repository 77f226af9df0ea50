"""Why the kernel refuses a user namespace, as far as it lets one know, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from errno import EINVAL, ENOSPC, ENOSYS, EPERM, EUSERS


def explain(error: OSError) -> str:
    """Why a user namespace was refused."""
    if error.errno in (ENOSPC, EUSERS):
        if _sysctl("user/max_user_namespaces") == "0":
            return "max_user_namespaces is 0"
        return "the limit of user namespaces is reached (/proc/sys/user/max_user_namespaces)"
    if error.errno in (ENOSYS, EINVAL):
        return "this kernel has no user namespaces"
    if error.errno == EPERM:
        return denial()
    return f"unshare: {error.strerror}"


def denial() -> str:
    """Why something that a user namespace should allow was refused (EPERM)."""
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "/proc/sys/kernel/unprivileged_userns_clone is 0"
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "/proc/sys/kernel/apparmor_restrict_unprivileged_userns is 1"
    with suppress(OSError), open("/proc/self/status") as file:
        if "\nSeccomp:\t2" in file.read():
            return "seccomp forbids it (the container's profile)"
    with suppress(OSError):
        root, first = os.stat("/"), os.stat("/proc/1/root/.")
        if (root.st_dev, root.st_ino) != (first.st_dev, first.st_ino):
            return "this process is in a chroot"
    return "the kernel refuses it (a security module, or a chroot)"


def _sysctl(name: str) -> str | None:
    try:
        with open(f"/proc/sys/{name}") as file:
            return file.read().strip()
    except OSError:
        return None


def hint(reasons: Sequence[str]) -> str | None:
    """What to do about reasons for which there is no user namespace; None where nothing is known to help."""
    text = " ".join(reasons)
    if "apparmor_restrict" in text:
        return "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    if "unprivileged_userns_clone" in text:
        return "sysctl -w kernel.unprivileged_userns_clone=1"
    if "max_user_namespaces" in text:
        return "sysctl -w user.max_user_namespaces=10000"
    if "seccomp" in text:
        return "run the container with --security-opt seccomp=unconfined, or use --isolation chroot"
    return None
