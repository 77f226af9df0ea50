"""The fields of a tar header and the records of a pax header, bytes to numbers and back to names. Pure and distrustful."""

from __future__ import annotations

from engine.errors import ContentError

MOST_TEXT = 1 << 20
"""Bytes of a pax header, a long name or a sparse map; Go's archive/tar has the same bound."""
MOST_SEGMENTS = 1 << 17
"""Parts of one sparse file."""
MOST_SPARSE = 1 << 40
"""Bytes of a sparse file, most of which cost the archive nothing."""

_SECOND = 1_000_000_000
_MOST_KNOWN = 1000
_MOST = (1 << 63) - 1
_XATTR = b"SCHILY.xattr."

Fields = tuple[bytes, int, int, int, int, int, bytes, int, int]
"""name, mode, uid, gid, size, mtime in nanoseconds, link, major, minor"""


def header(block: bytes, known: dict[bytes, tuple[int, int, int]]) -> Fields:
    """What the fields of a header block say. `known` is what mode, uid and gid were in other headers, few of which differ in them;
    it is added to."""
    end = block.find(b"\0", 0, 100)
    name = block[: end if end >= 0 else 100]
    major = minor = 0
    if block[257:262] == b"ustar":
        if block[345] and block[257:265] != b"ustar  \0":
            name = block[345:500].split(b"\0", 1)[0] + b"/" + name
        if block[156] in b"34":
            major, minor = number(block[329:337]), number(block[337:345])
    whose, size, mtime = block[100:124], block[124:135], block[136:147]
    link = block[157:257].split(b"\0", 1)[0] if block[157] else b""
    try:  # nearly always all are digits; `number` knows the other ways
        mode, uid, gid = known.get(whose) or _whose(whose, known)
        return (name, mode, uid, gid, int(size, 8) if size.isdigit() else number(block[124:136]),
                int(mtime, 8) * _SECOND if mtime.isdigit() else _bounded(number(block[136:148]) * _SECOND),
                link, major, minor)
    except ValueError as error:
        raise ContentError("invalid tar: a number that is not octal") from error


def _whose(fields: bytes, known: dict[bytes, tuple[int, int, int]]) -> tuple[int, int, int]:
    """Mode, uid and gid, which are noted."""
    mode, uid, gid = fields[:7], fields[8:15], fields[16:23]
    found = (int(mode, 8) & 0o7777 if mode.isdigit() else number(fields[:8]) & 0o7777,
             int(uid, 8) if uid.isdigit() else owner(number(fields[8:16])),
             int(gid, 8) if gid.isdigit() else owner(number(fields[16:])))  # fmt: skip
    if len(known) < _MOST_KNOWN:
        known[fields] = found
    return found


def number(field: bytes) -> int:
    """A numeric field: octal digits between blanks, nothing at all for 0, or GNU's base 256 with a sign."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        if not -_MOST <= value <= _MOST:
            raise ContentError("invalid tar: a number is too large")
        return value
    digits = field.strip(b" \0").split(b"\0", 1)[0].rstrip()
    if digits and not (digits.isdigit() and digits.isascii()):
        raise ContentError(f"invalid tar: {field!r} is no number")
    try:
        return int(digits or b"0", 8)
    except ValueError as error:
        raise ContentError(f"invalid tar: {field!r} is no number") from error


def owner(value: int) -> int:
    """A user or group id. Some writers store -2 for 4294967294."""
    if not -(1 << 31) <= value < 1 << 32:
        raise ContentError(f"invalid tar: {value} is no user or group")
    return value & 0xFFFFFFFF


def records(body: bytes) -> dict[bytes, bytes]:
    """The records of a pax header. The sparse map of GNU's format 0.0, which repeats keys, comes out as that of 0.1."""
    out: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    at, end = 0, len(body)
    while at < end:
        blank = body.find(b" ", at, at + 20)
        digits = body[at:blank] if blank > 0 else b""
        if not digits.isdigit():
            raise ContentError("invalid tar: a broken pax record")
        stop = at + int(digits)
        key, equals, value = body[blank + 1 : stop - 1].partition(b"=")
        if stop > end or stop <= blank + 1 or not equals or not key or body[stop - 1] != 0x0A:
            raise ContentError("invalid tar: a broken pax record")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (len(sparse) % 2 == 0) != (key == b"GNU.sparse.offset") or b"," in value:
                raise ContentError("invalid tar: a broken map of a sparse file")
            sparse.append(value)
        elif b"\0" in key or (b"\0" in value and key in (b"path", b"linkpath", b"GNU.sparse.name")):
            raise ContentError("invalid tar: NUL in a pax record")
        else:
            out[key] = value
        at = stop
    if sparse:
        out[b"GNU.sparse.map"] = b",".join(sparse)
    return out


def amend(fields: Fields, pax: dict[bytes, bytes]) -> tuple[Fields, tuple[tuple[str, bytes], ...]]:
    """The fields with what a pax header says instead, and the extended attributes. An empty value says nothing."""
    name, mode, uid, gid, size, mtime, link, major, minor = fields
    name = pax.get(b"path") or name
    link = pax.get(b"linkpath") or link
    if value := pax.get(b"uid"):
        uid = owner(_integer(value))
    if value := pax.get(b"gid"):
        gid = owner(_integer(value))
    if value := pax.get(b"size"):
        size = decimals([value])[0]
    if value := pax.get(b"mtime"):
        mtime = _time(value)
    xattrs = tuple(sorted((key[len(_XATTR) :].decode("utf-8", "surrogateescape"), value) for key, value in pax.items()
                          if key.startswith(_XATTR) and len(key) > len(_XATTR)))  # fmt: skip
    return (name, mode, uid, gid, size, mtime, link, major, minor), xattrs


def _integer(text: bytes) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    value = decimals([digits])[0]
    return -value if digits is not text else value


def _bounded(time: int) -> int:
    return max(min(time, _MOST), -_MOST)


def _time(text: bytes) -> int:
    """Seconds with a fraction, as nanoseconds."""
    sign = -1 if text[:1] == b"-" else 1
    whole, _, fraction = text.lstrip(b"-").partition(b".")
    if not (whole or fraction) or (fraction and not fraction.isdigit()):
        raise ContentError(f"invalid tar: {text!r} is no time")
    seconds = decimals([whole or b"0"])[0]
    return _bounded(sign * (seconds * _SECOND + int(fraction[:9].ljust(9, b"0"))))


def decimals(texts: list[bytes]) -> list[int]:
    """Decimal numbers that are not negative and fit into 63 bits."""
    out = []
    for text in texts:
        if not text.isdigit() or len(text) > 19 or (value := int(text)) > _MOST:
            raise ContentError(f"invalid tar: {text[:40]!r} is no number")
        out.append(value)
    return out


def pairs(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """A sparse map from its numbers."""
    if len(numbers) % 2 or len(numbers) > 2 * MOST_SEGMENTS:
        raise ContentError("invalid tar: a broken map of a sparse file")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def sparse_fields(area: bytes) -> list[tuple[int, int]]:
    """The (offset, length) pairs of an old GNU header; an empty one ends them."""
    out = []
    for at in range(0, len(area) - 23, 24):
        if not area[at]:
            break
        out.append((number(area[at : at + 12]), number(area[at + 12 : at + 24])))
    return out


def check_sparse(segments: tuple[tuple[int, int], ...], size: int, stored: int, name: bytes) -> None:
    """Raises unless the parts are in order, inside the file and as many bytes as are stored."""
    at = 0
    for offset, length in segments:
        if offset < at or length < 0:
            break
        at = offset + length
    else:
        if at <= size <= MOST_SPARSE and sum(length for _, length in segments) == stored:
            return
    raise ContentError(f"{name.decode('utf-8', 'backslashreplace')}: invalid tar: a broken map of a sparse file")
