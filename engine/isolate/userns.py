"""RUN in namespaces: user, mount, pid, ipc, uts and, for `network none`, net. The user namespace is the fork server's if it has
one; else the step gets its own (`engine.isolate.nested`).

Two processes do it. The *supervisor* (one for each run, forked from the fork server) mounts root, devices and the spec's
mounts in a mount namespace of its own, and stays outside the root. Its *child*, process 1 of the new pid namespace, clones
that mount namespace, mounts /proc, makes the root its root, gives up privileges and becomes the command. When the command
ends, or the control socket closes, the kernel ends everything in the pid namespace; then the supervisor detaches the mounts
and takes away the mount points it had to create, through directories it has held open. What it could not do dies with it:
there is no state outside its namespaces but the root itself. An overlay then is still to be taken down by the kernel, which for
one in which 80 k files were looked at takes 0.2 s; nobody has to wait for that who only reads what the command has left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from engine.errors import IsolationError
from engine.isolate import command, process, profile, syscalls, system
from engine.isolate.base import RunSpec
from engine.isolate.host import Host, Streams
from engine.isolate.mounts import Mounts
from engine.isolate.nested import UserNamespace
from engine.isolate.network import leave_network
from engine.isolate.supervise import Watch

_NAMESPACES = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS


def supervise(spec: RunSpec, host: Host, streams: Streams, ended: Callable[[int], None]) -> None:
    """Runs the command to its end and calls `ended` with its exit code, when no process of it is left and the root is as it has
    left it; returns when nothing is mounted any more. For a process that is made for it. Raises `EngineError` if the command
    cannot be started and that is not its own fault."""
    ids = host.environment.ids
    if reason := process.unmapped(spec, ids):
        raise IsolationError(reason, hint="ask for subordinate ids in /etc/subuid and /etc/subgid "
                                          "(usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER)")
    watch = Watch(streams.control)
    _leave_host(spec)
    mounts = Mounts(host)
    try:
        try:
            mounts.make(spec, watch)
            syscalls.unshare(syscalls.CLONE_NEWPID)
        except OSError as error:
            raise IsolationError(f"the root cannot be set up: {error}") from error
        namespace = UserNamespace() if host.environment.user_namespace == "step" else None

        def enter() -> None:
            _enter_root(mounts.root)
            if namespace:
                namespace.enter()
            with suppress(OSError):  # an old kernel, or a filter around us, which then is the one that counts
                profile.apply()

        def attend(child: int) -> None:
            if namespace:
                namespace.attend(child, watch)

        status = command.run(spec, ids, streams, watch, enter=enter, attend=attend, kill=lambda pid: os.kill(pid, signal.SIGKILL))
    finally:
        mounts.remove()
    ended(status)
    mounts.close()


def _leave_host(spec: RunSpec) -> None:
    try:
        syscalls.unshare(_NAMESPACES)
        if spec.network == "none":
            leave_network()
    except OSError as error:
        raise IsolationError(f"namespaces cannot be made: {error.strerror}",
                             hint="see /proc/sys/user/max_*_namespaces") from error
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.sethostname(os.fsencode(spec.hostname)[:64])


def _enter_root(path: str) -> None:
    """In the child: makes the root its root, with a /proc of the new pid namespace."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    system.mount_proc(path)
    os.chdir(path)
    try:
        syscalls.pivot_root(".", ".")
        syscalls.unmount(".")
    except OSError:  # the host runs from its initial ramdisk, which cannot be put away
        syscalls.mount(path, "/", None, syscalls.MS_MOVE)
        os.chroot(".")
    os.chdir("/")
    system.protect()
