"""What a fork server answers, as its caller sees it."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import cast

import pytest

from engine.errors import IsolationError
from engine.workers import wire
from engine.workers.server import Server
from engine.workers.spawn import Spawned


async def ask(ok: bool, answer: object) -> object:
    """What comes of a request to which a server answers so."""
    ours, theirs = socket.socketpair()
    log = os.memfd_create("log")
    try:
        wire.send(theirs, (ok, answer))
        return await Server(Spawned(cast("subprocess.Popen[bytes]", None), (ours, theirs), log)).request(("worker", None))
    finally:
        ours.close()
        theirs.close()
        os.close(log)


async def test_a_pipe_that_broke_in_the_server_is_not_taken_for_our_standard_output() -> None:
    """As when somebody kills what it has just forked: the command line would end without a word."""
    with pytest.raises(IsolationError, match="a process died") as caught:
        await ask(False, BrokenPipeError(32, "Broken pipe"))
    assert isinstance(caught.value.__cause__, BrokenPipeError)


async def test_other_answers_are_as_they_are() -> None:
    assert await ask(True, 7) == 7
    with pytest.raises(IsolationError, match=r"^no$"):
        await ask(False, IsolationError("no"))
