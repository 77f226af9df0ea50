"""RUN for root without CAP_SYS_ADMIN, in a container with default capabilities: chroot(2), and nothing mounted.

What mounts would do is done with the files themselves, by `engine.isolate.stage`, and undone by the supervisor when the command
has ended, however it ended. There is no pid namespace either: the supervisor is the subreaper of everything the command starts,
and kills descendants until there are none. This keeps a build apart from its surroundings, it does not confine root; the
container around it does. There is no /proc and no /sys inside.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress

from engine.errors import IsolationError
from engine.isolate import command, syscalls
from engine.isolate.base import DirectoryRoot, RunSpec
from engine.isolate.host import Host, Streams
from engine.isolate.network import forbid_network, leave_network
from engine.isolate.overlay import require_exec
from engine.isolate.stage import Stage
from engine.isolate.supervise import Watch


def supervise(spec: RunSpec, host: Host, streams: Streams, ended: Callable[[int], None]) -> None:
    """Like `engine.isolate.userns.supervise`."""
    if not isinstance(spec.root, DirectoryRoot):
        raise IsolationError("isolation chroot runs in plain directories only")
    filtered = spec.network == "none" and not _left_network()
    root = spec.root.path
    require_exec(root)
    watch = Watch(streams.control)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    stage = Stage(root)
    try:
        try:
            stage.make(spec, watch)
        except OSError as error:
            raise IsolationError(f"the root cannot be set up: {error}") from error
        try:
            status = command.run(spec, host.environment.ids, streams, watch, enter=lambda: _enter_root(root, filtered),
                                 kill=lambda pid: os.kill(pid, signal.SIGKILL))
        finally:
            end_descendants()
    finally:
        stage.remove()
    ended(status)


def _left_network() -> bool:
    """Whether a network namespace could be made."""
    try:
        leave_network()
    except OSError:
        return False
    return True


def _enter_root(path: str, filtered: bool) -> None:
    """In the child: makes the root its root."""
    os.chroot(path)
    if filtered:
        try:
            forbid_network()
        except OSError as error:
            raise IsolationError("a step without network (--network=none) is not possible here: there can be neither a network "
                                 f"namespace nor a filter: {error.strerror}",
                                 hint="allow the container CAP_SYS_ADMIN or user namespaces, so that isolation userns is possible"
                                 ) from error


def end_descendants(but: Collection[int] = ()) -> None:
    """Kills everything below the caller, a subreaper, until there is nothing but the children `but` and what is theirs: what loses
    its parent becomes our child."""
    while victims := _descendants(but):
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in victims:
            with suppress(ChildProcessError):  # not ours yet: the next round sees it, if it still is there
                os.waitpid(pid, 0)


def _descendants(but: Collection[int]) -> list[int]:
    """The processes below this one, as /proc shows them now, ended ones that nobody has waited for among them."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found = [pid for pid in children.get(os.getpid(), ()) if pid not in but]
    for pid in found:
        found += children.get(pid, ())
    return found
