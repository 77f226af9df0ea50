"""RUN above very many files, where a command begins before the layers below it are put together."""

from __future__ import annotations

from pathlib import Path

import pytest

import engine.layer.tree as trees
from engine import Engine
from engine.layer.glance import Glance

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

DOCKERFILE = """\
FROM {base}
RUN mkdir /many && cd /many && i=0 && while [ $i -lt 4200 ]; do : > $i; i=$((i+1)); done \\
    && echo 'some:x:77:88::/home/some:/bin/sh' >> /etc/passwd && chown -R 77 /many
USER some
RUN test "$(id -u):$(id -g):$HOME" = 77:88:/home/some && rm -r /many/1* && touch /many/mine
USER 0
RUN test ! -e /many/1 && test ! -e /many/1999 && test -e /many/2000 && test -e /many/mine && test "$(ls /many | wc -l)" = 3090
"""


async def test_what_a_command_has_to_know_of_them_is_looked_up(engine: Engine, base: str, memory: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    clear: list[bool] = []

    class Counted(Glance):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]  # handed on as they are
            clear.append(self._clear)

    monkeypatch.setattr(trees, "Glance", Counted)
    context = write_context(memory / "app", DOCKERFILE.format(base=base))
    done = await engine.build(request(context, push=False))
    assert clear == [True]  # the second command's; the others find a tree, or nearly one
    assert done.ran == 3
