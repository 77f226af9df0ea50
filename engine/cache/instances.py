"""What is done to cache mounts' files, in worker processes: their owners may be others than the user who builds."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from errno import EINVAL, EPERM

from msgspec import Struct

from engine.errors import IsolationError
from engine.isolate import syscalls
from engine.isolate.base import DirectoryRoot, OverlayRoot, Root
from engine.isolate.copies import copy_tree, remove_tree
from engine.isolate.overlay import Xattrs, mount_root
from engine.isolate.paths import Confined


class Beginning(Struct, frozen=True):
    """What a new instance begins as: a copy of `source` in a root or directory, or without these an empty directory."""

    mode: int
    uid: int
    gid: int
    origin: str | Root | None = None
    source: str = ""
    xattrs: Xattrs = "trusted"


def make(path: str, beginning: Beginning) -> None:
    """Makes a new instance, whole or not at all. The caller has the instance to itself."""
    draft = f"{path}.new"
    remove_tree(draft)
    if beginning.origin is None:
        os.mkdir(draft)
        try:
            os.chown(draft, beginning.uid, beginning.gid)
        except OSError as error:
            if error.errno not in (EPERM, EINVAL):  # an owner this machine cannot give; whose files, all the same, are the user's
                raise
        os.chmod(draft, beginning.mode)
    elif isinstance(beginning.origin, OverlayRoot):
        _copy_from_overlay(beginning.origin, beginning.source, draft, beginning.xattrs)
    else:
        origin = beginning.origin.path if isinstance(beginning.origin, DirectoryRoot) else beginning.origin
        _copy(origin, beginning.source, draft)
    os.rename(draft, path)


def remove(paths: list[str]) -> None:
    """Removes instances that were moved out of the way."""
    for path in paths:
        remove_tree(path)


def measure(paths: list[str]) -> list[int]:
    """The bytes that each of several trees takes on disk; a file with several names counts once."""
    return [_measure(path) for path in paths]


def _copy_from_overlay(root: OverlayRoot, source: str, target: str, xattrs: Xattrs) -> None:
    point = f"{target}.root"
    with suppress(FileExistsError):  # left by a process that was killed
        os.mkdir(point)
    mount_root(root, point, xattrs)
    try:
        _copy(point, source, target)
    finally:
        syscalls.unmount(point)
        os.rmdir(point)


def _copy(root: str, source: str, target: str) -> None:
    confined = Confined(root)
    try:
        fd = confined.open(source)
    except OSError as error:
        raise IsolationError(f"cache mount from {source or '/'}: {(error.strerror or '').lower()}") from error
    finally:
        confined.close()
    try:
        copy_tree(syscalls.at(fd), target)
    finally:
        os.close(fd)


def _measure(path: str) -> int:
    seen: set[tuple[int, int]] = set()
    total = 0
    waiting = [path]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as found:
            for entry in found:
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                    if (status.st_dev, status.st_ino) in seen:
                        continue
                    seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(entry.path)
    return total
