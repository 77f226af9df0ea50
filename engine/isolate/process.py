"""The last things a child does before it becomes the command: its input and output, who it is, what it may do, and exec.

Capabilities are docker's default set: the user's root keeps those, everyone else has them only in the bounding set, so that
set-user-ID programs work (`no_new_privs` is not set). Sources: capabilities(7), docker's default set, runc's init.
"""

from __future__ import annotations

import os
import signal
import stat
from errno import EACCES, ENOENT, ENOEXEC, ENOTDIR

from engine.isolate import syscalls
from engine.isolate.base import IdMap, RunSpec

# chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod audit_write setfcap
_DEFAULT_CAPABILITIES = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
_SETPCAP = 1 << 8

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

NOT_FOUND = 127
NOT_EXECUTABLE = 126


class CommandError(Exception):
    """The command cannot be executed, through its own fault: a message as the Go runtimes word it, and an exit code."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.message = message
        self.status = status


def unmapped(spec: RunSpec, ids: IdMap) -> str | None:
    """Why the step's user or groups, or the owners of its mounts, cannot exist here; None if they can."""
    wanted = [("uid", spec.uid), ("gid", spec.gid), *(("gid", group) for group in spec.groups)]
    for mount in spec.mounts:
        wanted += [("uid", getattr(mount, "uid", 0)), ("gid", getattr(mount, "gid", 0))]
    for what, number in wanted:
        if not ids.holds(number, number):
            if ids.kind == "single":
                return f"this step needs {what} {number}, but only one id can be mapped for this user"
            return f"this step needs {what} {number}, but only ids 0 to {ids.count - 1} can be mapped for this user"
    return None


def standard_streams(stdin: int, stdout: int, stderr: int) -> None:
    """Makes the descriptors the child's 0, 1 and 2, in a session of its own."""
    os.setsid()
    for number, fd in enumerate((stdin, stdout, stderr)):
        os.dup2(fd, number)


def become(spec: RunSpec, ids: IdMap) -> None:
    """Bounds the capabilities and takes on the step's user and groups. The caller is root of its user namespace."""
    available = syscalls.capabilities()
    if available & _SETPCAP:
        for capability in range(64):
            if not _DEFAULT_CAPABILITIES >> capability & 1:
                try:
                    syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
                except OSError:
                    break  # past the last one that this kernel has
    if ids.kind in ("identity", "subids"):
        os.setgroups(spec.groups)
    os.setresgid(spec.gid, spec.gid, spec.gid)
    os.setresuid(spec.uid, spec.uid, spec.uid)
    if spec.uid == 0:
        allowed = available & _DEFAULT_CAPABILITIES
        syscalls.capset(allowed, allowed)
    os.umask(0o022)


def execute(spec: RunSpec) -> None:
    """Replaces the process; raises `CommandError` if that cannot be done."""
    env = {os.fsencode(key): os.fsencode(value) for key, value in spec.env}
    path = _find(spec.argv[0], env.get(b"PATH", _DEFAULT_PATH.encode()))
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(path, [os.fsencode(word) for word in spec.argv], env)
    except OSError as error:
        reasons = {EACCES: "permission denied", ENOENT: "no such file or directory", ENOEXEC: "exec format error"}
        reason = reasons.get(error.errno or 0, (error.strerror or "").lower())
        raise CommandError(f"exec {os.fsdecode(path)}: {reason}",
                           NOT_FOUND if error.errno == ENOENT else NOT_EXECUTABLE) from error


def _find(command: str, path: bytes) -> bytes:
    """The file of a command, as Go's exec.LookPath finds it."""
    quoted = '"' + command.replace("\\", "\\\\").replace('"', '\\"') + '"'
    name = os.fsencode(command)
    if b"/" in name:
        try:
            if stat.S_ISDIR(os.stat(name).st_mode):
                raise CommandError(f"exec: {quoted}: is a directory", NOT_EXECUTABLE)
        except OSError as error:
            missing = error.errno in (ENOENT, ENOTDIR)
            reason = f"stat {command}: no such file or directory" if missing else "permission denied"
            raise CommandError(f"exec: {quoted}: {reason}", NOT_FOUND if missing else NOT_EXECUTABLE) from error
        if not os.access(name, os.X_OK):
            raise CommandError(f"exec: {quoted}: permission denied", NOT_EXECUTABLE)
        return name
    for directory in path.split(b":") if name else []:
        candidate = os.path.join(directory or b".", name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise CommandError(f"exec: {quoted}: executable file not found in $PATH", NOT_FOUND)
