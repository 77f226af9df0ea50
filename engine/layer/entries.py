"""Entries and changes: what a layer is made of, and what a step did to a root filesystem. Pure values.

Paths are bytes, relative to the root, without a leading or trailing slash and without `.` or `..`: `b"etc/passwd"`. The
root itself is `b""`. Names need not be UTF-8 and may contain anything but NUL and `/`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo", "whiteout", "opaque"]
"""`whiteout` hides its path in the layers below; `opaque` hides everything below its path (a directory) there."""


class Entry(NamedTuple):
    """One path of a layer. (A NamedTuple, not a dataclass: a build makes hundreds of thousands of them.)"""

    path: bytes
    kind: Kind
    mode: int = 0
    """The twelve permission bits; 0o777 for a symlink."""
    uid: int = 0
    gid: int = 0
    size: int = 0
    """Bytes of a regular file; 0 for everything else."""
    mtime: int = 0
    """Nanoseconds since the epoch."""
    link: bytes = b""
    """A symlink's text; for a hardlink the path (in this form) of the entry in the same layer it is the same file as."""
    digest: str = ""
    """The digest of a regular file's content (see `hashing`) in hexadecimal, or empty where nobody has asked for it."""
    major: int = 0
    minor: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    """Extended attributes as (name, value), sorted; `security.capability` is the one that matters."""


class Change(NamedTuple):
    """An entry a step adds, replaces or (whiteout, opaque) removes, and where a regular file's bytes lie on disk.

    `source` is an absolute path, of which `entry.size` bytes from `offset` are the content; None where there is none.
    """

    entry: Entry
    source: bytes | None = None
    offset: int = 0


def parent(path: bytes) -> bytes:
    """The directory a path lies in; the root is its own parent."""
    return path.rpartition(b"/")[0]


def name(path: bytes) -> bytes:
    """The last component of a path."""
    return path.rpartition(b"/")[2]


def join(directory: bytes, rest: bytes) -> bytes:
    """`rest` below `directory`, either of which may be the root."""
    return directory + b"/" + rest if directory and rest else directory or rest


def ancestors(path: bytes) -> list[bytes]:
    """The directories above a path from the top down, without the root and the path itself."""
    parts = path.split(b"/")
    return [b"/".join(parts[:i]) for i in range(1, len(parts))]
