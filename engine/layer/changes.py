"""Changes by columns, for a worker, and the files that their bytes are read from."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

from msgspec import Struct

from engine.errors import ContextError
from engine.layer import columns
from engine.layer.base import file_state
from engine.layer.columns import Columns
from engine.layer.contents import show
from engine.layer.entries import Change, Entry
from engine.layer.index import collector_paused

State = tuple[int, int] | None
"""The `file_state` that a file must be in, if that is known."""

_SECOND = 1_000_000_000
_ANY = (0, 0)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a fifo in a file's place must not make us wait


class Changes(Struct):
    """Changes by columns, for another process: they are a fraction of the changes in memory, and go there several times as fast.
    Whoever takes them empties them: together with what is made of them they would be large."""

    count: int
    size: int
    """Bytes of all files."""
    newest: int
    """The latest time of all, in nanoseconds since the epoch; 0 if there are none."""
    entries: bytes
    """An index of the entries."""
    sources: bytes = b""
    """Where their bytes lie, joined by NUL."""
    offsets: bytes = b""
    """At which offsets, eight bytes each; empty where all are 0."""
    states: bytes = b""
    """For each the `file_state` (eight bytes a number) that a file must still be in after it has been read, zeros where it may be
    in any; empty where all may."""
    root: bytes = b""
    """A directory, if there are no `sources` since the files lie in it at their entries' paths."""

    def take(self, latest_mtime: int | None = None) -> Columns:
        """The entries as they are in a layer: times are cut to whole seconds, as BuildKit's layers have them, and none is later
        than `latest_mtime` (nanoseconds)."""
        entries, _ = columns.decode(self.entries)
        self.entries = b""
        mtimes = entries.numbers.mtime
        for at, mtime in enumerate(mtimes):
            mtimes[at] = (mtime if latest_mtime is None or mtime <= latest_mtime else latest_mtime) // _SECOND * _SECOND
        return entries

    def rows(self, entries: Columns) -> Iterator[tuple[Entry, bytes, int, State]]:
        """One change after the other: what `take` gave, where its bytes lie, from which offset, and the state of their file."""
        count = len(entries)
        offsets: Iterable[int] = memoryview(self.offsets).cast("q") if self.offsets else repeat(0, count)
        states: Iterable[State] = repeat(None, count)
        if self.states:
            numbers = memoryview(self.states).cast("q")
            states = zip(numbers[::2], numbers[1::2], strict=True)
        return zip(entries.entries(), self.places(entries.paths), offsets, states, strict=False)

    def places(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        """Where the bytes of each entry lie if it is a file. `paths` are the entries'."""
        return map((self.root + b"/").__add__, paths) if self.root else _split(self.sources)

    @classmethod
    def of(cls, changes: Sequence[Change]) -> Changes:
        """Changes that are there one by one."""
        with collector_paused():
            return cls.by_columns(Columns.of(change.entry for change in changes), [change.source or b"" for change in changes],
                                  array("q", [change.offset for change in changes]))  # fmt: skip

    @classmethod
    def by_columns(cls, entries: Columns, sources: Sequence[bytes], offsets: array[int],
                   states: array[int] | None = None) -> Changes:  # fmt: skip
        """Changes whose columns are there; `states` has two numbers for each."""
        numbers = entries.numbers
        return cls(len(entries), sum(numbers.size), max(numbers.mtime, default=0), columns.encode(entries), b"\0".join(sources),
                   offsets.tobytes() if any(offsets) else b"", b"" if states is None else states.tobytes())  # fmt: skip


def _split(joined: bytes) -> Iterator[bytes]:
    """The parts of what was joined by NUL, one after the other."""
    start = 0
    while (end := joined.find(b"\0", start)) >= 0:
        yield joined[start:end]
        start = end + 1
    yield joined[start:]


def open_source(entry: Entry, source: bytes) -> int:
    """The descriptor of the file that an entry's bytes are in. Raises `ContextError`, and `OSError` if it cannot be opened."""
    if not source:
        raise ContextError(f"{show(entry.path)}: there is no file to pack")
    return os.open(source, _READ)


def require_state(file: int, entry: Entry, state: State) -> None:
    """Raises `ContextError` if a file that has been read is in another state than it should."""
    if state is not None and state != _ANY:
        status = os.fstat(file)
        if state != file_state(status.st_ino, status.st_ctime_ns):
            raise changed(entry)


def unreadable(entry: Entry, error: OSError) -> ContextError:
    """The error for a file that cannot be read."""
    return ContextError(f"cannot read {show(entry.path)}: {error.strerror}")


def changed(entry: Entry) -> ContextError:
    """The error for a file that is not what it was."""
    return ContextError(f"{show(entry.path)} changed while it was read", hint="build again when nothing writes to the files")
