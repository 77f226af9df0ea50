"""Jobs of worker processes: an instance made from packs, beside its place, and put there as a whole.

Directories come first, then files, then links: as long as bytes are written, there is no link that could lead elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from msgspec import Struct

from engine.cache.carry.listing import MOST_PACK
from engine.cache.carry.survey import carried
from engine.content.faults import storage_error
from engine.errors import ContentError
from engine.isolate.base import IdMap
from engine.isolate.copies import remove_tree
from engine.layer.decompress import open_decompressor
from engine.layer.disk import Disk
from engine.layer.entries import Entry
from engine.layer.index import Index


class Piece(NamedTuple):
    """A chunk that is needed: where it lies in its pack, its digest, and the files it goes to, each with the place in it."""

    offset: int
    size: int
    digest: bytes
    files: tuple[tuple[Entry, int], ...]


class Draft(Struct, frozen=True):
    """Where an instance is being made, and which owners files can have there."""

    path: str
    ids: IdMap


def begin(draft: Draft, directories: Sequence[bytes], empty: Index, old: str, unchanged: Index) -> None:
    """Makes the directories and empty files of a draft, and takes over files of the instance `old` that are the same."""
    remove_tree(draft.path)
    os.mkdir(draft.path, 0o700)
    with _writing(draft) as disk:
        for path in directories:
            if path:
                disk.implicit(path)
        for entry in empty.entries:
            disk.file(safe(entry), ())
        if unchanged.entries:
            before = os.open(old, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for entry in unchanged.entries:
                    os.link(entry.path, entry.path, src_dir_fd=before, dst_dir_fd=disk.root, follow_symlinks=False)
            finally:
                os.close(before)


def fill(draft: Draft, pack: str, pieces: Sequence[Piece]) -> None:
    """Writes the chunks of a pack into their files; those that have only the one get all that belongs to a file. Raises
    `ContentError` for a pack that is not what the listing says, `StorageError` when the disk is full."""
    data = _inflate(pack)
    with _writing(draft) as disk:
        for piece in pieces:
            chunk = data[piece.offset : piece.offset + piece.size]
            if hashlib.sha256(chunk).digest() != piece.digest:
                raise ContentError("a chunk of a cache mount is not what its listing says")
            for entry, at in piece.files:
                if entry.size == piece.size:
                    disk.file(safe(entry), (chunk,))
                else:
                    _write(disk, entry, chunk, at)


def finish(draft: Draft, entries: Index, long: Index) -> None:
    """Gives the files of several chunks what belongs to them, makes links, and then sets the directories' owners and times."""
    with _writing(draft) as disk:
        for entry in long.entries:
            fd = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=disk.root)
            try:
                os.ftruncate(fd, entry.size)
                os.fchmod(fd, entry.mode & 0o777)
                disk.seal(fd, safe(entry))
            finally:
                os.close(fd)
        for entry in entries.entries:
            if entry.kind == "hardlink":
                disk.hardlink(entry)
        for entry in entries.entries:
            if entry.kind == "symlink":
                disk.symlink(entry)
        for entry in entries.entries:
            if entry.kind == "dir":
                disk.directory(safe(entry))
        disk.finish()


def discard(draft: Draft) -> None:
    """Removes a draft that nothing comes of."""
    remove_tree(draft.path)


def publish(draft: str, path: str) -> None:
    """Puts a draft in the place of an instance, which goes."""
    old = f"{path}.old"
    remove_tree(old)
    with suppress(FileNotFoundError):
        os.rename(path, old)
    try:
        os.rename(draft, path)
    except OSError:
        with suppress(OSError):
            os.rename(old, path)
        raise
    remove_tree(old)


def safe(entry: Entry) -> Entry:
    """An entry without what could give rights that its owner does not have: set-id bits of files, and attributes that are not
    a user's. Directories keep the set-group-id bit, which only says whose what is made in them is."""
    mode = entry.mode & ~(stat.S_ISUID | stat.S_ISGID) if entry.kind != "dir" else entry.mode & ~stat.S_ISUID
    return entry._replace(mode=mode, xattrs=tuple(pair for pair in entry.xattrs if carried(pair[0])))


def _write(disk: Disk, entry: Entry, chunk: memoryview, at: int) -> None:
    fd = os.open(entry.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=disk.root)
    try:
        if bytes(chunk).strip(b"\0"):  # what is all zeros stays a hole
            while chunk:
                done = os.pwrite(fd, chunk, at)
                chunk, at = chunk[done:], at + done
    finally:
        os.close(fd)


def _inflate(path: str) -> memoryview:
    with open(path, "rb") as file:
        return memoryview(joined(open_decompressor(file.read), MOST_PACK))


def joined(pieces: Iterable[bytes], most: int) -> bytes:
    """Pieces as one; raises `ContentError` when they are more than so many bytes."""
    out = bytearray()
    for piece in pieces:
        out += piece
        if len(out) > most:
            raise ContentError(f"a blob of a cache mount has more than {most} bytes")
    return bytes(out)


@contextmanager
def _writing(draft: Draft) -> Iterator[Disk]:
    """A draft to write into; what the disk refuses is a `StorageError`."""
    try:
        with Disk(draft.path, owners=draft.ids.kind != "none", ids=draft.ids) as disk:
            yield disk
    except OSError as error:
        raise storage_error(error, draft.path) from error
