"""Paths of COPY and ADD: as written → clean → real.

*Clean* means relative to a root, without `.`, `..` and doubled slashes, as by Go's path.Join("/", p): nothing climbs above the
root. *Real* means that no component is a symlink (`engine.layer.resolve` makes them so).
"""

from __future__ import annotations


def clean(path: bytes, below: bytes = b"") -> bytes:
    """A path as written, joined to a clean one unless it is absolute."""
    parts = [] if path.startswith(b"/") or not below else below.split(b"/")
    for part in path.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part and part != b".":
            parts.append(part)
    return b"/".join(parts)


def destination(path: bytes, workdir: bytes) -> tuple[bytes, bool]:
    """The clean path of a COPY's destination, and whether it is written as a directory (`d/`, `d/.`, `.` or nothing)."""
    directory = path in (b"", b".") or path.endswith((b"/", b"/."))
    return clean(path, clean(workdir)), directory


def show(path: bytes) -> str:
    """A path of the image or the context for people."""
    return "/" + path.decode("utf-8", "backslashreplace")
