"""Steps above very many files, which do not wait for the layers below them to be put together."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import Engine, Settings
from engine.layer.tree import Tree
from engine.solve.steps import run

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

DOCKERFILE = """\
FROM {base}
RUN mkdir /many && cd /many && i=0 && while [ $i -lt 4200 ]; do : > $i; i=$((i+1)); done \\
    && echo 'some:x:77:88::/home/some:/bin/sh' >> /etc/passwd && chown -R 77 /many
USER some
RUN test "$(id -u):$(id -g):$HOME" = 77:88:/home/some && rm /many/11* && touch /many/mine
USER 0
WORKDIR /home/app/new
COPY f /many/new/
RUN test -f /many/new/f && test ! -e /many/1199 && test -e /many/2000 && test -e /many/mine && test "$(ls /many | wc -l)" = 4091
"""


async def test_what_has_to_be_known_of_them_is_looked_up(engine: Engine, base: str, memory: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    merged: list[int] = []
    grow = Tree._grow

    def watched(self: Tree) -> None:
        merged.append(self._layers)
        grow(self)

    monkeypatch.setattr(Tree, "_grow", watched)
    monkeypatch.setattr(run, "SHORT", 3600)
    context = write_context(memory / "app", DOCKERFILE.format(base=base), f="x")
    done = await engine.build(request(context, push=False))
    assert done.ran == 5
    assert merged == [1]  # the base, which is small


async def test_commands_that_last_have_them_put_together_meanwhile(engine: Engine, base: str, memory: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(run, "SHORT", 0)
    context = write_context(memory / "app", DOCKERFILE.format(base=base), f="x")
    first = await engine.build(request(context, push=False, build_args={"SOURCE_DATE_EPOCH": "1600000000"}, rewrite_timestamp=True))
    async with Engine(Settings(memory / "other")) as other:
        monkeypatch.setattr(run, "SHORT", 3600)
        again = await other.build(request(context, push=False, build_args={"SOURCE_DATE_EPOCH": "1600000000"}, rewrite_timestamp=True))
    assert (first.ran, first.digest) == (5, again.digest)
