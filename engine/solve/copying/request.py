"""What COPY, ADD and WORKDIR ask of the planner, and what it answers. Pure values."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from engine.layer.entries import Change, Entry


class CopyRequest(Struct, frozen=True):
    """One COPY or ADD whose variables are expanded and whose owner is looked up."""

    sources: tuple[bytes, ...]
    """As written: they may hold wildcards, `./`, `../` and end in a slash."""

    destination: bytes
    """As written: a slash at its end makes it a directory."""

    workdir: bytes
    """Absolute; what a relative destination is relative to."""

    owner: tuple[int, int] | None = None
    """`--chown`; None keeps owners (`keep_owner`) or gives everything to root."""

    mode: str | None = None
    """`--chmod` as written, octal or symbolic."""

    keep_owner: bool = False
    """The source is a stage or an image: owners and file capabilities are kept. Those of a context say nothing."""

    parents: bool = False
    exclude: tuple[str, ...] = ()
    link: bool = False

    made_mtime: int = 0
    """Nanoseconds since the epoch: the time of directories that the copy makes on its way."""

    @property
    def independent(self) -> bool:
        """Whether the layer does not depend on what lies below it. `--chmod` takes `--link` away, as with BuildKit."""
        return self.link and not self.mode


class Copied(NamedTuple):
    """An entry of the layer, and where a regular file's bytes come from: one of `from_path`, `source` and `below`."""

    entry: Entry
    from_path: bytes | None = None
    """A path in the tree that was copied from."""
    source: tuple[bytes, int] | None = None
    """An absolute path on disk and an offset (members of an archive, downloads, heredocs)."""
    below: bytes | None = None
    """A path in the destination tree: a file of a layer below, which an archive makes a hard link to."""
    kept: bool = False
    """A directory that was there before and stays as it is; it is here because it leads to the others."""

    @property
    def change(self) -> Change:
        """The same with the place on disk that is known already."""
        return Change(self.entry, *self.source) if self.source else Change(self.entry)
