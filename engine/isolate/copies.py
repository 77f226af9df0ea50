"""Copying and removing trees of files, for mounts that cannot be mounted. Everything is kept that a tar would keep, but hard
links; sockets are left out. The trees are not in use by anyone who means harm while this runs."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

_DEEP = 1024
"""Bytes of a path, to which that of the tree and one more name can be added."""


def copy_tree(source: str | bytes, target: str | bytes) -> None:
    """Copies a file, link, node or directory with what is in it to a name that does not exist."""
    source, target = os.fsencode(source), os.fsencode(target)
    _copy(source, target, os.stat(source))


def copy_metadata(source: str | bytes, target: str | bytes) -> None:
    """Gives an existing file or directory the owner, mode, attributes and times of another."""
    found = os.stat(source)
    os.chown(target, found.st_uid, found.st_gid)
    os.chmod(target, stat.S_IMODE(found.st_mode))
    with suppress(OSError):
        for name in os.listxattr(source):
            if not name.startswith(("trusted.overlay.", "user.overlay.")):
                with suppress(OSError):
                    os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def remove_tree(path: str | bytes) -> None:
    """Removes a file or a directory with what is in it; no error if there is nothing. Directories may be deeper than a path can
    be long (PATH_MAX), as a command can make them."""
    top = os.fsencode(path)
    try:
        is_directory = stat.S_ISDIR(os.lstat(top).st_mode)
    except FileNotFoundError:
        return
    if not is_directory:
        os.unlink(top)
        return
    open_all = os.geteuid() != 0  # root may enter and empty every directory, others those that they have opened
    above: list[bytes] = []
    todo = [top]
    while todo:
        directory = todo.pop()
        above.append(directory)
        if open_all:
            os.chmod(directory, 0o700)
        with os.scandir(directory) as listing:
            entries = list(listing)
        for each in entries:
            if not each.is_dir(follow_symlinks=False):
                os.unlink(each.path)
            elif len(each.path) - len(top) < _DEEP:
                todo.append(each.path)
            else:
                todo.append(_raised(each.path, top, open_all))
    for directory in reversed(above):
        os.rmdir(directory)


def _raised(directory: bytes, top: bytes, open_all: bool) -> bytes:
    """Where a directory is now that lay deep below another one, and lies directly in it from now on."""
    new = top + b"/.raised-" + os.urandom(8).hex().encode()
    if open_all:
        os.chmod(directory, 0o700)  # to be moved, a directory has to be writable
    os.rename(directory, new)
    return new


def _copy(source: bytes, target: bytes, found: os.stat_result) -> None:
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(target, 0o700)
        for entry in list(os.scandir(source)):
            _copy(entry.path, os.path.join(target, entry.name), entry.stat(follow_symlinks=False))
    elif stat.S_ISREG(mode):
        _copy_bytes(source, target)
    elif stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), target)
        os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)
        return
    elif stat.S_ISSOCK(mode):
        return
    else:
        os.mknod(target, mode, found.st_rdev)
    copy_metadata(source, target)


def _copy_bytes(source: bytes, target: bytes) -> None:
    with open(source, "rb", buffering=0) as reader, open(target, "xb", buffering=0) as writer:
        try:
            while os.copy_file_range(reader.fileno(), writer.fileno(), 1 << 30):
                pass
        except OSError:
            writer.seek(reader.tell())
            while chunk := reader.read(1 << 20):
                writer.write(chunk)
