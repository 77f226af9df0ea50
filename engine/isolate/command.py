"""Forking the command's process and waiting for it: what both kinds of isolation have in common."""

from __future__ import annotations

import os
import pickle
import select
import signal
from collections.abc import Callable

from engine.errors import EngineError, IsolationError
from engine.isolate import process, syscalls
from engine.isolate.base import IdMap, RunSpec
from engine.isolate.host import Streams
from engine.isolate.supervise import Watch


def run(spec: RunSpec, ids: IdMap, streams: Streams, watch: Watch, *, enter: Callable[[], None],
        kill: Callable[[int], None], attend: Callable[[int], None] = lambda _pid: None) -> int:
    """Forks a child that makes the root its own with `enter` and becomes the command, and waits for it. Returns its exit code,
    128 + signal number if a signal ended it, and 126 or 127 if it cannot be executed, which it then says on its standard
    error. `attend` is called with the process id while the child enters, and `kill` if nobody waits any more. Raises
    `EngineError` if `enter` fails."""
    failed, failure = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(failed)
        _child(spec, ids, streams, enter, failure)
    os.close(failure)
    attend(pid)
    status = watch.wait(pid, lambda: kill(pid))
    with open(failed, "rb") as pipe:
        said = pipe.read()
    if said:
        error = pickle.loads(said)
        if not isinstance(error, process.CommandError):
            raise error
        os.write(streams.stderr, os.fsencode(error.message) + b"\n")
        return error.status
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _has_no_reader(pipe: int) -> bool:
    waiting = select.poll()
    waiting.register(pipe, 0)
    return bool(waiting.poll(0))


def _child(spec: RunSpec, ids: IdMap, streams: Streams, enter: Callable[[], None], failure: int) -> None:
    """Becomes the command, or says on `failure` why not, and ends."""
    try:
        signal.set_wakeup_fd(-1)
        process.standard_streams(streams.stdin, streams.stdout, streams.stderr)
        try:
            enter()
        except OSError as error:
            raise IsolationError(f"the root cannot be entered: {error}") from error
        try:
            os.chdir(spec.cwd)
        except OSError as error:
            raise process.CommandError(f'chdir to "{spec.cwd}": {(error.strerror or "").lower()}',
                                       process.NOT_EXECUTABLE) from error
        process.become(spec, ids)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if _has_no_reader(failure):  # the supervisor has been killed already: nobody would end us
            os._exit(255)
        process.execute(spec)
    except (EngineError, process.CommandError) as error:
        os.write(failure, pickle.dumps(error))
    except BaseException as error:
        os.write(failure, pickle.dumps(RuntimeError(f"{type(error).__name__} in the child: {error}")))
    finally:
        os._exit(255)
