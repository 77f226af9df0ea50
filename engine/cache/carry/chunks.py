"""Cutting files into chunks by their content, so that what is equal in two of them gives equal chunks wherever it lies. Pure.

A file of up to `WHOLE` bytes is one chunk. A longer one is cut behind a place where eight bytes in a row have a certain look, which
is the case once in 64 KiB of noise, and less often in text: bytes are sorted into four classes, and the classes have to be those of
`_MARK`. That takes two passes in C, `translate` and `find`, where a rolling hash would be a loop in Python and a hundred times as
slow. Data in which the look is rare is cut where a shorter one was seen last. Where a chunk ends depends on nothing before it, so
an insertion changes the chunk it lies in, and what follows falls back into step at the next cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

WHOLE = 1 << 20
"""Bytes up to which a file is one chunk."""
LEAST, MOST = 128 << 10, 2 << 20
"""Bytes of a chunk of a longer file; its last one may have fewer."""

_READ = 8 << 20
_CHANCE = hashlib.sha512(b"aniko 5").digest()  # the look has about the same chance in programs, source texts and lists of names
_CLASSES = bytes(_CHANCE[byte >> 2] >> (byte & 3) * 2 & 3 for byte in range(256))
_MARK = bytes((2, 0, 3, 1, 1, 2, 0, 3))
_SHORT = _MARK[:6]


def pieces(read: Callable[[int], bytes]) -> Iterator[memoryview]:
    """The chunks of what `read` gives (up to so many bytes at a call, none at the end). A chunk is valid until the next one is
    asked for; about 10 MiB are held."""
    buffer = b""
    ended = False
    while not ended or buffer:
        while not ended and len(buffer) < _READ:
            more = read(_READ - len(buffer))
            ended = not more
            buffer += more
        at = 0
        view, looks = memoryview(buffer), buffer.translate(_CLASSES) if len(buffer) > LEAST else b""
        while len(buffer) - at >= MOST or (ended and at < len(buffer)):
            end = _end(looks, at, len(buffer), whole=ended and at == 0 and len(buffer) <= LEAST)
            yield view[at:end]
            at = end
        buffer = buffer[at:]


def _end(looks: bytes, at: int, size: int, *, whole: bool) -> int:
    """Where the chunk that begins at a place ends."""
    if whole or size - at <= LEAST:
        return size
    least, most = at + LEAST, min(at + MOST, size)
    found = looks.find(_MARK, least, most)
    if found >= 0:
        return found + len(_MARK)
    found = looks.rfind(_SHORT, least, most) if size - at > MOST else -1
    return found + len(_SHORT) if found >= 0 else most
