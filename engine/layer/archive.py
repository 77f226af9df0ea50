"""Archives that ADD extracts: a tar's members as changes, whose bytes lie in the archive itself or in a copy of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

from engine.errors import ContentError, CopyError, StorageError
from engine.layer.contents import HARDLINK, clean, removal, show, to_entry
from engine.layer.decompress import detect, open_decompressor
from engine.layer.disk import write_sparse
from engine.layer.entries import Change, Entry
from engine.layer.sink import write_all
from engine.layer.tarcodec import BLOCK, WHITEOUT
from engine.layer.tarstream import Member, TarStream

_PIECE = 1 << 20
_KEPT_XATTR = "security.capability"


def scan_archive(path: str, spool_dir: str) -> list[Change] | None:
    """The members of the tar at `path` as changes in the archive's order; None for a file that is no tar, compressed or not, or one
    without a member. What it is is told by its content.

    Nothing is resolved: a later member is meant to replace an earlier one of its path, and a hard link may lead to a file that is
    not in the archive. Names like whiteouts' are whiteouts. The root's own member is left out. Of extended attributes capabilities
    are kept. Compressed archives are written to `spool_dir` uncompressed, and sparse files with their holes.

    Raises `CopyError` for an archive that is broken or climbs out of its root, `StorageError` when the disk is full.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CopyError(f"cannot read {path}: {error.strerror}") from error
    try:
        with _Spool(spool_dir) as spool:
            plain = detect(os.pread(file, 6, 0)) == "none"
            pieces = _read(file) if plain else spool.copy(_inflate(file))
            stream = TarStream(lambda: next(pieces, b""))
            try:
                member = stream.next()
            except ContentError:
                return None
            if member is None:
                return None
            changes = _changes(stream, member, spool, os.fsencode(path) if plain else None)
            spool.keep()
            return changes
    except ContentError as error:
        raise CopyError(f"cannot extract {show(os.path.basename(os.fsencode(path)))}: {error.message}") from error
    except OSError as error:
        raise StorageError(f"cannot extract {path}: {error.strerror}") from error
    finally:
        os.close(file)


def _changes(stream: TarStream, first: Member, spool: _Spool, source: bytes | None) -> list[Change]:
    out = []
    member: Member | None = first
    while member:
        entry = _entry(member)
        if entry is not None:
            if entry.kind != "file":
                out.append(Change(entry))
            elif member.sparse is not None:
                out.append(Change(entry, *spool.expand(stream, member)))
            else:
                out.append(Change(entry, source or spool.path, member.offset))
        member = stream.next()
    return out


def _entry(member: Member) -> Entry | None:
    """A member as an entry; None for the root and for what means nothing."""
    path = clean(member.name)
    if not path:
        return None
    head, _, tail = path.rpartition(b"/")
    if tail.startswith(WHITEOUT):
        what = removal(head, tail)
        return Entry(what[1], what[0], mtime=member.mtime) if what else None
    entry = to_entry(member, path, clean(member.link) if member.type == HARDLINK else member.link)
    if entry.xattrs:
        entry = entry._replace(xattrs=tuple(pair for pair in entry.xattrs if pair[0] == _KEPT_XATTR))
    return entry


def _read(file: int) -> Iterator[bytes]:
    while piece := os.read(file, _PIECE):
        yield piece


def _inflate(file: int) -> Iterator[bytes]:
    return open_decompressor(lambda size: os.read(file, size))


class _Spool:
    """Temporary files in a directory, made when they are needed, removed unless they are kept."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: list[tuple[int, bytes]] = []
        self._kept = False
        self._expanded: tuple[int, bytes] | None = None
        self._end = BLOCK  # an offset of 0 would mean a file of its own
        self.path = b""

    def copy(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The pieces, which are also written to the file `path`."""
        file, self.path = self._new()
        for piece in pieces:
            write_all(file, piece)
            yield piece

    def expand(self, stream: TarStream, member: Member) -> tuple[bytes, int]:
        """A sparse file's bytes with its holes: where they lie."""
        if self._expanded is None:
            self._expanded = self._new()
        file, path = self._expanded
        start = self._end
        self._end = start + member.size
        write_sparse(file, stream.pieces(member), member.sparse or (), self._end, start)
        return path, start

    def keep(self) -> None:
        """The files stay."""
        self._kept = True

    def _new(self) -> tuple[int, bytes]:
        file, path = tempfile.mkstemp(prefix="archive-", dir=self._directory)
        self._files.append((file, os.fsencode(path)))
        return self._files[-1]

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        for file, path in self._files:
            os.close(file)
            if not self._kept:
                os.unlink(path)
