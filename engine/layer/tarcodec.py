"""Entries as tar headers (POSIX.1-2017 pax, "ustar Interchange Format"; OCI image spec, layer.md, "Whiteouts").

What is written is ustar where ustar can say it, with a pax extended header before it where it cannot. Equal entries give equal
bytes: user and group names are empty, records are sorted, and nothing comes from the clock or the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import adler32

from engine.errors import ContentError
from engine.layer.entries import Entry, Kind

BLOCK = 512
END = bytes(2 * BLOCK)
"""What a tar ends with."""

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

TYPES: dict[Kind, bytes] = {"file": b"0", "hardlink": b"1", "symlink": b"2", "char": b"3", "block": b"4", "dir": b"5", "fifo": b"6",
                            "whiteout": b"0", "opaque": b"0"}  # fmt: skip

_PAX_NAME = b"././@PaxHeader"
_MAX_ID = 0o7777777
_MAX_NUMBER = 0o77777777777
_SECOND = 1_000_000_000
_ZEROS = bytes(BLOCK)


def padding(size: int) -> bytes:
    """The zeros that fill up the last block of `size` bytes."""
    return _ZEROS[: -size % BLOCK]


def layer_name(entry: Entry) -> bytes:
    """The entry's name in a tar: folders end in a slash, and what removes is a file with a reserved name."""
    path, kind = entry.path, entry.kind
    if kind == "dir":
        return path + b"/" if path else b"./"
    if kind == "whiteout":
        head, slash, tail = path.rpartition(b"/")
        return head + slash + WHITEOUT + tail
    if kind == "opaque":
        return path + b"/" + OPAQUE if path else OPAQUE
    return path


def header_encoder() -> Callable[[Entry], bytes]:
    """A function that gives an entry's header blocks. It remembers the owners and modes it has seen, which makes it fast."""
    owners: dict[tuple[int, int, int], bytes] = {}

    def header(entry: Entry) -> bytes:
        path, kind, mode, uid, gid, size, mtime, _, _, _, _, xattrs = entry
        if kind == "file":
            tail, total = _FILE
        elif kind == "dir" and path:
            path, size, (tail, total) = path + b"/", 0, _DIR
        else:
            return encode_header(entry)
        seconds = mtime // _SECOND
        owner = owners.get((mode, uid, gid))
        if owner is None:
            if not (0 <= mode <= 0o7777 and 0 <= uid <= _MAX_ID and 0 <= gid <= _MAX_ID):
                return encode_header(entry)
            owner = owners[mode, uid, gid] = b"%07o\0%07o\0%07o\0" % (mode, uid, gid)
        if xattrs or len(path) > 100 or not path.isascii() or seconds * _SECOND != mtime \
                or not (0 <= size <= _MAX_NUMBER and 0 <= seconds <= _MAX_NUMBER):
            return encode_header(entry)
        # The checksum is the sum of all bytes. adler32 has that in its low half as long as it stays below 65521, and a block of
        # ASCII always does.
        head = b"%b%b%011o\0%011o\0" % (path.ljust(100, b"\0"), owner, size, seconds)
        return b"%b%06o\0 %b" % (head, (adler32(head) & 0xFFFF) + total, tail)

    return header


def encode_header(entry: Entry) -> bytes:
    """The header blocks of an entry, before its content; raises `ContentError` for what no tar can hold."""
    name, link = layer_name(entry), entry.link
    size = entry.size if entry.kind == "file" else 0
    if b"\0" in name or b"\0" in link:
        raise ContentError(f"{name!r}: a name in a layer cannot hold NUL")
    if entry.major > _MAX_ID or entry.minor > _MAX_ID or entry.uid < 0 or entry.gid < 0 or size < 0:
        raise ContentError(f"{name!r}: a number is too large for a layer")
    records: dict[bytes, bytes] = {}
    prefix, short = _split(name)
    if short is None:
        records[b"path"] = name
        prefix, short = b"", _ascii(name)[:100]
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
        link = _ascii(link)[:100]
    seconds, fraction = divmod(entry.mtime, _SECOND)
    if fraction or not 0 <= seconds <= _MAX_NUMBER:
        records[b"mtime"] = _decimal(entry.mtime)
        seconds = min(max(seconds, 0), _MAX_NUMBER)
    for key, value, most in ((b"size", size, _MAX_NUMBER), (b"uid", entry.uid, _MAX_ID), (b"gid", entry.gid, _MAX_ID)):
        if value > most:
            records[key] = b"%d" % value
    for attribute, content in entry.xattrs:
        records[b"SCHILY.xattr." + attribute.encode("utf-8", "surrogateescape")] = content
    uid, gid = (i if i <= _MAX_ID else 0 for i in (entry.uid, entry.gid))
    block = _block(short, entry.mode & 0o7777, uid, gid, size if size <= _MAX_NUMBER else 0, seconds, TYPES[entry.kind],
                   link if entry.kind in ("symlink", "hardlink") else b"", entry.major, entry.minor, prefix)
    return _pax(records) + block if records else block


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """A name as ustar's prefix and name; the name is None when it does not fit."""
    if not name.isascii():
        return b"", None
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", max(len(name) - 101, 1), 156)
    return (name[:cut], name[cut + 1 :]) if 0 < cut < len(name) - 1 else (b"", None)


def _ascii(name: bytes) -> bytes:
    return name.decode("ascii", "replace").encode("ascii", "replace")


def _decimal(nanoseconds: int) -> bytes:
    """Seconds with their fraction, as pax has them."""
    seconds, fraction = divmod(abs(nanoseconds), _SECOND)
    text = b"%d.%09d" % (seconds, fraction) if fraction else b"%d" % seconds
    return (b"-" if nanoseconds < 0 else b"") + (text.rstrip(b"0") if fraction else text)


def _pax(records: dict[bytes, bytes]) -> bytes:
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    return _block(_PAX_NAME, 0o644, 0, 0, len(body), 0, b"x", b"", 0, 0, b"") + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    """`length key=value` and a newline, where the length counts itself."""
    if b"=" in key or b"\0" in key:
        raise ContentError(f"a layer cannot hold an extended attribute of the name {key!r}")
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _block(name: bytes, mode: int, uid: int, gid: int, size: int, seconds: int, kind: bytes, link: bytes, major: int, minor: int,
           prefix: bytes) -> bytes:
    devices = b"%07o\0%07o\0" % (major, minor)
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, seconds)
    tail = b"%b%bustar\x0000%b%b%b" % (kind, link.ljust(100, b"\0"), bytes(64), devices, prefix.ljust(167, b"\0"))
    return b"%b%06o\0 %b" % (head, sum(head) + sum(tail) + 8 * 32, tail)


def _constant(kind: bytes) -> tuple[bytes, int]:
    """The block from the type on, where nothing but the type is said, and what to add to the adler32 of what is before it."""
    tail = _block(b"", 0, 0, 0, 0, 0, kind, b"", 0, 0, b"")[156:]
    return tail, sum(tail) + 8 * 32 - 1


_FILE, _DIR = _constant(b"0"), _constant(b"5")
