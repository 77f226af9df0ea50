"""Room that is kept free in the state directory for a prune: on a disk that is full to the last byte, not even a database can be
read (SQLite wants a file beside it), and nothing can be chosen for removal."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from engine.content import claims

FILES, FILE_SIZE = 16, 64 << 10
"""How many files there are, for a disk may also lack the room for one more file, and the bytes of each."""


class Reserve:
    """Files without content in a directory. Whoever fills the disk leaves them, and who needs room removes them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self) -> None:
        """Makes what is missing. On a disk without room there is none the next time; that is no error."""
        with suppress(OSError):
            names = {str(n) for n in range(FILES)}
            missing = names.difference(path.name for path in claims.entries(self._directory))
            if missing:
                self._directory.mkdir(exist_ok=True)
            for name in missing:
                _allocate(self._directory / name)

    def spend(self) -> bool:
        """Removes the files if the disk is full; returns whether it was."""
        try:
            disk = os.statvfs(self._directory.parent)
        except OSError:
            return False
        files_left = disk.f_favail if disk.f_files else FILES  # some filesystems have no limit, and no count
        if disk.f_bavail * disk.f_frsize >= FILES * FILE_SIZE and files_left >= FILES:
            return False
        for path in claims.entries(self._directory):
            with suppress(OSError):
                path.unlink()
        return True


def _allocate(path: Path) -> None:
    """A file that takes space; none at all if there is not enough."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.posix_fallocate(fd, 0, FILE_SIZE)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
