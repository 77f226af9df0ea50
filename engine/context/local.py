"""A directory as a build context, and where its Dockerfile and ignore file are."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from engine.context.directory import DirectoryTree
from engine.context.faults import show
from engine.context.files import Files
from engine.context.hashing import Hasher
from engine.context.rules import IgnoreRules, ReadRules
from engine.context.subtree import DirectorySubtree
from engine.context.view import copy_visible, remove_tree
from engine.errors import ContextError
from engine.layer.base import Subtree
from engine.layer.hashing import EMPTY
from engine.layer.resolve import resolve

FILE_LIMIT = 16 << 20
"""Bytes of a Dockerfile or an ignore file."""

_NAMES = ("Dockerfile", "dockerfile")


class DirectoryContext:
    """Implements `engine.context.base.SubtreeContext` over a directory.

    `read_rules` makes rules of the ignore file; without it nothing is ignored (only local directories have ignore files). A
    directory that came from elsewhere is `foreign`: its Dockerfile is looked for inside of it only, whatever links say.
    """

    def __init__(self, root: str, hasher: Hasher, scratch: Path, *, dockerfile: str | None = None,
                 read_rules: ReadRules | None = None, foreign: bool = False, named: bool = False,
                 owned: Path | None = None) -> None:
        """`dockerfile` is the path that `dockerfile()` will be asked for: the ignore file may lie beside it, but for a `named`
        context. `owned` is a directory to remove at the end. Raises `ContextError`."""
        self._root = os.path.abspath(root)
        self._hasher = hasher
        self._scratch = scratch
        self._foreign = foreign
        self._named = named
        self._owned = [owned] if owned is not None else []
        self._plain = DirectoryTree(self._root)
        self._views: dict[bytes, str] = {}
        self._lock = anyio.Lock()
        self.rules: IgnoreRules | None = None
        if read_rules is not None and (found := self._ignore_file(dockerfile)) is not None:
            self.rules = read_rules(found)
        self.tree = DirectoryTree(self._root, self.rules) if self.rules is not None else self._plain

    def dockerfile(self, path: str | None) -> tuple[str, bytes] | None:
        """See `Context`. A path is relative to the current directory, and if it is not there, to the context."""
        for name, candidate in self._dockerfiles(path):
            data = self._read(candidate)
            if data is not None:
                return name, data
        return None

    async def digests(self, paths: Sequence[bytes]) -> dict[bytes, str]:
        """See `Context`."""
        try:
            wanted = self.tree.pick(paths).unknown()
        except KeyError as error:
            raise ContextError(f"{show(error.args[0])} is not in the build context") from None
        await (await self._find_out(b"", wanted))()
        return {path: (self.tree.digest(path) or EMPTY).hex() for path in paths}

    async def digest_below(self, subtree: Subtree) -> Callable[[], Awaitable[None]]:
        """See `SubtreeContext`."""
        assert isinstance(subtree, DirectorySubtree)
        return await self._find_out(subtree.path, subtree.unknown())

    async def _find_out(self, directory: bytes, wanted: Files) -> Callable[[], Awaitable[None]]:
        """Has the digests of files below a directory learned: those of earlier builds, and the others by reading the files. Gives
        what keeps these for later builds."""
        began = time.time_ns()
        await self._hasher.recall(wanted)
        missing = wanted.unknown()
        missing.learn(await self._hasher.digests(os.fsencode(self._root), directory, missing))
        read = {id(group.listing) for group in missing.groups}

        async def keep() -> None:
            await self._hasher.keep((group.files for group in wanted.groups if id(group.listing) in read), began)

        return keep

    def learn(self, files: Mapping[bytes, bytes], subtrees: Sequence[tuple[Subtree, bytes]]) -> None:
        """See `SubtreeContext`."""
        for path, found in self.tree.names(files).items():
            self.tree.learn(path, files[found])
        for subtree, digests in subtrees:
            assert isinstance(subtree, DirectorySubtree)
            subtree.learn(digests)

    async def keep(self, files: Iterable[bytes], subtrees: Sequence[Subtree], read_after: int) -> None:
        """See `SubtreeContext`."""
        await self._hasher.keep((group.files for group in self.tree.pick(self.tree.names(files)).groups), read_after)
        await self._hasher.keep((found for subtree in subtrees for found in _own(subtree).known()), read_after)

    async def directory(self, path: bytes) -> str | None:
        """See `Context`."""
        async with self._lock:
            if path not in self._views:
                self._views[path] = await anyio.to_thread.run_sync(self._view, path)
            return self._views[path]

    async def aclose(self) -> None:
        """See `Context`."""
        for path in self._owned:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(remove_tree, path)
        self._owned.clear()

    def _dockerfiles(self, path: str | None) -> list[tuple[str, str]]:
        """Where a Dockerfile may be: its name for people, and a path."""
        if path is None:
            return [(name, os.path.join(self._root, name)) for name in _NAMES]
        inside = os.path.join(self._root, path.lstrip("/") if self._foreign else path)
        return [(path, inside)] if self._foreign else [(path, os.path.abspath(path)), (path, inside)]

    def _ignore_file(self, dockerfile: str | None) -> bytes | None:
        """The rules for one Dockerfile replace those for all."""
        for _, path in [] if self._named else self._dockerfiles(dockerfile):
            found = self._read(path + ".dockerignore")
            if found is not None:
                return found
        return self._read(os.path.join(self._root, ".dockerignore"))

    def _read(self, path: str) -> bytes | None:
        """A small file, None if it is not there."""
        try:
            if self._foreign:
                real = resolve(self._plain, os.fsencode(os.path.relpath(path, self._root)))
                return self._plain.read(real)
            with open(path, "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ContextError(f"{path} is no regular file")
                data = file.read(FILE_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError, KeyError):
            return None
        except OSError as error:
            raise ContextError(f"cannot read {path}: {error.strerror or error}") from error
        if len(data) > FILE_LIMIT:
            raise ContextError(f"{path} is larger than {FILE_LIMIT >> 20} MiB")
        return data

    def _view(self, path: bytes) -> str:
        if not self.tree.ignored_below(path):
            return self._root
        import tempfile

        view = Path(tempfile.mkdtemp(prefix="context-", dir=self._scratch))
        self._owned.append(view)
        copy_visible(self.tree, path, view)
        return str(view)


def _own(subtree: Subtree) -> DirectorySubtree:
    assert isinstance(subtree, DirectorySubtree)
    return subtree
