"""What a layer is to the rest of the engine, and the read-only view of files that instructions consult."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.layer.columns import Columns
from engine.layer.entries import Entry

INODE = (1 << 63) - 1
"""The bits of an inode number that `file_state` tells."""


class Layer(Struct, frozen=True):
    """A change set: the digest of its uncompressed tar, and the blob that holds it compressed.

    The blob lies in the content store unless the layer is a base's that nobody had to fetch. The layer's index, when it is
    known, lies beside it under the diff id.
    """

    diff_id: Digest
    blob: Descriptor


Chain = tuple[Layer, ...]
"""The layers of a root filesystem state, lowest first."""


def chain_id(diff_ids: Sequence[Digest]) -> Digest | None:
    """What names a root filesystem state (OCI image spec, config.md, "Layer ChainID"); None for no layers."""
    ids = chain_ids(diff_ids)
    return ids[-1] if ids else None


def chain_ids(diff_ids: Sequence[Digest]) -> list[Digest]:
    """The chain ids of the first layer, of the first two, and so on."""
    out: list[Digest] = []
    for diff_id in diff_ids:
        out.append(Digest.of(f"{out[-1]} {diff_id}".encode()) if out else diff_id)
    return out


class FileTree(Protocol):
    """A tree of files that can be looked at without being unpacked: a build context, or the merged layers of a stage.

    Paths are as in `engine.layer.entries`. Nothing here follows symlinks or reads file content, except `read`.
    """

    def get(self, path: bytes) -> Entry | None:
        """The entry at a path, whose last component is not followed if it is a symlink and whose directories are real; None
        if there is none. A hard link is given as the regular file it is the same as. The root exists always."""

    def children(self, path: bytes) -> Sequence[bytes]:
        """The names in a directory, sorted; empty when it is none."""

    def source(self, path: bytes) -> tuple[bytes, int]:
        """Where a regular file's bytes lie: an absolute path on disk and an offset into it."""

    def identity(self, path: bytes) -> object | None:
        """What is equal for two paths just when they are hard links of one file; None when a file has one name only."""

    def read(self, path: bytes) -> bytes:
        """A small regular file's content (etc/passwd, etc/group); raises `KeyError` when it is not known."""


def file_state(inode: int, ctime: int) -> tuple[int, int]:
    """What changes whenever a path gets another file, or its file is written to: inode, as far as that fits into 63 bits, and ctime
    (nanoseconds since the epoch)."""
    return inode & INODE, ctime


class DirectoryPart(Protocol):
    """The children of one directory, by columns, sorted by name: regular files, directories, symlinks and fifos, all root's."""

    @property
    def names(self) -> Sequence[bytes]:
        """Their names."""

    @property
    def kinds(self) -> bytes:
        """What they are, as in `engine.layer.columns`."""

    @property
    def modes(self) -> array[int]:
        """Permission bits; 0o777 for symlinks."""

    @property
    def sizes(self) -> array[int]:
        """Bytes of regular files; 0 for everything else."""

    @property
    def links(self) -> Mapping[int, bytes]:
        """The texts of symlinks by place."""

    @property
    def digests(self) -> bytes | bytearray | None:
        """For each 32 bytes: the digest of a regular file, if it is known, else 0. None when none is known."""


class Subtree(Protocol):
    """All that is below a directory of a tree whose files lie on disk: regular files, directories, symlinks and fifos. It can be
    taken as a whole, which is much quicker than entry by entry."""

    @property
    def path(self) -> bytes:
        """The directory's path in the tree."""

    @property
    def directory(self) -> bytes:
        """Its absolute path on disk."""

    def __len__(self) -> int:
        """How many entries are below it."""

    @property
    def parts(self) -> Sequence[tuple[bytes, DirectoryPart]]:
        """The directory itself and all below it: each with its path relative to the directory, a slash at its end."""

    def columns(self, prefix: bytes = b"") -> Columns:
        """The entries, all root's, sorted by path and without digests. Their paths are relative to the directory, behind a
        prefix."""

    def identities(self) -> set[object] | None:
        """What `FileTree.identity` gives for its files; None if it is the same for two of them."""

    def states(self) -> array[int]:
        """For each row of `columns` the two numbers of `Subtrees.state`; 0 for what is no file."""

    def holder(self, identity: object) -> bytes | None:
        """The path, relative to the directory, of the file with this identity."""

    def fingerprint(self) -> bytes:
        """sha256 of all that is known of the files without reading them: also times, inodes and devices."""

    def settled(self, now: int) -> bool:
        """Whether every change of a file's content after `now` (nanoseconds since the epoch) gives another fingerprint."""


@runtime_checkable
class Subtrees(Protocol):
    """A file tree with subtrees."""

    def subtree(self, path: bytes, told: Callable[[int], None] | None = None) -> Subtree | None:
        """What is below a directory; None where there is none, or devices or sockets are below it. While it is listed, `told` is
        called with the number of entries that have been found."""

    def state(self, path: bytes) -> tuple[int, int] | None:
        """What a regular file's state was when the tree was looked at (`file_state`); None for anything else."""
