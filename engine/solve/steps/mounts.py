"""RUN's mounts: from what the Dockerfile says to what the isolation mounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from msgspec import Struct

from engine.dockerfile.mounts import BindSpec, CacheSpec, SecretSpec, SshSpec, TmpfsSpec
from engine.errors import ContextError, SecretError
from engine.isolate.base import BindMount, FileMount, Mount, Root, SocketMount, TmpfsMount
from engine.layer.accounts import Account
from engine.plan.base import SCRATCH, MountInput, RunOp, Source, Step
from engine.solve.agents import running_agent
from engine.solve.mechanisms import Job
from engine.solve.state import State
from engine.solve.steps.unpack import unpack


class PreparedMounts(Struct, frozen=True):
    """Mounts, and the variables that come with them (secrets as variables, SSH_AUTH_SOCK)."""

    mounts: tuple[Mount, ...]
    env: tuple[tuple[str, str], ...]


async def prepare_mounts(job: Job, step: Step, op: RunOp, account: Account, states: Mapping[str, State],
                         stack: AsyncExitStack) -> PreparedMounts:  # fmt: skip
    """Makes ready what the mounts need; what has to be given back is pushed on the stack. Raises `SecretError`."""
    preparation = _Preparation(job, step, states, stack)
    if op.script is not None:
        preparation.mounts.append(FileMount(op.argv[-1].split()[0], op.script.encode(), 0o755))
    await preparation.take_caches(op.mounts)
    for mount in op.mounts:
        await preparation.add(mount)
    return PreparedMounts(tuple(preparation.mounts), tuple(preparation.env.items()))


class _Preparation:
    def __init__(self, job: Job, step: Step, states: Mapping[str, State], stack: AsyncExitStack) -> None:
        self._job, self._step, self._states, self._stack = job, step, states, stack
        self._agents = 0
        self._caches: list[Path] = []
        self.mounts: list[Mount] = []
        self.env: dict[str, str] = {}

    async def take_caches(self, mounts: Sequence[MountInput]) -> None:
        """All cache mounts of the RUN at once: taken one by one, two RUNs could wait for each other."""
        wanted: list[tuple[CacheSpec, tuple[str | Root, str] | None]] = []
        names: list[str] = []
        carrier = self._job.carrier
        for mount in mounts:
            if isinstance(mount.spec, CacheSpec):
                source = mount.spec.source
                seed = (await self._origin(mount.source, source), source) if mount.source else None
                wanted.append((mount.spec, seed))
                names.append(self._carried_name(mount) if carrier else "")
        if not wanted:
            return

        async def bring(number: int, instance: Path) -> None:
            if carrier:
                await carrier.bring(names[number], wanted[number][0], instance)

        taken = self._job.mechanisms.cache_mounts.acquire_all(wanted, bring if carrier else None)
        self._caches += await self._stack.enter_async_context(taken)
        if carrier:
            for name, (spec, _), instance in zip(names, wanted, self._caches, strict=True):
                carrier.used(name, spec, instance)

    def _carried_name(self, mount: MountInput) -> str:
        """What a cache mount is called where it is carried to: a state that it begins as goes by what is in it."""
        from engine.cache.carry.carrier import portable

        assert isinstance(mount.spec, CacheSpec)
        if mount.source is None:
            return portable(mount.spec, None, "")
        state = mount.source.state
        chain = self._states[state].chain if state not in (None, SCRATCH) else ()
        return portable(mount.spec, "".join(str(layer.diff_id) for layer in chain), mount.spec.source)

    async def add(self, mount: MountInput) -> None:
        """The next mount, in the order of the instruction."""
        spec = mount.spec
        if isinstance(spec, BindSpec):
            source = mount.source or Source()
            origin = await self._origin(source, spec.source)
            # A writable bind drops its writes, so what it shows must not be what it writes to.
            self.mounts.append(BindMount(spec.target, origin, spec.source.lstrip("/"), readonly=not spec.readwrite,
                                         discard_writes=spec.readwrite))  # fmt: skip
        elif isinstance(spec, CacheSpec):
            self.mounts.append(BindMount(spec.target, str(self._caches.pop(0)), "", readonly=spec.readonly))
        elif isinstance(spec, TmpfsSpec):
            self.mounts.append(TmpfsMount(spec.target, spec.size))
        elif isinstance(spec, SecretSpec):
            self._secret(spec)
        else:
            await self._ssh(spec)

    async def _origin(self, source: Source, below: str) -> str | Root:
        """What a bind mount shows: a context's directory, or a state's root."""
        if source.state is None:
            context = await self._job.context(source.context)
            directory = await context.directory(below.strip("/").encode())
            if directory is None:
                raise ContextError("there is no build context to mount from")
            return directory
        state = State(()) if source.state == SCRATCH else self._states[source.state]
        snapshots = await self._job.mechanisms.snapshots()
        await unpack(self._job, state.chain)
        return await snapshots.view(state.chain, await self._job.mechanisms.trees.tree(state.chain))

    def _secret(self, spec: SecretSpec) -> None:
        value = self._job.secret(spec.id)
        if value is None:
            if spec.required:
                raise SecretError(f"secret {spec.id}: not found", hint=f"pass it with --secret id={spec.id},src=FILE")
            return
        if spec.env:
            self.env[spec.env] = value.decode("utf-8", "surrogateescape")
        if spec.target:
            self.mounts.append(FileMount(spec.target, value, spec.mode, spec.uid, spec.gid))

    async def _ssh(self, spec: SshSpec) -> None:
        source = self._job.ssh.get(spec.id)
        if source is None:
            if spec.required:
                raise SecretError(f"unset ssh forward key {spec.id}", hint=f"pass it with --ssh {spec.id}")
            return
        socket = source.socket or await self._stack.enter_async_context(running_agent(source.keys, self._job.environment))
        target = spec.target or f"/run/buildkit/ssh_agent.{self._agents}"
        self._agents += 1
        self.env.setdefault("SSH_AUTH_SOCK", target)
        self.mounts.append(SocketMount(target, str(socket), spec.mode, spec.uid, spec.gid))
