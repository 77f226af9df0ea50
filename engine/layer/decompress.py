"""Decompression of what others have made: the kind is told by the bytes, never by a name or media type.

Memory is bounded whatever the stream says. As with Go's readers, a stream may have several members or frames, has to be whole,
and nothing else may follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from isal import isal_zlib

from engine.errors import ContentError

Read = Callable[[int], bytes]
"""Gives up to so many bytes, none at the end."""

_IN, _OUT = 512 << 10, 1 << 20
"""Large pieces: whoever reads them has most of the interpreter's lock, and each of ours is waited for and woken up for anew."""
_WINDOW = 1 << 27
"""The largest zstd window that is accepted, in bytes; also what liblzma may use."""

MAGIC: dict[str, tuple[bytes, ...]] = {
    "gzip": (b"\x1f\x8b\x08",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + i]) + b"\x2a\x4d\x18" for i in range(16))),
    "bzip2": (b"BZh",),
    "xz": (b"\xfd7zXZ\x00",),
}


def detect(head: bytes) -> str:
    """`gzip`, `zstd`, `bzip2`, `xz` or `none`, by the first six bytes."""
    return next((kind for kind, marks in MAGIC.items() if head.startswith(marks)), "none")


def open_decompressor(read: Read) -> Iterator[bytes]:
    """The decompressed stream in pieces of at most about a MiB, none of them empty. Raises `ContentError` for a broken one."""
    head = b""
    while len(head) < 6 and (more := read(_IN)):
        head += more
    source = _Source(read, head)
    kind = detect(head)
    if kind == "gzip":
        return _members(source, "gzip", lambda: isal_zlib.decompressobj(31), (isal_zlib.error,))
    if kind == "bzip2":
        import bz2

        return _members(source, "bzip2", bz2.BZ2Decompressor, (OSError,))
    if kind == "xz":
        import lzma

        return _members(source, "xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * _WINDOW), (lzma.LZMAError,))
    return _frames(source) if kind == "zstd" else source.rest()


class _Source:
    """The compressed bytes, some of which have been read ahead."""

    def __init__(self, read: Read, ahead: bytes) -> None:
        self._read, self._ahead = read, ahead

    def some(self) -> bytes:
        out, self._ahead = self._ahead or self._read(_IN), b""
        return out

    def unread(self, data: bytes) -> None:
        self._ahead = data

    def exactly(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        ahead = self._ahead
        while len(ahead) < size and (more := self._read(_IN)):
            ahead += more
        self._ahead = ahead[size:]
        return ahead[:size]

    def rest(self) -> Iterator[bytes]:
        while data := self.some():
            yield data


def _members(source: _Source, kind: str, new: Callable[[], Any], errors: tuple[Any, ...]) -> Iterator[bytes]:
    """gzip, bzip2 and xz: the standard library's interface, as isal has it too."""
    data = source.some()
    try:
        while data:
            member = new()
            while not member.eof:
                if out := member.decompress(data, _OUT):
                    yield out
                # isal keeps what it has not read in unconsumed_tail, the others inside.
                data = getattr(member, "unconsumed_tail", b"")
                if not data and not member.eof and getattr(member, "needs_input", True):
                    data = source.some()
                    if not data and not out:
                        raise ContentError(f"the {kind} stream is cut short (unexpected EOF)")
            data = member.unused_data or source.some()
            while kind == "xz" and data[:4] == bytes(4):  # xz streams may be padded
                data = data[4:] or source.some()
    except (*errors, EOFError) as failure:
        raise ContentError(f"the {kind} stream is corrupt: {failure}") from failure


def _frames(source: _Source) -> Iterator[bytes]:
    """zstd (RFC 8878). The blocks are counted here, since only so is it known how much will come out of what goes in, and that a
    frame has come to its end."""
    import zstandard

    while magic := source.exactly(4):
        if detect(magic.ljust(6, b"\0")) != "zstd":
            raise ContentError("the zstd stream is followed by something else (invalid magic number)")
        if magic[0] != 0x28:
            left = int.from_bytes(_whole(source, 4), "little")
            while left:
                left -= len(_whole(source, min(left, _IN)))
            continue
        frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
        pending, blocks, last = bytearray(magic + _frame_header(source)), 0, False
        checksum = bool(pending[4] & 4)
        try:
            while not last:
                block = _whole(source, 3)
                word = int.from_bytes(block, "little")
                last, kind, size = bool(word & 1), word >> 1 & 3, word >> 3
                pending += block + _whole(source, 1 if kind == 1 else size)
                blocks += 1
                if last and checksum:
                    pending += _whole(source, 4)
                if blocks == 4 or last:  # a block is at most 128 KiB when it comes out
                    if out := frame.decompress(bytes(pending)):
                        yield out
                    blocks = 0
                    pending.clear()
        except zstandard.ZstdError as error:
            raise ContentError(f"the zstd stream is corrupt: {error}") from error


def _frame_header(source: _Source) -> bytes:
    descriptor = _whole(source, 1)
    flags = descriptor[0]
    single = bool(flags & 0x20)
    size = (0 if single else 1) + (0, 1, 2, 4)[flags & 3] + (1 if single else 0, 2, 4, 8)[flags >> 6]
    return descriptor + _whole(source, size)


def _whole(source: _Source, size: int) -> bytes:
    data = source.exactly(size)
    if len(data) < size:
        raise ContentError("the zstd stream is cut short (unexpected EOF)")
    return data
