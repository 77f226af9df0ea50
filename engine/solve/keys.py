"""Keys of steps: what their results depend on, and nothing else.

A step has two keys, as in BuildKit. The *definition* key needs no layer at all: instruction, visible variables, the content of
files it takes from contexts, and the definition keys of the states it works on and reads from. The *content* key has in their
place what those states turned out to be: the parent's layers, and of another stage just the files that are copied. A step that
is the same by either key is not run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct, structs

from engine.cache.flight import SingleFlight
from engine.image.digest import Digest
from engine.layer.base import chain_id
from engine.plan.base import SCRATCH, CopyOp, ImageSource, Plan, RunOp, Source, Step
from engine.plan.keys import KeyBuilder
from engine.solve.explain import BY
from engine.solve.fileskey import FilesKey
from engine.solve.inputs import FileSelection, Inputs
from engine.solve.mechanisms import Job
from engine.solve.state import State

VERSION = "2"
"""Part of every key: to be changed when equal ingredients come to give another result."""


class Key(Struct, frozen=True):
    """A digest, and what it was made of: `shown` by name, `listings` of files by what their names begin with."""

    digest: Digest
    shown: Mapping[str, str]
    listings: tuple[tuple[str, FilesKey], ...] = ()

    @property
    def lock(self) -> str:
        """The name of the lock of who makes what a content key is of."""
        return f"step {self.digest}"

    async def prepare(self) -> None:
        """Has the ingredients ready to be asked for."""
        for _, files in self.listings:
            await files.prepare()

    @property
    def ingredients(self) -> dict[str, str]:
        """All of it for people. It is worked out when it is asked for: hits are many, and need none."""
        out = dict(self.shown)
        for prefix, files in self.listings:
            out |= {f"{prefix}file {path}": checksum for path, checksum in files.listing().items()}
        return out


SourceKey = Callable[[Source, FileSelection], Awaitable[FilesKey]]


class Keys:
    """The keys of one plan's steps."""

    def __init__(self, plan: Plan, job: Job, inputs: Inputs) -> None:
        self._nodes: dict[str, Step | ImageSource] = {i.id: i for i in plan.images} | {s.id: s for s in plan.steps}
        self._job = job
        self._inputs = inputs
        self._definitions: dict[str, Key] = {}
        self._flight: SingleFlight = SingleFlight()

    async def definition(self, id: str) -> Key:
        """The key of a vertex by what it is defined as."""
        if id not in self._definitions:
            self._definitions[id] = await self._flight.run(id, lambda: self._define(id))
        return self._definitions[id]

    async def _define(self, id: str) -> Key:
        if id == SCRATCH:
            return _state_key(())
        node = self._nodes[id]
        if isinstance(node, ImageSource):
            image = await self._job.images.resolve(node.reference, node.platform)
            return _state_key(image.config.diff_ids)

        async def source_key(source: Source, selection: FileSelection) -> FilesKey:
            if source.state is not None:
                return FilesKey(str((await self.definition(source.state)).digest))
            return await self._inputs.context_files(source.context, selection)

        return await self._key(node, "definition", (await self.definition(node.parent)).digest, source_key)

    async def content(self, step: Step, states: Mapping[str, State]) -> Key:
        """The key of a step by what the states it needs are."""

        async def source_key(source: Source, selection: FileSelection) -> FilesKey:
            if source.state is not None:
                return await self._inputs.state_files(states[source.state], selection)
            return await self._inputs.context_files(source.context, selection)

        parent = _state_key(tuple(layer.diff_id for layer in states[step.parent].chain))
        return await self._key(step, "content", parent.digest, source_key)

    async def outline(self, step: Step, states: Mapping[str, State]) -> Digest:
        """What a step that takes files from a context depends on, but for those files."""

        async def source_key(source: Source, selection: FileSelection) -> FilesKey:
            return FilesKey(source.context)

        parent = _state_key(tuple(layer.diff_id for layer in states[step.parent].chain))
        return (await self._key(step, "outline", parent.digest, source_key)).digest

    async def _key(self, step: Step, by: str, parent: Digest, source_key: SourceKey) -> Key:
        op = step.op
        builder = KeyBuilder(VERSION, type(op).__name__)
        if not (isinstance(op, CopyOp) and op.link and _numeric(op.chown)):
            builder.add("parent", str(parent)).explain("parent", await self._parent(step.parent, parent))
        builder.add("platform", str(step.platform))
        if self._job.epoch is not None and not isinstance(op, RunOp):
            builder.add("epoch", self._job.epoch)
        if self._job.latest_mtime is not None:
            builder.add("latest", self._job.latest_mtime)
        listings: list[tuple[str, FilesKey]] = []
        if isinstance(op, RunOp):
            await self._add_run(builder, op, source_key, listings)
        elif isinstance(op, CopyOp):
            await self._add_copy(builder, op, source_key, listings)
        else:
            builder.add("path", op.path)
            builder.add("user", op.user)
        return Key(builder.digest(), {**builder.ingredients, BY: by}, tuple(listings))

    async def _parent(self, id: str, key: Digest) -> str:
        """What a step works on, for people: what it is called, and which it is."""
        node = self._nodes.get(id)
        if isinstance(node, ImageSource):
            image = await self._job.images.resolve(node.reference, node.platform)
            return f"image {node.reference.familiar} {image.manifest.descriptor.digest}"
        return f"{node.text if node else 'scratch'} {key}"

    @staticmethod
    async def _add_run(builder: KeyBuilder, op: RunOp, source_key: SourceKey, listings: list[tuple[str, FilesKey]]) -> None:
        builder.add("command", list(op.argv))
        builder.add("script", op.script)
        for name, value in op.env:
            builder.add(f"env {name}", value)
        builder.add("cwd", op.cwd)
        builder.add("user", op.user)
        builder.add("network", op.network)
        builder.add("hostname", op.hostname)
        for n, mount in enumerate(op.mounts):
            fields = [f"{k}={v}" for k, v in sorted(structs.asdict(mount.spec).items())]
            builder.add(f"mount {n}", [type(mount.spec).__name__, *fields])
            if mount.source is not None:
                whole = FileSelection.tree(getattr(mount.spec, "source", "") or "/")
                files = await source_key(mount.source, whole)
                builder.add(f"mount {n} files", files.digest)
                listings.append((f"mount {n} ", files))

    @staticmethod
    async def _add_copy(builder: KeyBuilder, op: CopyOp, source_key: SourceKey, listings: list[tuple[str, FilesKey]]) -> None:
        builder.add("add", op.add)
        builder.add("sources", list(op.sources))
        builder.add("destination", op.destination)
        builder.add("workdir", op.workdir if not op.destination.startswith("/") else "")
        for name, value in (("chown", op.chown), ("chmod", op.chmod), ("checksum", op.checksum)):
            builder.add(name, value)
        for flag, chosen in (("link", op.link), ("parents", op.parents), ("keep-git-dir", op.keep_git_dir), ("unpack", op.unpack)):
            builder.add(flag, chosen)
        builder.add("exclude", list(op.exclude))
        for heredoc in op.heredocs:
            builder.add(f"heredoc {heredoc.name}", heredoc.content)
        if op.sources:
            files = await source_key(op.source, FileSelection.copy(op))
            builder.add("files", files.digest)
            listings.append(("", files))


def _numeric(chown: str) -> bool:
    return all(part.isdecimal() for part in chown.split(":")) if chown else True


def _state_key(diff_ids: tuple[Digest, ...]) -> Key:
    name = str(chain_id(diff_ids) or "scratch")
    return Key(Digest("sha256", hashlib.sha256(f"aniko state {VERSION} {name}".encode()).hexdigest()), {"layers": name})
