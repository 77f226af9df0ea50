"""Paths through symlinks, inside a root. The one resolver: for COPY and ADD, for the layers of a chain, for a root on disk.

Nothing leads out of the root: an absolute link starts there again, and `..` stays there. Names that do not exist (yet) are taken
as they are, which is how a destination that is still to be made gets its place.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import CopyError
from engine.layer.base import FileTree

MOST_LINKS = 255
_LONGEST = 4096


def resolve(tree: FileTree, path: bytes, *, follow_last: bool = True) -> bytes:
    """The path without symlinks that `path` stands for in a tree; its last component is followed only with `follow_last`.

    `path` may be absolute, have `.` and `..`, and lead to what does not exist. Raises `CopyError` after 255 links.
    """

    def link(at: bytes) -> bytes | None:
        entry = tree.get(at)
        return entry.link if entry is not None and entry.kind == "symlink" else None

    return follow(path, link, follow_last=follow_last)


def follow(path: bytes, link: Callable[[bytes], bytes | None], *, follow_last: bool = True) -> bytes:
    """As `resolve`, where `link` gives the text of the symlink at a path, and None for anything else."""
    todo = path.split(b"/")[::-1]
    done: list[bytes] = []
    links = 0
    while todo:
        component = todo.pop()
        if component in (b"", b"."):
            continue
        if component == b"..":
            if done:
                done.pop()
            continue
        done.append(component)
        if not (todo or follow_last):
            break
        text = link(b"/".join(done))
        if text is not None:
            links += 1
            if links > MOST_LINKS or len(text) > _LONGEST:
                raise CopyError(f"{path.decode('utf-8', 'backslashreplace')}: too many links")
            done = [] if text.startswith(b"/") else done[:-1]
            todo += text.split(b"/")[::-1]
    return b"/".join(done)
