"""What a worker process does: one job after another, until nobody sends any more."""

from __future__ import annotations

import os
import pickle
import socket
import traceback

from engine.errors import EngineError
from engine.workers import wire


def serve(channel: socket.socket) -> None:
    """Takes (function, arguments) messages and answers each with (True, result) or (False, exception)."""
    while True:
        try:
            job, _ = wire.receive(channel)
        except EOFError:
            return
        except Exception as error:  # a function that cannot be imported here
            wire.send(channel, (False, _portable(error)))
            continue
        answer = _answer(*job)
        try:
            channel.sendall(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def _answer(function: object, args: tuple[object, ...]) -> bytes:
    try:
        result = function(*args)  # type: ignore[operator]  # whatever was pickled under that name
    except Exception as error:
        return wire.encode((False, _portable(error)))
    try:
        return wire.encode((True, result))
    except Exception as error:
        return wire.encode((False, _portable(error)))


def _portable(error: Exception) -> Exception:
    """The exception, or one that says the same and can be pickled and unpickled. What is not a user's error carries its
    traceback along as a note."""
    if not isinstance(error, (EngineError, OSError)):
        error.add_note(f"in worker process {os.getpid()}:\n{''.join(traceback.format_exception(error))}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
