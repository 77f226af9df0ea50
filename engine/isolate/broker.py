"""What a user namespace refuses to a step of root and a container of docker's allows, done for it by the supervisor: making
device nodes, and listening on ports below 1024.

A filter stops these calls and no others (`engine.isolate.seccomp`); the supervisor, which is outside the user namespace, answers
them. It does so only for who would be allowed to by the capabilities it has in its own user namespace; every other call goes
its way in the kernel, which decides for itself. What the step's memory says is read once. A node is made by a process that
has the caller's root, directory, groups, umask and capabilities, and follows none of the links of /proc, so no name leads out
of the root; and only where no device can be opened (`nodev`), as everywhere in a step. Sources: seccomp_unotify(2), mknod(2),
bind(2), openat2(2), capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat
from collections.abc import Callable
from errno import EBADF, EEXIST, EFAULT, EIO, ENAMETOOLONG, ENOENT, ENOSYS, EPERM

from msgspec import Struct

from engine.isolate import seccomp, syscalls
from engine.isolate.seccomp import Notification, at_least, end, equal, jump, load, mask, program

_MKNOD = {"x86_64": 133}
_MKNODAT = {"x86_64": 259, "aarch64": 33, "riscv64": 33}
_BIND = {"x86_64": 49, "aarch64": 200, "riscv64": 200}
_PIDFD_GETFD = 438
_CAP_NET_BIND_SERVICE = 1 << 10
_CAP_MKNOD = 1 << 27
_AT_FDCWD = -100
_PATH_MAX = 4096
_ADDRESS_MAX = 128
_S_IFMT = 0o170000
_PRIVILEGED_PORTS = range(1, 1024)


def subscribe() -> int:
    """Puts the caller, and what it starts or becomes, under the filter; returns the descriptor for `Broker`. Raises `OSError` where
    that is not possible: the calls are refused then, as the kernel does."""
    machine = os.uname().machine
    if machine not in _MKNODAT:
        raise OSError(ENOSYS, "no filter for this processor")
    return seccomp.listen(program(
        load(seccomp.ARCHITECTURE),
        equal(seccomp.AUDIT[machine], otherwise="allowed"),
        load(seccomp.CALL),
        at_least(seccomp.X32, "allowed"),
        equal(_BIND[machine], "asked"),
        equal(_MKNODAT[machine], "mknodat"),
        equal(_MKNOD.get(machine, _MKNODAT[machine]), otherwise="allowed"),
        load(seccomp.argument(1)),
        jump("kind"),
        "mknodat", load(seccomp.argument(2)),
        "kind", mask(_S_IFMT),
        equal(stat.S_IFCHR, "asked"),
        equal(stat.S_IFBLK, "asked"),
        "allowed", end(seccomp.ALLOW),
        "asked", end(seccomp.NOTIFY),
    ))  # fmt: skip


def user_namespace(thread: int) -> int:
    """What names the user namespace of a thread, as long as that exists."""
    return os.stat(f"/proc/{thread}/ns/user").st_ino


class Broker:
    """Answers the calls of one step. `listener` is what `subscribe` returned there, `namespace` what `user_namespace` does for a
    process of it that has not yet become the command: the command could be in one of its own, with rights of its own making."""

    def __init__(self, listener: int, namespace: int) -> None:
        self.listener = listener
        self._namespace = namespace

    def answer(self) -> bool:
        """Answers a call, if one waits; returns False when none will come any more."""
        try:
            notification = seccomp.receive(self.listener)
        except EOFError:
            return False
        if notification is not None:
            seccomp.answer(self.listener, notification, self._result(notification))
        return True

    def _result(self, notification: Notification) -> int | None:
        """0 or an error number; None to let the kernel answer."""
        try:
            caller = _Caller.of(notification.thread)
            if caller is None or caller.namespace != self._namespace:
                return None
            if notification.call in _BIND.values():
                return self._bind(notification, caller)
            return self._make_node(notification, caller)
        except OSError as error:
            return error.errno or EIO

    def _bind(self, notification: Notification, caller: _Caller) -> int | None:
        fd, address, length = notification.arguments[:3]
        if not caller.capabilities & _CAP_NET_BIND_SERVICE or not 4 <= length <= _ADDRESS_MAX:
            return None
        data = _memory(notification.thread, address, length)
        family = int.from_bytes(data[:2], "little")
        if family not in (socket.AF_INET, socket.AF_INET6) or int.from_bytes(data[2:4], "big") not in _PRIVILEGED_PORTS:
            return None
        process = os.pidfd_open(caller.process)
        try:
            theirs = syscalls.syscall(_PIDFD_GETFD, process, fd, 0)
        finally:
            os.close(process)
        try:
            if not seccomp.waiting(self.listener, notification):
                return None
            buffer = ctypes.create_string_buffer(data, len(data))
            syscalls.syscall(_BIND[os.uname().machine], theirs, ctypes.addressof(buffer), len(data))
        finally:
            os.close(theirs)
        return 0

    def _make_node(self, notification: Notification, caller: _Caller) -> int | None:
        if not caller.capabilities & _CAP_MKNOD or caller.user:
            return None
        at, *rest = notification.arguments
        if notification.call in _MKNOD.values():
            at, rest = _AT_FDCWD, list(notification.arguments)
        address, mode, device = rest[:3]
        path, ended, _ = _memory(notification.thread, address, _PATH_MAX).partition(b"\0")
        if not path or not ended:
            return ENAMETOOLONG if path else ENOENT
        directory = ctypes.c_int(at & 0xFFFFFFFF).value
        place = "cwd" if path.startswith(b"/") or directory == _AT_FDCWD else f"fd/{directory}"
        root = os.open(f"/proc/{notification.thread}/root", os.O_PATH | os.O_CLOEXEC)
        try:
            try:
                start = os.open(f"/proc/{notification.thread}/{place}", os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                return EBADF
            try:
                if not seccomp.waiting(self.listener, notification):
                    return None
                return caller.perform(root, start, lambda: _mknod(path, mode & 0xFFFF, device & 0xFFFFFFFF))
            finally:
                os.close(start)
        finally:
            os.close(root)


class _Caller(Struct, frozen=True):
    """Who makes a call: ids for files, as they are outside, and effective capabilities, as they are inside."""

    process: int
    user: int
    group: int
    groups: tuple[int, ...]
    umask: int
    capabilities: int
    namespace: int

    @classmethod
    def of(cls, thread: int) -> _Caller | None:
        """None if it has ended."""
        try:
            with open(f"/proc/{thread}/status") as file:
                lines = dict(line.split(":", 1) for line in file)
            namespace = user_namespace(thread)
        except FileNotFoundError:
            return None
        return cls(int(lines["Tgid"]), int(lines["Uid"].split()[3]), int(lines["Gid"].split()[3]),
                   tuple(map(int, lines["Groups"].split())), int(lines["Umask"], 8), int(lines["CapEff"], 16), namespace)

    def perform(self, root: int, start: int, action: Callable[[], int]) -> int:
        """What `action` returns, or the number of the error it raises, in a process that has the caller's root, working
        directory, groups, umask and capabilities."""
        pid = os.fork()
        if pid:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return status if status >= 0 else EIO  # the step sees this process and may end it
        status = EIO
        try:
            os.fchdir(root)
            os.chroot(".")
            os.fchdir(start)
            os.closerange(0, 1 << 16)
            os.setgroups(self.groups)
            os.setresgid(self.group, self.group, self.group)
            os.umask(self.umask)
            syscalls.capset(self.capabilities & syscalls.capabilities(), self.capabilities & syscalls.capabilities())
            status = action()
        except OSError as error:
            status = error.errno or EIO
        finally:
            os._exit(status)


def _mknod(path: bytes, mode: int, device: int) -> int:
    directory, _, name = path.rpartition(b"/")
    if path.startswith(b"/"):
        directory = directory or b"/"
    parent = syscalls.open_directory(directory or b".")
    if not os.fstatvfs(parent).f_flag & os.ST_NODEV:
        return EPERM
    if name in (b"", b".", b".."):
        return EEXIST
    os.mknod(name, mode, device, dir_fd=parent)
    return 0


def _memory(thread: int, address: int, length: int) -> bytes:
    """What a thread has at an address, less where its memory ends before."""
    fd = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, length, address)
    except (OSError, OverflowError) as error:
        raise OSError(EFAULT, "bad address") from error
    finally:
        os.close(fd)
