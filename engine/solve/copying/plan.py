"""COPY, ADD and WORKDIR: from what is asked for to the entries of a layer, without touching a file.

The rules are BuildKit's, which are not quite those of the Dockerfile reference:

- A directory gives what is in it, never itself. Other things go into the destination if that is a directory, or is written
  as one, and take its name if not; what is already there by that name is replaced, unless it is a directory.
- Directories made on the way are 0755 and root's, or `--chown`'s; an octal `--chmod` counts for them without its set-id and
  sticky bits. So a directory that was copied gives the destination its time, never its mode.
- A destination that is there keeps mode, owner and time; directories deeper inside take those of their source.
- Hard links are kept within what one source, or one match of a wildcard, names.
- Sockets become empty files, block devices character devices.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import CopyError
from engine.layer.base import FileTree
from engine.layer.entries import Change, join, parent
from engine.layer.resolve import resolve
from engine.solve.copying.archive import Extraction
from engine.solve.copying.copies import Copies
from engine.solve.copying.draft import Draft, EmptyTree
from engine.solve.copying.metadata import Metadata
from engine.solve.copying.paths import clean, destination, show
from engine.solve.copying.request import Copied, CopyRequest
from engine.solve.copying.selection import Selection
from engine.solve.copying.sources import Source, find_sources, is_pattern, missing
from engine.solve.copying.tree import copy_tree


class CopyPlan:
    """One COPY or ADD. Sources of all kinds are added in the order they are written: what an earlier one makes is there for the
    next. All `add_` methods raise `CopyError`."""

    def __init__(self, request: CopyRequest, below: FileTree) -> None:
        self.request = request
        self.draft = Draft(EmptyTree() if request.independent else below)
        self._metadata = Metadata(request)
        self._path, self._is_directory = destination(request.destination, request.workdir)
        self._exclude = Selection(request.exclude) if request.exclude else None

    def add_sources(self, tree: FileTree) -> None:
        """Everything that the request's sources name in a tree."""
        for text in self.request.sources:
            if self.request.parents:
                self._add_with_parents(tree, text)
            else:
                for source in find_sources(tree, text):
                    self.add_source(tree, source)

    def add_source(self, tree: FileTree, source: Source) -> None:
        """One thing in a tree."""
        self._add(tree, source, self._exclude)

    def add_file(self, name: bytes, change: Change) -> None:
        """A regular file that is in no tree: a heredoc, a download."""
        target = self._prepare(name)
        self._check_replaceable(target)
        entry = self._metadata.entry(target, change.entry)
        source = None if change.source is None else (change.source, change.offset)
        self.draft.put(Copied(entry, source=source))

    def add_archive(self, members: Sequence[Change]) -> None:
        """The members of a tar, extracted below the destination, which always is a directory."""
        top = self.draft.resolve(self._path)
        self.draft.make_dirs(top, 0o755, self._metadata.owner, self.request.made_mtime)
        extraction = Extraction(self.draft, top, self.request)
        for member in members:
            extraction.add(member)

    def locate(self, tree: FileTree) -> None:
        """Notes where the bytes of what was added from a tree lie, so that the next source may be of another one."""
        self.draft.expand()
        entries = self.draft.entries
        for path, copied in entries.items():
            if copied.from_path is not None:
                entries[path] = copied._replace(from_path=None, source=tree.source(copied.from_path))

    def result(self) -> Copies:
        """The layer's entries, directories before what is in them."""
        return self.draft.result()

    def _add_with_parents(self, tree: FileTree, text: bytes) -> None:
        pivot, found, rest = text.partition(b"/./")
        base, pattern = (pivot, clean(rest)) if found else (b"", clean(text))
        if not is_pattern(base) and not is_pattern(pattern):
            path = join(clean(base), pattern)
            if tree.get(resolve(tree, path)) is None:
                raise missing(tree, path)
        # An empty pattern (`COPY --parents x/./ /d/`) is everything that is there.
        selection = Selection(self.request.exclude, pattern) if pattern else self._exclude
        for source in find_sources(tree, base):
            self._add(tree, source, selection)

    def _add(self, tree: FileTree, source: Source, selection: Selection | None) -> None:
        if source.entry.kind != "dir":
            target = self._prepare(source.name)
            self._check_replaceable(target)
            entry = self._metadata.entry(target, source.entry)
            self.draft.put(Copied(entry, source.path if entry.kind == "file" else None))
            return
        fresh = self.draft.get(self.draft.resolve(self._path)) is None
        target = self._prepare(None)
        there = self.draft.get(target)
        if there is not None and there.kind != "dir":
            raise CopyError(f"cannot copy to non-directory: {show(target)}")
        self._make_dirs(target)
        made = self.draft.entries.get(target)
        if made is not None:
            self.draft.entries[target] = Copied(made.entry._replace(mtime=source.entry.mtime))
        copy_tree(self.draft, tree, source.path, target, self._metadata, selection, fresh=fresh)

    def _prepare(self, name: bytes | None) -> bytes:
        """Makes the directories that the destination needs; returns the real path for something called `name`, or for the
        contents of a directory (None)."""
        above = self._path if self._is_directory else parent(self._path)
        self._make_dirs(self.draft.resolve(above))
        target = self.draft.resolve(self._path)
        if name is not None:
            there = self.draft.get(target)
            if there is not None and there.kind == "dir":
                return join(target, name)
        return target

    def _make_dirs(self, path: bytes) -> None:
        self.draft.make_dirs(path, self._metadata.made_mode, self._metadata.owner, self.request.made_mtime)

    def _check_replaceable(self, target: bytes) -> None:
        there = self.draft.get(target)
        if there is not None and there.kind == "dir":
            raise CopyError(f"cannot replace to directory {show(target)} with file")


def plan_copy(request: CopyRequest, source: FileTree, destination: FileTree) -> list[Copied]:
    """What COPY adds to `destination` from `source`. Raises `CopyError`, with BuildKit's words where it has some."""
    plan = CopyPlan(request, destination)
    plan.add_sources(source)
    return list(plan.result())


def plan_files(request: CopyRequest, files: Sequence[tuple[bytes, Change]], destination: FileTree) -> list[Change]:
    """What COPY or ADD adds to `destination` from files of no tree (name, content and metadata)."""
    plan = CopyPlan(request, destination)
    for name, change in files:
        plan.add_file(name, change)
    return [copied.change for copied in plan.result()]


def plan_archive(request: CopyRequest, members: Sequence[Change], destination: FileTree) -> list[Change]:
    """What ADD adds to `destination` from the members of a tar."""
    plan = CopyPlan(request, destination)
    plan.add_archive(members)
    return [copied.change for copied in plan.result()]


def plan_workdir(path: bytes, owner: tuple[int, int], destination: FileTree, mtime: int) -> list[Change]:
    """The directories that WORKDIR makes, which all belong to `owner` (uid, gid), and those that lead there; empty when the
    directory is there. Raises `CopyError` when something else is."""
    draft = Draft(destination)
    draft.make_dirs(draft.resolve(clean(path)), 0o755, owner, mtime)
    return [copied.change for copied in draft.result()]
