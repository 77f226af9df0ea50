"""Beside a command, the layers below it are put together."""

from __future__ import annotations

from threading import Event
from typing import cast

import anyio
import anyio.lowlevel
import pytest

from engine.errors import ContentError, RunError
from engine.layer.base import Layer
from engine.layer.entries import Entry
from engine.layer.index import Index
from engine.layer.tree import Tree
from engine.solve.steps.run import put_together

LAYER = cast(Layer, None)  # a tree looks at the index only
BROKEN = Tree.empty().extended(LAYER, Index([Entry(b"f", "file")])).extended(LAYER, Index([Entry(b"f/x", "file")]))


class Slow:
    """Stands for a tree that takes its time."""

    def __init__(self) -> None:
        self.allowed = Event()
        self.done = False

    def grow(self) -> None:
        self.allowed.wait(10)
        self.done = True


async def test_the_block_runs_meanwhile_and_can_wait() -> None:
    tree = Slow()
    async with put_together(cast(Tree, tree)) as ended:
        await anyio.lowlevel.checkpoint()
        assert not tree.done and not ended.is_set()
        tree.allowed.set()
        await ended.wait()
        assert tree.done


async def test_layers_that_make_no_sense_end_the_block() -> None:
    with pytest.raises(ContentError, match="no directory"):
        async with put_together(BROKEN):
            await anyio.sleep_forever()


async def test_they_count_more_than_what_the_block_comes_to() -> None:
    with pytest.raises(ContentError, match="no directory"):
        async with put_together(BROKEN) as ended:
            with anyio.CancelScope(shield=True):
                await ended.wait()
            raise RunError("not found", status=127, output=[])


async def test_what_fails_in_the_block_is_raised_as_it_is() -> None:
    with pytest.raises(RunError, match="not found"):
        async with put_together(Tree.empty()):
            raise RunError("not found", status=127, output=[])
