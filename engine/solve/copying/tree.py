"""Copying what is in a directory, in batches: one list of children at a time, and no path resolved per file."""

from __future__ import annotations

from engine.errors import CopyError
from engine.layer.base import FileTree, Subtrees
from engine.layer.entries import Entry, join
from engine.layer.index import collector_paused
from engine.solve.copying.copies import Graft
from engine.solve.copying.draft import Draft, link_entry
from engine.solve.copying.metadata import Metadata
from engine.solve.copying.paths import show
from engine.solve.copying.request import Copied
from engine.solve.copying.selection import Selection, State


def copy_tree(draft: Draft, tree: FileTree, source: bytes, target: bytes, metadata: Metadata,
              selection: Selection | None, *, fresh: bool) -> None:
    """Copies the contents of the directory `source` of `tree` into the directory `target`; both are real paths. With `fresh`
    nothing is in the target yet. Raises `CopyError`."""
    copier = _Copier(draft, tree, metadata)
    with collector_paused():
        if selection is None:
            copier.copy_all(source, target, fresh)
        else:
            copier.copy_selected(source, target, selection)


class _Directory:
    """A directory on the way of a selective copy. It is `made` in the target when something in it turns out to be selected."""

    __slots__ = ("above", "entry", "made", "path", "relative", "state", "target")

    def __init__(self, path: bytes, target: bytes, relative: bytes, entry: Entry | None, above: _Directory | None,
                 state: State) -> None:
        self.path, self.target, self.relative = path, target, relative
        self.entry, self.above, self.state = entry, above, state
        self.made = entry is None


class _Copier:
    def __init__(self, draft: Draft, tree: FileTree, metadata: Metadata) -> None:
        self.draft, self.tree, self.metadata = draft, tree, metadata
        self.firsts: dict[object, bytes] = {}
        self.grafts: list[Graft] = []
        self.grafted: set[object] = set()
        """The files with several names that grafts hold."""

    def copy_all(self, source: bytes, target: bytes, fresh: bool) -> None:
        """Everything below a directory."""
        tree, draft, as_entry = self.tree, self.draft, self.metadata.entry
        get, identity, entries = tree.get, tree.identity, draft.entries
        todo = [(source, target, fresh)]
        while todo:
            source, target, fresh = todo.pop()
            if fresh and self._graft(source, target):
                continue
            from_prefix = source + b"/" if source else b""
            to_prefix = target + b"/" if target else b""
            for child in tree.children(source):
                path = from_prefix + child
                entry = get(path)
                if entry is None:
                    continue
                to = to_prefix + child
                if entry.kind == "dir":
                    new = fresh or self._is_new_directory(to)
                    entries[to] = Copied(as_entry(to, entry))
                    todo.append((path, to, new))
                    continue
                if not fresh:
                    self._clear(to)
                if entry.kind != "file":
                    entries[to] = Copied(as_entry(to, entry))
                elif identity(path) is None:
                    entries[to] = Copied(as_entry(to, entry), path)
                else:
                    self._put_linked(path, to, entry)

    def copy_selected(self, source: bytes, target: bytes, selection: Selection) -> None:
        """What a selection names below a directory, and the directories that lead there."""
        todo = [_Directory(source, target, b"", None, None, (0, 0))]
        while todo:
            directory = todo.pop()
            found = []
            for child in self.tree.children(directory.path):
                path = directory.path + b"/" + child if directory.path else child
                entry = self.tree.get(path)
                if entry is None:
                    continue
                relative = directory.relative + b"/" + child if directory.relative else child
                to = directory.target + b"/" + child if directory.target else child
                chosen, descend, state = selection.decide(relative, directory.state)
                if chosen:
                    self._make(directory)
                    self._put(path, to, entry)
                if entry.kind == "dir" and (chosen or descend):
                    inner = _Directory(path, to, relative, entry, directory, state)
                    inner.made = chosen
                    found.append(inner)
            todo += reversed(found)

    def _put(self, path: bytes, to: bytes, entry: Entry) -> None:
        if entry.kind == "dir":
            self._is_new_directory(to)
            self.draft.entries[to] = Copied(self.metadata.entry(to, entry))
            return
        self._clear(to)
        if entry.kind == "file" and self.tree.identity(path) is not None:
            self._put_linked(path, to, entry)
        else:
            self.draft.entries[to] = Copied(self.metadata.entry(to, entry), path if entry.kind == "file" else None)

    def _put_linked(self, path: bytes, to: bytes, entry: Entry) -> None:
        """A file with several names: the first that comes has the content, the others are hard links to it."""
        mine = self.metadata.entry(to, entry)
        first = self._first(self.tree.identity(path), to)
        self.draft.put(Copied(mine, path) if first == to else Copied(link_entry(to, first, mine)))

    def _graft(self, source: bytes, target: bytes) -> bool:
        """Takes over all that is below a directory as it is, if that can be done: no file has a name elsewhere in the copy, and
        also none in there."""
        subtree = self.tree.subtree(source) if isinstance(self.tree, Subtrees) else None
        identities = subtree.identities() if subtree is not None else None
        if subtree is None or identities is None or not identities.isdisjoint(self.grafted | self.firsts.keys()):
            return False
        graft = Graft(subtree, target, self.metadata)
        self.draft.graft(graft)
        if identities:
            self.grafts.append(graft)
            self.grafted |= identities
        return True

    def _first(self, identity: object, to: bytes) -> bytes:
        """The path of a file's first name in the copy, which is `to` unless there is another one."""
        if identity in self.grafted:
            self.draft.expand()
            self.grafted.discard(identity)
            for graft in self.grafts:
                if (path := graft.subtree.holder(identity)) is not None:
                    self.firsts[identity] = join(graft.target, path)
        return self.firsts.setdefault(identity, to)

    def _make(self, directory: _Directory) -> None:
        """Makes directories that were passed over until now. One that is there takes the mode of its source, and no more."""
        waiting = []
        at: _Directory | None = directory
        while at is not None and not at.made:
            waiting.append(at)
            at = at.above
        for one in reversed(waiting):
            one.made = True
            if one.entry is None:
                continue
            if self._is_new_directory(one.target):
                self.draft.entries[one.target] = Copied(self.metadata.entry(one.target, one.entry))
            else:
                there = self.draft.get(one.target)
                if there is not None and there.mode != one.entry.mode:
                    self.draft.entries[one.target] = Copied(there._replace(mode=one.entry.mode))

    def _is_new_directory(self, to: bytes) -> bool:
        there = self.draft.get(to)
        if there is not None and there.kind != "dir":
            raise CopyError(f"cannot copy to non-directory: {show(to)}",
                            hint=f"{show(to)} is a {there.kind} in the image, but a directory in what is copied")
        return there is None

    def _clear(self, to: bytes) -> None:
        there = self.draft.get(to)
        if there is None:
            return
        if there.kind == "dir":
            raise CopyError(f"cannot replace to directory {show(to)} with file",
                            hint=f"{show(to)} is a directory in the image, but not in what is copied")
        self.draft.remove(to)
