"""Beside a command, the layers below it are put together."""

from __future__ import annotations

from threading import Event
from typing import cast

import anyio
import anyio.from_thread
import pytest

from engine.errors import ContentError, RunError
from engine.layer.base import Layer
from engine.layer.entries import Entry
from engine.layer.index import Index
from engine.layer.tree import Tree
from engine.solve.steps import run
from engine.solve.steps.run import put_together

LAYER = cast(Layer, None)  # a tree looks at the index only
BROKEN = Tree.empty().extended(LAYER, Index([Entry(b"f", "file")])).extended(LAYER, Index([Entry(b"f/x", "file")]))


class Slow:
    """Stands for a tree that takes its time."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = anyio.Event()
        self.allowed = Event()
        self.done = False
        self._error = error

    def grow(self) -> None:
        anyio.from_thread.run_sync(self.begun.set)
        self.allowed.wait(10)
        self.done = True
        if self._error:
            raise self._error


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No block counts as short."""
    monkeypatch.setattr(run, "SHORT", 0)


@pytest.mark.usefixtures("at_once")
async def test_the_block_runs_meanwhile_and_can_wait() -> None:
    tree = Slow()
    async with put_together(cast(Tree, tree)) as done:
        await tree.begun.wait()
        assert not tree.done
        tree.allowed.set()
        await done()
        assert tree.done


async def test_for_a_short_block_nothing_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SHORT", 3600)
    with anyio.fail_after(5):
        async with put_together(BROKEN) as done:
            await done()
        async with put_together(BROKEN):
            pass
        with pytest.raises(RunError, match="not found"):
            async with put_together(BROKEN):
                raise RunError("not found", status=127, output=[])


@pytest.mark.usefixtures("at_once")
async def test_layers_that_make_no_sense_end_the_block() -> None:
    with pytest.raises(ContentError, match="no directory"):
        async with put_together(BROKEN):
            await anyio.sleep_forever()


@pytest.mark.usefixtures("at_once")
async def test_they_count_more_than_what_the_block_comes_to() -> None:
    broken = Slow(ContentError("no directory"))
    with pytest.raises(ContentError, match="no directory"):
        async with put_together(cast(Tree, broken)) as done:
            await broken.begun.wait()
            broken.allowed.set()
            with anyio.CancelScope(shield=True):
                await done()
            raise RunError("not found", status=127, output=[])


async def test_what_fails_in_the_block_is_raised_as_it_is() -> None:
    with pytest.raises(RunError, match="not found"):
        async with put_together(Tree.empty()):
            raise RunError("not found", status=127, output=[])
