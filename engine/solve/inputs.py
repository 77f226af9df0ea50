"""The files that COPY, ADD and mounts take: which they are, what they hold, and where their bytes lie."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from msgspec import Struct, field

from engine.cache.flight import SingleFlight
from engine.context.base import Context, SubtreeContext
from engine.context.hashing import MANY_FILES
from engine.dockerfile.instructions import Heredoc
from engine.errors import EngineError
from engine.layer.base import FileTree
from engine.layer.entries import Change, Entry
from engine.layer.hashing import hash_ranges
from engine.layer.tree import Tree
from engine.plan.base import CopyOp, Source
from engine.solve.copying.copies import Copies
from engine.solve.copying.digest import Dependence
from engine.solve.copying.draft import EmptyTree
from engine.solve.copying.fingerprint import Fingerprinted, fingerprinted
from engine.solve.copying.plan import CopyPlan
from engine.solve.copying.request import Copied, CopyRequest
from engine.solve.fileskey import FilesKey, Later, Listing, Once
from engine.solve.mechanisms import Job
from engine.solve.remote import Remotes, is_remote
from engine.solve.state import State

FORESEEN = 60_000
"""Entries that are copied one by one. If they are more nothing is made ready ahead: it would take much memory."""

T = TypeVar("T")


def copy_request(op: CopyOp, owner: tuple[int, int] | None, made_mtime: int) -> CopyRequest:
    """What the planner is asked for by an instruction."""
    return CopyRequest(
        sources=tuple(_encode(s) for s in op.sources if not (op.add and is_remote(s))), destination=_encode(op.destination),
        workdir=_encode(op.workdir), owner=owner, mode=op.chmod or None, keep_owner=op.source.state is not None,
        parents=op.parents, exclude=op.exclude, link=op.link, made_mtime=made_mtime,
    )  # fmt: skip


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class FileSelection(Struct, frozen=True):
    """Which files of a source a step depends on: those that an instruction copies, or all below a path."""

    request: CopyRequest
    remote: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None

    @classmethod
    def copy(cls, op: CopyOp) -> FileSelection:
        """The files that COPY or ADD takes."""
        remote = tuple(s for s in op.sources if op.add and is_remote(s))
        return cls(copy_request(op, None, 0), remote, op.checksum, op.keep_git_dir)

    @classmethod
    def tree(cls, path: str) -> FileSelection:
        """Everything at a path, for a bind mount."""
        return cls(CopyRequest((_encode(path),), b"/", b"/", keep_owner=True))


class Inputs:
    """The inputs of one plan's steps. What was downloaded for a key is not downloaded again for the step."""

    def __init__(self, job: Job, closing: TaskGroup) -> None:
        """What later builds are to know is written down in `closing`."""
        self._job = job
        self._closing = closing
        self._began = time.time_ns()  # before any file was read
        self._known: dict[tuple[str, FileSelection], FilesKey] = {}
        self._foreseen: dict[tuple[str, FileSelection], tuple[Copies, Dependence]] = {}
        self._surveyed: dict[tuple[str, FileSelection], Fingerprinted | None] = {}
        self._flight = SingleFlight()
        self._expected: dict[tuple[str, FileSelection], _Expected] = {}
        self.remotes = Remotes(job)

    def expect(self, op: CopyOp) -> None:
        """Says that a copy from a context will be made before its key is known."""
        self._expected.setdefault((op.source.context, FileSelection.copy(op)), _Expected())

    @contextmanager
    def expected(self, op: CopyOp) -> Iterator[bool]:
        """The time in which an expected copy is made. Gives whether it is this one: there may be several that take the same."""
        expected = self._expected.get((op.source.context, FileSelection.copy(op)))
        if expected is None or expected.begun:
            yield False
            return
        expected.begun = True
        try:
            yield True
        finally:
            expected.made.set()

    async def foreseeing(self, op: CopyOp, work: Callable[[], Awaitable[T]]) -> T:
        """Does some work, and beside it makes ready what can be of a copy's key before the digests of its files are known."""
        failures: list[Exception] = []
        results: list[T] = []

        async def other() -> None:
            try:
                results.append(await work())
            except Exception as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            with suppress(EngineError):  # the copy will meet it again
                await self._foresee(op.source.context, FileSelection.copy(op))
        if failures:
            raise failures[0]
        return results[0]

    async def made(self, op: CopyOp) -> None:
        """Waits until the expected copy that takes the same is made, which has begun: then no file has to be read for the key of
        another one."""
        await self._expected[op.source.context, FileSelection.copy(op)].made.wait()

    async def context_files(self, name: str, selection: FileSelection) -> FilesKey:
        """What a step takes from a context, and from the network; found out once."""
        key = (name, selection)
        if key not in self._known:
            self._known[key] = await self._flight.run(key, lambda: self._context_files(name, selection))
        return self._known[key]

    async def _context_files(self, name: str, selection: FileSelection) -> FilesKey:
        urls = {url: await self.remotes.identity(url, selection.checksum, selection.keep_git_dir) for url in selection.remote}
        parts = list(urls.values())
        if not selection.request.sources:
            return FilesKey(_joined(parts), lambda: urls)
        context = await self._job.context(name)
        ready = Once(self._ready_workers, self._closing, MANY_FILES)
        # Where nothing is known the files will have to be read, if there are many then by workers, which start meanwhile.
        whole = await self._survey(context, name, selection, ready.told if self._job.mechanisms.digests.is_new else None)
        if whole is not None:
            known = await anyio.to_thread.run_sync(self._job.mechanisms.digests.recall, whole.fingerprint)
            if known is not None:
                later = Later(lambda: self._look(context, name, selection))
                return FilesKey(_joined([*parts, known.hex()]), Listing(lambda: {**urls, **later.listing()}), later.prepare)
            if whole.count >= MANY_FILES:
                ready.start()
        digest, listing = await self._look(context, name, selection)
        if whole is not None:
            found, raw = whole, bytes.fromhex(digest)
            self._closing.start_soon(finish, lambda: anyio.to_thread.run_sync(self._remember, found, raw))
        return FilesKey(_joined([*parts, digest]), Listing(lambda: {**urls, **listing()}))

    async def _survey(self, context: Context, name: str, selection: FileSelection,
                      told: Callable[[int], None] | None = None) -> Fingerprinted | None:  # fmt: skip
        """What a copy takes, listed and not read, if it is much; found out once. `told` as for `Subtrees.subtree`."""
        key = (name, selection)
        if key not in self._surveyed:
            self._surveyed[key] = await anyio.to_thread.run_sync(fingerprinted, selection.request, context.tree, told)
        return self._surveyed[key]

    async def _ready_workers(self) -> None:
        """Starts the worker processes, while it is looked which files they are to read."""
        with suppress(EngineError):  # who needs them will meet it again
            await self._job.mechanisms.workers.environment()

    def _remember(self, whole: Fingerprinted, digest: bytes) -> None:
        if whole.settled(self._began):
            self._job.mechanisms.digests.remember(whole.fingerprint, digest)

    async def _foresee(self, name: str, selection: FileSelection) -> None:
        context = await self._job.context(name)
        await self._survey(context, name, selection)
        planned = await anyio.to_thread.run_sync(_plan, selection.request, context.tree)
        if len(planned[0].own) <= FORESEEN:
            self._foreseen[name, selection] = planned

    async def _look(self, context: Context, name: str, selection: FileSelection) -> tuple[str, Callable[[], Mapping[str, str]]]:
        """The digest of what a copy takes from a context, and its listing, by way of the digest of every file."""
        planned = self._foreseen.pop((name, selection), None)
        if planned is None:
            planned = await anyio.to_thread.run_sync(_plan, selection.request, context.tree)
        copies, on = planned
        read: list[Callable[[], Awaitable[None]]] = []
        try:
            for graft in copies.grafts:
                assert isinstance(context, SubtreeContext)
                read.append(await context.digest_below(graft.subtree))
            digests = await context.digests(list(_files(copies.own)))
            return await anyio.to_thread.run_sync(_summed, on, digests)
        finally:
            for keep in read:  # now that nobody waits for the key
                self._closing.start_soon(finish, keep)

    async def state_files(self, state: State, selection: FileSelection) -> FilesKey:
        """What a step takes from another state: equal for equal files, whatever layers they lie in."""
        tree = await self._job.mechanisms.trees.tree(state.chain)
        copies, on = await anyio.to_thread.run_sync(_plan, selection.request, tree)
        unknown = [c.from_path for c in copies.own if c.from_path is not None and c.entry.size and not c.entry.digest]
        digest, listing = _summed(on, await self._hashed(state, tree, unknown))
        return FilesKey(digest, Listing(listing))

    async def _hashed(self, state: State, tree: Tree, paths: Sequence[bytes]) -> dict[bytes, str]:
        if not paths:
            return {}
        places = await self.locate(state, tree, paths)
        ranges = [(*places[path], entry.size if (entry := tree.get(path)) else 0) for path in paths]
        digests = await self._job.mechanisms.workers.call(hash_ranges, ranges)
        return dict(zip(paths, digests, strict=True))

    async def locate(self, state: State, tree: Tree, paths: Iterable[bytes]) -> Mapping[bytes, tuple[bytes, int]]:
        """Where the bytes of a state's files lie on disk; fetches and unpacks the layers they are in, and no others."""
        wanted = list(dict.fromkeys(paths))
        if not wanted:
            return {}
        snapshots = await self._job.mechanisms.snapshots()
        holders = {state.chain[tree.owner_layer(path)] for path in wanted}
        for layer in await snapshots.missing(state.chain):
            if layer in holders:
                await self._job.mechanisms.blobs.ensure(layer.blob)
        return await snapshots.files(state.chain, tree, wanted)

    async def source_tree(self, source: Source, states: Mapping[str, State]) -> tuple[FileTree, Context | None]:
        """The files that `--from` (or its absence) means."""
        if source.state is None:
            context = await self._job.context(source.context)
            return context.tree, context
        return await self._job.mechanisms.trees.tree(states[source.state].chain), None

    def heredoc(self, heredoc: Heredoc) -> tuple[bytes, Change]:
        """A file with a heredoc's content: its name and where it lies."""
        data = _encode(heredoc.content)
        path: Path = self._job.scratch / hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        entry = Entry(_encode(heredoc.name), "file", 0o644, size=len(data), mtime=self._job.made_mtime)
        return _encode(heredoc.name), Change(entry, bytes(path))


async def finish(work: Callable[[], Awaitable[None]]) -> None:
    """Does some work to its end, also when the build ends meanwhile."""
    with anyio.CancelScope(shield=True):
        await work()


class _Expected(Struct, eq=False):
    """A copy that is to be made before its key is known."""

    begun: bool = False
    made: anyio.Event = field(default_factory=anyio.Event)


def _plan(request: CopyRequest, tree: FileTree) -> tuple[Copies, Dependence]:
    plan = CopyPlan(request, EmptyTree())
    plan.add_sources(tree)
    copies = plan.result()
    return copies, Dependence(copies)


def _files(copied: Iterable[Copied]) -> Iterable[bytes]:
    return (c.from_path for c in copied if c.from_path is not None and c.entry.size)


def _summed(on: Dependence, digests: Mapping[bytes, str]) -> tuple[str, Callable[[], dict[str, str]]]:
    """The digest of a copy, and what lists it."""
    return on.digest(digests), on.listing


def _joined(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
