"""Copies of many files of a context: read once when nothing can be cached, not at all when nothing has changed, and the same image and
key whichever way they were made."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from engine import Engine, Settings
from engine.context.base import Context
from engine.context.digests import DigestStore
from engine.context.hashing import Hasher
from engine.errors import ContextError
from engine.image.reference import Reference
from engine.layer.base import FileTree
from engine.progress.events import Event, StepExplained, StepFinished, StepStarted
from engine.registry.server.server import RegistryServer
from engine.request import CacheLocation
from engine.solve import inputs
from engine.solve.copying.fingerprint import Fingerprinted
from engine.solve.copying.request import CopyRequest
from engine.solve.fileskey import Once
from engine.solve.inputs import FileSelection, Inputs
from engine.solve.steps import unread

from .conftest import request, write_context
from .test_cache_processes import build, ran

pytestmark = [pytest.mark.anyio, pytest.mark.system]

FILES = 300
FIXED = {"SOURCE_DATE_EPOCH": "1700000000"}


def many(folder: Path, base: str, *, salt: str = "") -> Path:
    """A context with more files, and more bytes, than what is handled one by one; in one of them is `salt`."""
    context = write_context(folder, f"FROM {base}\nCOPY tree /app/tree\nRUN cat /app/tree/d1/f1 > /first\n")
    for n in range(FILES):
        place = context / "tree" / f"d{n % 9}" / f"f{n}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"%d" % n * 8000)
    (context / "tree/d1/f1").write_text(salt)
    (context / "tree/link").symlink_to("d1/f1")
    os.link(context / "tree/d2/f2", context / "tree/d3/same")
    return context


@pytest.fixture(autouse=True)
def _old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written just now are known again: otherwise these tests would have to wait (`FileKey.settled`)."""
    monkeypatch.setattr("engine.context.filekeys.FINE_SLACK", -(10**12))


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """From now on no file is read to find out its digest."""

    async def never(*_: object) -> None:
        raise AssertionError("files are read for their digests")

    monkeypatch.setattr(Hasher, "_hash", never)
    return monkeypatch


async def test_a_first_copy_reads_no_file_for_its_key_and_the_key_is_the_one_that_reading_gives(
        base: str, registry: RegistryServer, engine: Engine, memory: Path, unreadable: pytest.MonkeyPatch) -> None:
    context = many(memory / "app", base)
    first = await engine.build(request(context, f"{registry.address}/app:1"))
    assert (first.ran, first.cached) == (2, 0)
    unreadable.undo()
    (memory / "state/digests.sqlite").unlink()
    again = await engine.build(request(context, f"{registry.address}/app:2"))
    assert (again.digest, again.ran, again.cached) == (first.digest, 0, 2)


async def test_what_packing_has_read_is_known_file_by_file(base: str, engine: Engine, memory: Path,
                                                          unreadable: pytest.MonkeyPatch) -> None:  # fmt: skip
    context = many(memory / "app", base)
    assert (await engine.build(request(context))).ran == 2
    other = f"FROM {base}\nCOPY tree/d2 tree/d4 /part/\n"
    (context / "Dockerfile").write_text(other)
    assert (await engine.build(request(context))).ran == 1
    unreadable.undo()
    async with Engine(Settings(memory / "other")) as fresh:
        by_reading = await fresh.build(request(context, build_args=FIXED))
    assert by_reading.digest == (await engine.build(request(context, build_args=FIXED))).digest


async def test_nothing_is_looked_up_file_by_file_when_nothing_has_changed(base: str, engine: Engine, memory: Path,
                                                                         unreadable: pytest.MonkeyPatch) -> None:  # fmt: skip
    context = many(memory / "app", base)
    first = await engine.build(request(context))

    def never(*_: object) -> None:
        raise AssertionError("digests are looked up one by one")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DigestStore, "lookup", never)
        again = await engine.build(request(context))
    assert (again.digest, again.ran) == (first.digest, 0)
    unreadable.undo()
    (context / "tree/d1/f1").write_text("changed")
    changed = await engine.build(request(context))
    assert (changed.ran, changed.cached) == (2, 0)
    assert changed.digest != first.digest


async def test_a_change_is_told_of_even_if_the_files_were_known_by_their_fingerprint_only(base: str, engine: Engine,
                                                                                         memory: Path) -> None:  # fmt: skip
    context = many(memory / "app", base)
    await engine.build(request(context))
    (context / "Dockerfile").write_text(f"FROM {base}\nRUN true\nCOPY tree /app/tree\n")
    assert (await engine.build(request(context))).ran == 2, "the copy is made on something else, from files that are known"
    (context / "tree/d4/f4").write_text("changed")
    events: list[Event] = []
    await engine.build(request(context, explain=True), sink=events.append)
    reasons = [reason for event in events if isinstance(event, StepExplained) for reason in event.reasons]
    assert "tree/d4/f4 changed" in reasons


async def test_an_unread_copy_is_explained_before_it_is_done(base: str, engine: Engine, memory: Path) -> None:
    events: list[Event] = []
    await engine.build(request(many(memory / "app", base), explain=True), sink=events.append)
    of_copy = [type(event) for event in events if isinstance(event, (StepExplained, StepFinished)) and event.step == copy_in(events)]
    assert of_copy == [StepExplained, StepFinished]


def copy_in(events: list[Event]) -> str:
    """The COPY's id."""
    return next(event.step for event in events if isinstance(event, StepStarted) and "COPY tree" in event.name)


async def test_processes_that_begin_with_nothing_make_equal_copies_once(base: str, memory: Path) -> None:
    contexts = [many(memory / "same", base)] * 3 + [many(memory / f"other{n}", base, salt=str(n)) for n in range(2)]
    texts: list[str] = []

    async def one(n: int, context: Path) -> None:
        texts.append(await build(memory, context, "-o", str(memory / f"out{n}")))

    async with anyio.create_task_group() as tasks:
        for n, context in enumerate(contexts):
            tasks.start_soon(one, n, context)
    for n, salt in enumerate(["", "", "", "0", "1"]):
        assert (memory / f"out{n}/first").read_text() == salt
        assert (memory / f"out{n}/app/tree/d8/f8").read_bytes() == b"8" * 8000
        assert (memory / f"out{n}/app/tree/d2/f2").stat().st_nlink == 2
    assert ran(texts) == 6, "two steps for each of three different contexts"


async def test_what_a_stage_makes_of_an_unread_copy_is_made_when_it_is_wanted(base: str, engine: Engine, memory: Path) -> None:
    context = many(memory / "app", base)
    (context / "Dockerfile").write_text(f"FROM {base} AS a\nCOPY tree /tree\nRUN ls /tree > /list\n"
                                        f"FROM {base} AS unused\nCOPY tree/d1 /d1\n"
                                        f"FROM {base} AS b\nRUN true\nCOPY --from=a /list /list\n")  # fmt: skip
    assert (await engine.build(request(context))).ran == 4
    assert (await engine.build(request(context))).ran == 0


async def test_the_same_copy_in_two_stages_is_made_once(base: str, engine: Engine, memory: Path) -> None:
    context = many(memory / "app", base)
    (context / "Dockerfile").write_text(f"FROM {base} AS a\nCOPY tree /tree\nRUN ls /tree > /list\n"
                                        f"FROM {base} AS b\nCOPY tree /tree\nCOPY --from=a /list /list\n")  # fmt: skip
    assert (await engine.build(request(context))).ran == 3


async def test_without_cache_the_same_image_is_made(base: str, engine: Engine, memory: Path) -> None:
    context = many(memory / "app", base)
    (context / "Dockerfile").write_text(f"FROM {base}\nCOPY tree /app/tree\n")
    first = await engine.build(request(context, build_args=FIXED))
    again = await engine.build(request(context, build_args=FIXED, no_cache=True))
    assert (again.ran, again.digest) == (1, first.digest)


@pytest.mark.parametrize("place", ["/app/", "/odd/tree/", "/link/", "/here/"])
async def test_what_is_packed_before_the_base_is_known_is_right_whatever_the_base_has(
        base: str, registry: RegistryServer, engine: Engine, memory: Path, place: str) -> None:
    odd = write_context(memory / "odd", f"FROM {base}\nRUN mkdir -m 700 /odd && ln -s /odd/tree /link && mkdir -p /odd/tree && "
                                        "mkdir -p /here/d1 && echo old > /here/d1/f1 && echo stays > /here/d1/mine\n")  # fmt: skip
    name = f"{registry.address}/odd:1"
    async with Engine(Settings(memory / "odd-state")) as other:
        await other.build(request(odd, name))
    context = many(memory / "app", base, salt="new\n")
    (context / "Dockerfile").write_text(f"FROM {name}\nCOPY tree {place}\n")
    fixed = {"build_args": FIXED}
    first = await engine.build(request(context, f"{registry.address}/app:1", **fixed))
    assert first.ran == 1
    async with Engine(Settings(memory / "second")) as second:
        (context / "Dockerfile").write_text(f"FROM {name}\nCOPY Dockerfile /\n")
        await second.build(request(context))
        (context / "Dockerfile").write_text(f"FROM {name}\nCOPY tree {place}\n")
        slowly = await second.build(request(context, f"{registry.address}/app:2", **fixed))
    assert (slowly.ran, slowly.digest) == (1, first.digest)


@pytest.fixture
def at_packing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has something done when an unread copy is about to be packed."""

    def plan(happens: Callable[[], None]) -> None:
        async def make_layer(*arguments: object, **options: object) -> object:
            happens()
            return await unread.real_make_layer(*arguments, **options)  # type: ignore[attr-defined]

        monkeypatch.setattr(unread, "make_layer", make_layer)

    monkeypatch.setattr(unread, "real_make_layer", unread.make_layer, raising=False)
    return plan


async def test_a_file_that_is_written_to_before_it_is_packed_is_an_error_and_spoils_nothing(
        base: str, engine: Engine, memory: Path, at_packing: Callable[[Callable[[], None]], None]) -> None:
    context = many(memory / "app", base, salt="old")
    first = await engine.build(request(context, build_args=FIXED))
    at_packing(lambda: (context / "tree/d1/f1").write_text("new") and None)
    with pytest.raises(ContextError, match="changed while it was read"):
        await engine.build(request(context, no_cache=True, build_args=FIXED))
    (context / "tree/d1/f1").write_text("old")
    again = await engine.build(request(context, build_args=FIXED))
    assert again.cached == 2
    assert (memory / "state").is_dir() and first.ran == 2


async def test_files_that_were_too_young_when_they_were_read_are_not_remembered(
        base: str, engine: Engine, memory: Path, monkeypatch: pytest.MonkeyPatch,
        at_packing: Callable[[Callable[[], None]], None]) -> None:
    monkeypatch.setattr("engine.context.filekeys.FINE_SLACK", 3600 * 10**9)
    remembered: list[bytes] = []
    monkeypatch.setattr(DigestStore, "remember", lambda _, fingerprint, __: remembered.append(fingerprint))
    later = time.time_ns() + 7200 * 10**9
    at_packing(lambda: monkeypatch.setattr("engine.solve.inputs.time.time_ns", lambda: later))
    await engine.build(request(many(memory / "app", base)))
    assert not remembered


@pytest.mark.parametrize("text", ["ADD tree /x\nCOPY tree /x\n", "COPY tree /big\nADD tree /x\nCOPY tree /x\n",
                                  "COPY tree /x\nADD tree /x\n"])  # fmt: skip
async def test_add_and_copy_of_the_same_do_not_wait_for_each_other(base: str, engine: Engine, memory: Path, text: str) -> None:
    context = many(memory / "app", base)
    (context / "Dockerfile").write_text(f"FROM {base}\n{text}")
    with anyio.fail_after(60):
        assert (await engine.build(request(context))).ran == text.count("\n")


async def test_a_copy_that_is_known_by_its_fingerprint_is_looked_through_once(base: str, engine: Engine, memory: Path,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    context = many(memory / "app", base)
    await engine.build(request(context))
    (context / "Dockerfile").write_text(f"FROM {base}\nRUN true\nCOPY tree /app/tree\n")
    looks: list[str] = []
    real = Inputs._look

    async def look(self: Inputs, context: Context, name: str, selection: FileSelection) -> object:
        looks.append(name)
        return await real(self, context, name, selection)

    monkeypatch.setattr(Inputs, "_look", look)
    assert (await engine.build(request(context))).ran == 2
    assert len(looks) == 1


async def test_on_a_new_machine_workers_start_while_a_large_context_is_walked(
        base: str, registry: RegistryServer, engine: Engine, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = many(memory / "app", base)
    location = CacheLocation(Reference.parse(f"{registry.address}/cache"), "max")
    cache: dict[str, object] = {"cache_from": (location,), "cache_to": location}
    assert (await engine.build(request(context, f"{registry.address}/app:1", **cache))).ran == 2
    seen: list[str] = []
    started, surveyed = Once.start, inputs.fingerprinted

    def start(once: Once) -> None:
        seen.append("workers start")
        started(once)

    def survey(request: CopyRequest, tree: FileTree, told: Callable[[int], None] | None = None) -> Fingerprinted | None:
        found = surveyed(request, tree, told)
        seen.append("the context is walked")
        return found

    monkeypatch.setattr(Once, "start", start)
    monkeypatch.setattr(inputs, "fingerprinted", survey)
    monkeypatch.setattr(inputs, "MANY_FILES", FILES // 2)
    async with Engine(Settings(memory / "new")) as new:
        assert (await new.build(request(context, f"{registry.address}/app:2", **cache))).ran == 0
        assert seen[:2] == ["workers start", "the context is walked"]
        seen.clear()
        (context / "tree/d1/f1").write_text("changed")
        assert (await new.build(request(context, f"{registry.address}/app:2", **cache))).ran == 2
        assert seen[0] == "the context is walked", "what is not changed is known by now"
