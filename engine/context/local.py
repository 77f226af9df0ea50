"""A directory as a build context, and where its Dockerfile and ignore file are."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from engine.context.digests import Digests, FileKey
from engine.context.directory import DirectoryTree
from engine.context.faults import show
from engine.context.hashing import Hasher
from engine.context.listing import DirectorySubtree
from engine.context.rules import IgnoreRules, ReadRules
from engine.context.view import copy_visible, remove_tree
from engine.errors import ContextError
from engine.layer.base import Subtree
from engine.layer.entries import join
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
        out: dict[bytes, str] = {}
        files: list[bytes] = []
        keys: list[FileKey] = []
        for path in paths:
            if self.tree.get(path) is None:
                raise ContextError(f"{show(path)} is not in the build context")
            key = self.tree.key(path)
            known = self.tree.digest(path)
            if key is None or not key.size:
                out[path] = EMPTY.hex()
            elif known is not None:
                out[path] = known.hex()
            else:
                files.append(path)
                keys.append(key)
        began = time.time_ns()
        found, missing = await self._hasher.digests(os.fsencode(self._root), files.__getitem__, keys)
        for path, digest in zip(files, found, strict=True):
            out[path] = digest.hex()
            self.tree.learn(path, digest)
        await self._hasher.keep(_gathered((keys[at], found[at]) for at in missing), began)
        return out

    async def digest_below(self, subtree: Subtree) -> Callable[[], Awaitable[None]]:
        """See `SubtreeContext`."""
        assert isinstance(subtree, DirectorySubtree)
        files, own, began = subtree.unknown(), subtree, time.time_ns()
        untouched = own.is_untouched()
        found, missing = await self._hasher.digests(os.fsencode(self._root), lambda at: join(own.path, files.path(at)), files)
        files.learn(found)

        async def keep() -> None:
            whole = untouched and len(missing) == len(files)  # then all was read just now, and is quickly gathered
            digests = own.known() if whole else _gathered((files[at], found[at]) for at in missing)
            await self._hasher.keep(digests, began)

        return keep

    def learn(self, files: Mapping[bytes, bytes], subtrees: Sequence[tuple[Subtree, bytes]]) -> None:
        """See `SubtreeContext`."""
        for path, digest in files.items():
            self.tree.learn(path, digest)
        for subtree, digests in subtrees:
            assert isinstance(subtree, DirectorySubtree)
            subtree.learn(digests)

    async def keep(self, files: Iterable[bytes], subtrees: Sequence[Subtree], read_after: int) -> None:
        """See `SubtreeContext`."""
        await self._hasher.keep(_gathered((key, digest) for path in files if (key := self.tree.key(path)) is not None
                                          and (digest := self.tree.digest(path)) is not None), read_after)  # fmt: skip
        for subtree in subtrees:
            assert isinstance(subtree, DirectorySubtree)
            await self._hasher.keep(subtree.known(), read_after)

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


def _gathered(pairs: Iterable[tuple[FileKey, bytes]]) -> Digests:
    digests = Digests()
    for pair in pairs:
        digests.add(*pair)
    return digests
