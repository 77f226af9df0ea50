"""What a fork server answers, as its caller sees it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import cast

import pytest

from engine.errors import IsolationError
from engine.workers.channel import Channel
from engine.workers.server import Server


class Answering:
    """The channel of a server that gives one answer to everything."""

    def __init__(self, answer: tuple[bool, object]) -> None:
        self.answer = answer

    async def send(self, message: object, fds: Sequence[int] = ()) -> None: ...

    async def receive(self) -> tuple[bool, object]:
        return self.answer


def server(ok: bool, answer: object) -> Server:
    return Server(cast("subprocess.Popen[bytes]", None), cast("Channel", Answering((ok, answer))), os.memfd_create("log"))


async def test_a_pipe_that_broke_in_the_server_is_not_taken_for_our_standard_output() -> None:
    """As when somebody kills what it has just forked: the command line would end without a word."""
    with pytest.raises(IsolationError, match="a process died") as caught:
        await server(False, BrokenPipeError(32, "Broken pipe")).request(("worker", None))
    assert isinstance(caught.value.__cause__, BrokenPipeError)


async def test_other_answers_are_as_they_are() -> None:
    assert await server(True, 7).request(("worker", None)) == 7
    with pytest.raises(IsolationError, match=r"^no$"):
        await server(False, IsolationError("no")).request(("worker", None))
