"""Mounting a root: an overlay of layer directories, or a plain directory.

Directories are given to overlayfs as numbers of open descriptors, with /proc/self/fd as the working directory: four bytes
each instead of a hundred. So the one page that mount(2) has for options holds all 500 lower directories that the kernel
allows, and no path needs its colons and commas escaped. `volatile` because overlayfs otherwise syncs the whole upper
filesystem when it is unmounted. Source: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EINVAL, ENOSYS, EPERM
from typing import Literal

from engine.errors import IsolationError
from engine.isolate import syscalls
from engine.isolate.base import DirectoryRoot, Root
from engine.isolate.copies import remove_tree

Xattrs = Literal["trusted", "user"]


def mount_root(root: Root, target: str, xattrs: Xattrs) -> None:
    """Mounts a root at a directory, without device nodes that work."""
    if isinstance(root, DirectoryRoot):
        require_exec(root.path)
        bind(root.path, target, syscalls.MOUNT_ATTR_NODEV)
        return
    if not root.lower and root.upper is None:
        syscalls.mount("tmpfs", target, "tmpfs", syscalls.MS_NODEV | syscalls.MS_RDONLY, "mode=755")
    elif not root.lower:
        bind(root.upper or "", target, syscalls.MOUNT_ATTR_NODEV)
    elif root.upper is None and len(root.lower) == 1:
        bind(root.lower[0], target, syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_RDONLY)
    else:
        mount_overlay(root.lower, root.upper, root.work, target, xattrs)


def require_exec(path: str) -> None:
    """Raises `IsolationError` for a directory that no program can be run in."""
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        raise IsolationError("the state directory is on a filesystem that is mounted noexec: nothing in it can be run",
                             hint="choose another --state-dir")


def mount_overlay(lower: tuple[str, ...], upper: str | None, work: str | None, target: str, xattrs: Xattrs) -> None:
    """Mounts lower directories (topmost first), and an upper one if given, at a directory."""
    opened: list[int] = []
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def number(path: str) -> str:
        opened.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return str(opened[-1])

    try:
        options = "lowerdir=" + ":".join([number(path) for path in lower])
        if upper is not None and work is not None:
            options += f",upperdir={number(upper)},workdir={number(work)},volatile"
        # What an image's layers say must be all there is to say: no redirects, no files without their data.
        options += ",userxattr" if xattrs == "user" else ",redirect_dir=nofollow,metacopy=off,index=off,xino=off"
        os.chdir("/proc/self/fd")
        try:
            syscalls.mount("overlay", target, "overlay", syscalls.MS_NODEV, options)
        except OSError as error:
            if error.errno != EINVAL or work is None:
                raise
            # Mounted before? Then a mark forbids it, since a crash in between could have lost data; there was none. Or the
            # kernel is older than `volatile`.
            with suppress(OSError):
                remove_tree(os.path.join(work, "work", "incompat"))
            try:
                syscalls.mount("overlay", target, "overlay", syscalls.MS_NODEV, options)
            except OSError:
                syscalls.mount("overlay", target, "overlay", syscalls.MS_NODEV, options.replace(",volatile", ""))
    finally:
        os.fchdir(before)
        for fd in (before, *opened):
            os.close(fd)


def bind(source: str, target: str, attributes: int = 0) -> None:
    """Bind-mounts a file or directory, with attributes (`MOUNT_ATTR_*`) added to those that it has. `target` is a real path,
    not one through a descriptor: that would lead below the new mount.

    A directory with mounts below it can't be bound alone from inside a user namespace; then it is bound with them.
    """
    recursive = False
    try:
        syscalls.mount(source, target, None, syscalls.MS_BIND)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        recursive = True
        syscalls.mount(source, target, None, syscalls.MS_BIND | syscalls.MS_REC)
    if attributes:
        restrict(target, attributes, recursive=recursive)


def restrict(target: str, attributes: int, *, recursive: bool = False) -> None:
    """Adds `MOUNT_ATTR_*` to a mount. Before Linux 5.12 only a remount does it, which must repeat the flags that are there."""
    try:
        syscalls.mount_setattr(target, attributes, recursive=recursive)
    except OSError as error:
        if error.errno not in (ENOSYS, EPERM) or recursive:
            raise
        keep = os.statvfs(target).f_flag & (syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
                                            | syscalls.MS_NOATIME | syscalls.MS_NODIRATIME)
        syscalls.mount(None, target, None, syscalls.MS_REMOUNT | syscalls.MS_BIND | keep | attributes)
