"""Cache keys: one digest over named, typed ingredients, framed so that no two different sets of them give the same bytes.

Every value is written as a letter for its type, its length in decimal, a colon, and its bytes; a sequence gives the number
of its elements as its length, and then the elements. So each encoding says where it ends, no encoding is the beginning of
another, and the bytes can be read back in one way only. Names are sorted: the order in which ingredients are added does not
matter, the order of a sequence's elements does. The version and the kind come first. Whoever changes the framing or the
meaning of an ingredient raises the version that is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from engine.image.digest import Digest

Value = bytes | str | int | bool | Digest | Sequence["Value"] | None

_SHOWN = 200
"""Characters of an ingredient for people; what is longer is shown as a digest."""


class KeyBuilder:
    """Collects the ingredients of one key. `kind` says what the key is for (`run`, `copy`); keys of different kinds never
    meet."""

    def __init__(self, version: str, kind: str) -> None:
        self._head = frame(version) + frame(kind)
        self._values: dict[str, bytes] = {}
        self._shown: dict[str, str] = {}

    def add(self, name: str, value: Value, *, secret: bool = False) -> KeyBuilder:
        """Adds an ingredient; a name can be added once (`ValueError`). A `secret` enters the key and is never shown, not even
        its digest: short ones could be guessed from it."""
        if name in self._values:
            raise ValueError(f"the key has {name!r} already")
        self._values[name] = frame(value)
        self._shown[name] = "(secret)" if secret else show(value)
        return self

    def add_each(self, name: str, items: Iterable[Sequence[bytes]]) -> KeyBuilder:
        """Adds a long list of byte tuples, such as the files that are copied, as one digest. Their order matters."""
        total = hashlib.sha256()
        count = 0
        for item in items:
            total.update(b"%d[%s" % (len(item), b"".join([b"%d:%s" % (len(part), part) for part in item])))
            count += 1
        return self.add(name, [count, total.digest()])._show(name, f"sha256:{total.hexdigest()} ({count} items)")

    def explain(self, name: str, text: str) -> KeyBuilder:
        """Shows something beside the ingredients that does not enter the key by itself, such as one file of many."""
        return self._show(name, text)

    def digest(self) -> Digest:
        """The key."""
        parts = [self._head]
        for name in sorted(self._values):
            parts += (frame(name), self._values[name])
        return Digest("sha256", hashlib.sha256(b"".join(parts)).hexdigest())

    @property
    def ingredients(self) -> dict[str, str]:
        """The ingredients for people, by name; comparing them with an earlier key's shows what changed."""
        return dict(sorted(self._shown.items()))

    def _show(self, name: str, text: str) -> KeyBuilder:
        self._shown[name] = text
        return self


def frame(value: Value) -> bytes:
    """The encoding of one value; different values have different ones, values of different types too (1, True, "1", b"1")."""
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return b"s%d:%s" % (len(data), data)
    if value is None:
        return b"n0:"
    if isinstance(value, bool):
        return b"t1:1" if value else b"t1:0"
    if isinstance(value, int):
        data = b"%d" % value
        return b"i%d:%s" % (len(data), data)
    if isinstance(value, bytes):
        return b"b%d:%s" % (len(value), value)
    if isinstance(value, Digest):
        data = str(value).encode()
        return b"d%d:%s" % (len(data), data)
    if isinstance(value, (list, tuple)):
        return b"l%d:%s" % (len(value), b"".join(map(frame, value)))
    raise TypeError(f"a {type(value).__name__} cannot be part of a key")


def show(value: Value) -> str:
    """A value for people, in at most `_SHOWN` characters."""
    if value is None:
        text = ""
    elif isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        text = value.decode("utf-8", "backslashreplace")
    elif isinstance(value, (list, tuple)):
        text = ", ".join(map(show, value))
    else:
        text = str(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SHOWN else f"sha256:{hashlib.sha256(text.encode()).hexdigest()} ({len(text)} characters)"
