"""What one build carries: each mount is brought before the first step that has it, and all that steps had are saved in the end.

A mount is brought only if its instance is absent or empty, or is still what an earlier state of the same place was: what a step
has changed here is never replaced. Saving and bringing keep to the mount's own locks. Whatever goes wrong costs a warning.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
from msgspec import Struct

from engine.cache.breaker import Breaker
from engine.cache.carry import record
from engine.cache.carry.artifact import Place, State
from engine.cache.carry.record import Origin
from engine.cache.carry.remote import Remote
from engine.cache.carry.restore import restore
from engine.cache.carry.save import Base, Saver, known_base
from engine.cache.carry.stall import watched
from engine.cache.carry.survey import Survey, is_empty, survey
from engine.cache.mounts import DEFAULT_OWNER, CacheMounts, Spec
from engine.errors import EngineError, RegistryError
from engine.progress.reporter import Reporter
from engine.progress.units import size as shown
from engine.workers.base import Workers


class Patience(Struct, frozen=True):
    """Seconds: `lookup` for the look-up of a state, `stall` for a transfer that does not go on, `bring` for a whole restoration,
    `lock` for a mount that others have, and `save` for what is still to be saved when a build has ended."""

    lookup: float = 5.0
    stall: float = 60.0
    bring: float = 900.0
    lock: float = 30.0
    save: float = 900.0


class Used(Struct, frozen=True):
    """A mount that a step had: its portable name, what the Dockerfile says of it, and its instance."""

    name: str
    spec: Spec
    instance: Path


def portable(spec: Spec, origin: str | None, source: str) -> str:
    """What a mount is called on every machine: as here (see `engine.cache.mounts`), but that the state it begins as goes by its
    content. `origin` is that content's digest, empty for a context, None for a mount that begins as nothing."""
    parts = [spec.id]
    owner = (spec.mode, spec.uid, spec.gid)
    if origin is not None:
        parts += [origin, source]
    elif owner != DEFAULT_OWNER:
        parts.append(repr(owner))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


class Carrier:
    """The carrying of one build: `sources` are asked in their order, `target` is where states are saved."""

    def __init__(self, mounts: CacheMounts, workers: Workers, remote: Callable[[], Remote], report: Reporter, *,
                 sources: Sequence[Place], target: Place | None, patience: Patience | None = None,
                 clock: Callable[[], float] = time.time) -> None:  # fmt: skip
        self._mounts = mounts
        self._workers = workers
        self._remote = remote
        self._report = report
        self._target = target
        self._patience = patience or Patience()
        self._clock = clock
        self._sources = [(place, Breaker(f"cannot read cache mounts of {place}", self._patience.lookup, report.warn))
                         for place in sources]  # fmt: skip
        self._asked: set[Path] = set()
        self._used: dict[str, Used] = {}
        self._states: dict[str, State] = {}

    def used(self, name: str, spec: Spec, instance: Path) -> None:
        """A step has a mount. Of several instances of one mount, as `private` ones have, the first is the one that is saved."""
        have = self._used.get(name)
        if have is None or instance.name < have.instance.name:
            self._used[name] = Used(name, spec, instance)

    async def bring(self, name: str, spec: Spec, instance: Path) -> None:
        """Makes an instance be what a registry has of it, if it may be replaced. Nobody else has it meanwhile. Raises nothing."""
        if instance in self._asked or not self._sources:
            return
        self._asked.add(instance)
        try:
            origin = await anyio.to_thread.run_sync(record.origin, instance)
            there = instance.exists()
            empty = not there or await self._workers.call(is_empty, str(instance))
            if not empty and origin is None:
                self._report.note(f"cache mount {spec.id} is here already, and stays as it is")
                return
            state = await self._find(name)
            if state is not None:
                await self._replace(spec, instance, state, None if empty else origin)
        except (EngineError, OSError) as error:
            self._report.warn(f"cache mount {spec.id} begins without what was saved of it: {error}")

    async def _find(self, name: str) -> State | None:
        for place, breaker in self._sources:
            if breaker.open:
                continue
            begun = anyio.current_time()
            with anyio.move_on_after(self._patience.lookup) as scope:
                try:
                    state = await self._remote().find(place, name)
                except RegistryError as error:
                    breaker.failed(str(error))
                    continue
                breaker.took(anyio.current_time() - begun)
                if state is not None:
                    self._states[str(state.digest)] = state
                    return state
            if scope.cancelled_caught:
                breaker.timed_out()
        return None

    async def _replace(self, spec: Spec, instance: Path, state: State, origin: Origin | None) -> None:
        """Brings a state to an instance that is absent or empty (no origin), or was an earlier state of the same place."""
        if origin and (str(state.place) != origin.place or state.created <= origin.created):
            return
        with self._step(f"[internal] restore cache mount {spec.id}") as (step, done):
            remote, old = self._remote(), None
            if origin:
                found: Survey = await self._workers.call(survey, str(instance))
                before = await anyio.to_thread.run_sync(record.load, instance) if found.same else None
                if before is None:
                    done("it was changed here, and stays as it is")
                    return
                old = before.listing

            def progress(fetched: int, total: int) -> None:
                self._report.progress(step, "fetched", fetched, total)

            with anyio.fail_after(self._patience.bring):
                async with watched(self._patience.stall, remote.moves):
                    restored, foreign = await restore(remote, self._workers, state, str(instance), old, progress)
            await anyio.to_thread.run_sync(record.store, instance, restored)
            if foreign:
                self._report.warn(f"cache mount {spec.id}: {foreign} files were another user's or group's, which this user cannot "
                                  "give them to; they are the builder's own now")
            moved, listing = remote.received, restored.listing
            self._report.carried("restored", spec.id, listing.files, listing.size, moved)
            done(f"{listing.files} files, {shown(listing.size)}, of which {shown(moved)} travelled")

    @asynccontextmanager
    async def saving(self) -> AsyncIterator[None]:
        """Saves, beside what the block does, the mounts that steps had. What is left when it ends has `Patience.save` seconds."""
        if self._target is None or not self._used:
            yield
            return
        async with anyio.create_task_group() as tasks:
            for used in self._used.values():
                tasks.start_soon(self._save, used, self._target)
            yield
            tasks.cancel_scope.deadline = anyio.current_time() + self._patience.save
        if tasks.cancel_scope.cancelled_caught:
            self._report.warn(f"not all cache mounts were saved within {self._patience.save:g} seconds after the build")

    async def _save(self, used: Used, target: Place) -> None:
        try:
            with self._step(f"[internal] save cache mount {used.spec.id}") as (_, done):
                done(await self._saved(used, target))
        except (EngineError, OSError) as error:
            self._report.warn(f"cache mount {used.spec.id} was not saved: {error}")

    async def _saved(self, used: Used, target: Place) -> str:
        """Saves a mount; says what came of it."""
        remote = self._remote()
        with anyio.fail_after(self._patience.lookup):
            there = await remote.find(target, used.name)
        async with watched(self._patience.stall, remote.moves):
            try:
                return await self._saved_on(remote, used, target, there)
            except RegistryError as error:
                if there is None or error.status not in (400, 404):
                    raise
                return await self._saved_on(remote, used, target, there, anew=True)  # the registry has lost what we referred to

    async def _saved_on(self, remote: Remote, used: Used, target: Place, there: State | None, *, anew: bool = False) -> str:
        saver = Saver(remote, self._workers, target)
        shared = used.spec.sharing == "shared"
        async with anyio.create_task_group() as pushes:
            with anyio.fail_after(self._patience.lock) as waiting:
                async with self._mounts.reading(used.instance, shared=shared):
                    waiting.deadline = math.inf
                    found: Survey = await self._workers.call(survey, str(used.instance))
                    origin = await anyio.to_thread.run_sync(record.origin, used.instance)
                    if found.same and origin and there and not anew and (text := _as_it_was(origin, there)):
                        return text
                    before = await anyio.to_thread.run_sync(record.load, used.instance)
                    base = Base() if anew else await known_base(remote, there, before, self._near(target))
                    listing, packs = await saver.read(used.instance, found, before, base, pushes)
        follows = None if anew else next(iter([there] if there else self._near(target)), None)
        state = await saver.publish(used.name, used.spec.id, used.instance, found, listing, packs, follows, self._clock())
        self._states[str(state.digest)] = state
        if saver.left_out or found.odd:
            self._report.note(f"cache mount {used.spec.id}: {saver.left_out + found.odd} files were not saved: they are sockets or "
                              "devices, or were changed meanwhile")
        sent = remote.sent
        self._report.carried("saved", used.spec.id, listing.files, listing.size, sent)
        return f"{listing.files} files, {shown(listing.size)}, of which {shown(sent)} travelled"

    def _near(self, target: Place) -> list[State]:
        """States that lie in the repository that is written to, under another scope."""
        return [state for state in self._states.values() if state.place.repository.name == target.repository.name]

    @contextmanager
    def _step(self, name: str) -> Iterator[tuple[str, Callable[[str], None]]]:
        """A step that people see, and what to call with how it went. A failure is its end, and goes on; one that took too long
        becomes a `RegistryError`."""
        detail = ""

        def done(text: str) -> None:
            nonlocal detail
            detail = text

        self._report.step(name, name)
        try:
            yield name, done
        except TimeoutError:
            self._report.finished(name, "failed", "it took too long")
            raise RegistryError("it took too long") from None
        except Exception as error:
            told = _first(error)
            self._report.finished(name, "failed", str(told))
            raise told from None
        except BaseException:
            self._report.finished(name, "canceled")
            raise
        self._report.finished(name, "done", detail=detail)


def _as_it_was(origin: Origin, there: State) -> str:
    """What to say of an instance that is as it was then; empty if it is to be saved all the same."""
    if origin.digest == str(there.digest):
        return "unchanged, nothing travelled"
    if origin.place == str(there.place) and there.created > origin.created:
        return "unchanged, and what was saved meanwhile is newer"
    return ""


def _first(error: Exception) -> Exception:
    """The cause that a group of errors has."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
