"""Claims: files and directories of which every process can tell whether their owner lives.

A claim is an exclusive `flock` on the thing itself, held through an open descriptor. The kernel lets go of it when the owner
ends, however it ends; so there is no process id that could be another's by now, and nothing to renew. Names are unique and
never used twice, which makes the two races harmless: who claims what was just removed sees it and takes a new name, and who
finds a claim abandoned can remove that name and nothing else.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.1


def unique(prefix: str = "") -> str:
    """A name nobody else has: process id for people, random digits for uniqueness."""
    return f"{prefix}{os.getpid()}-{os.urandom(8).hex()}"


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Takes the lock on an open file if that needs no waiting; returns whether it did."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def lock(fd: int, *, shared: bool = False) -> None:
    """Waits for the lock on an open file; may be cancelled at any time. No other task runs between the lock's coming free and
    the return. The pauses between the attempts grow with the time waited, a tenth of it each, up to 0.1 s: waiting in a thread
    would be exact, but a thread that waits for a lock cannot be cancelled."""
    waited = 0.0
    while not try_lock(fd, shared=shared):
        pause = min(max(waited / 10, _FIRST_PAUSE), _LONGEST_PAUSE)
        await anyio.sleep(pause)
        waited += pause


def unlock(fd: int) -> None:
    """Lets go of the lock on an open file that stays open."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def is_at(fd: int, path: Path | str) -> bool:
    """Whether the open file is the one that has this name now."""
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), named)


def new_file(directory: Path, prefix: str = "") -> tuple[int, Path]:
    """A new, empty, claimed file: its descriptor (for reading and writing) and path. `directory` is made if need be."""
    while True:
        path = directory / unique(prefix)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:
            directory.mkdir(parents=True, exist_ok=True)
            continue
        if try_lock(fd) and is_at(fd, path):
            return fd, path
        os.close(fd)


def new_directory(parent: Path, prefix: str = "") -> tuple[int, Path]:
    """A new, empty, claimed directory: its descriptor and path. `parent` is made if need be."""
    while True:
        path = parent / unique(prefix)
        try:
            path.mkdir(mode=0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            parent.mkdir(parents=True, exist_ok=True)
            continue
        if try_lock(fd) and is_at(fd, path):
            return fd, path
        os.close(fd)


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether what is at `path` has no living owner; if so, it is claimed for the time of the body, which may remove it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        yield try_lock(fd) and is_at(fd, path)
    finally:
        os.close(fd)


def entries(directory: Path) -> list[Path]:
    """What lies in a directory; nothing if it is not there."""
    with suppress(FileNotFoundError), os.scandir(directory) as found:
        return [Path(entry.path) for entry in found]
    return []
