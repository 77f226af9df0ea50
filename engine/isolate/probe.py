"""What this machine, user and container let us do. Nothing is guessed from versions: each thing is tried, in the way it will be
used, and what was refused is explained as far as the kernel lets one know.

The order of preference is: namespaces as root with CAP_SYS_ADMIN, each step in a user namespace of its own where the kernel makes
any; namespaces within a user namespace, with all ids for root, subordinate ids or a single one for others; `chroot` for root;
nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from engine.errors import EngineError, IsolationError
from engine.isolate import idmap, refusals, syscalls
from engine.isolate.base import Environment, IdMap
from engine.isolate.idmap import MapError, Maps
from engine.isolate.overlay import Xattrs, mount_overlay

_CAP_SYS_ADMIN = 1 << 21
_CAP_SYS_CHROOT = 1 << 18
_ALL_IDS = (1 << 32) - 1


class Wishes(Struct, frozen=True):
    """What the settings ask for. `scratch` is an existing directory on the filesystem that roots will be on."""

    isolation: Literal["auto", "userns", "chroot"]
    snapshots: Literal["auto", "overlay", "walk"]
    scratch: str


def enter(wishes: Wishes) -> Environment:
    """Puts the caller into the best environment that can be had, and says which it is. Raises `IsolationError` if the settings
    insist on one that is not possible.

    The caller must have a single thread. Where a user namespace is needed this returns in a child of the caller; the caller
    itself waits for that child's end and ends with it.
    """
    reasons: list[str] = []
    if wishes.isolation != "chroot":
        for attempt in (_as_root, _in_user_namespace):
            environment = attempt(wishes, reasons)
            if environment:
                return environment
        if wishes.isolation == "userns":
            raise IsolationError("isolation userns is not possible: " + "; ".join(reasons),
                                 hint=refusals.hint(reasons) or "--isolation chroot works for root, in a container for example")
    if wishes.snapshots == "overlay":
        raise IsolationError("overlay snapshots need isolation userns" + "".join(f"; {reason}" for reason in reasons),
                             hint=refusals.hint(reasons))
    if os.geteuid() == 0 and syscalls.capabilities() & _CAP_SYS_CHROOT:
        said = (*reasons, "isolation: chroot (nothing mounted; processes are not hidden from each other)", "snapshots: walk")
        return Environment("chroot", "walk", _ids_of_root(), reasons=said)
    lacking = "not root" if os.geteuid() else "no CAP_SYS_CHROOT"
    if wishes.isolation == "chroot":
        raise IsolationError(f"isolation chroot is not possible: {lacking}", hint="use --isolation userns, or be root")
    said = (*reasons, f"isolation: chroot is not possible: {lacking}", "isolation: none, so RUN is not possible")
    return Environment(None, "walk", _ids_of_root() if os.geteuid() == 0 else IdMap("none"), reasons=said)


def _as_root(wishes: Wishes, reasons: list[str]) -> Environment | None:
    if os.geteuid() != 0:
        return None
    if not syscalls.capabilities() & _CAP_SYS_ADMIN:
        reasons.append("isolation: root, but without CAP_SYS_ADMIN")
        return None
    try:
        _own_mounts()
    except OSError as error:
        reasons.append(f"isolation: root with CAP_SYS_ADMIN, but namespaces cannot be made: {error}")
        return None
    refused = _refused_namespace()
    if refused:
        reasons.append(f"isolation: userns (root: mount, pid, ipc, uts namespaces; user namespaces are not possible: {refused})")
    else:
        reasons.append("isolation: userns (root: user, mount, pid, ipc, uts namespaces; every id is itself)")
    environment = _with_snapshots(wishes, reasons, _ids_of_root(), ("trusted", "user"))
    return environment if refused else replace(environment, user_namespace="step")


def _refused_namespace() -> str:
    """Why a step of root cannot have a user namespace of its own; empty if it can."""
    asked, ask = os.pipe2(os.O_CLOEXEC)
    answered, answer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(asked)
        os.close(answer)
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.write(ask, b"U")
            os.read(answered, 1)
        except OSError as error:
            os.write(ask, refusals.explain(error).encode())
        finally:
            os._exit(0)
    os.close(ask)
    os.close(answered)
    try:
        said = os.read(asked, 4096)
        if said != b"U":
            return said.decode(errors="replace") or "its first process ended"
        idmap.identity().write(child)
    except MapError as error:
        return str(error)
    finally:
        os.close(answer)
        os.close(asked)
        os.waitpid(child, 0)
    return ""


def _ids_of_root() -> IdMap:
    """Every id, unless this root is one of a user namespace that has fewer."""
    count = idmap.identity().count
    return IdMap("identity") if count >= _ALL_IDS else IdMap("subids", count)


def _in_user_namespace(wishes: Wishes, reasons: list[str]) -> Environment | None:
    uid, gid = os.geteuid(), os.getegid()
    attempts: list[Maps] = []
    if uid == 0:
        attempts.append(idmap.identity())
    else:
        found = idmap.subordinate(uid, gid, idmap.user_name(uid))
        if isinstance(found, Maps):
            attempts.append(found)
        else:
            reasons.append(f"isolation: only one id: {found}")
        attempts.append(idmap.single(uid, gid))
    for maps in attempts:
        environment = _fork_into(maps, partial(_inside, wishes, reasons, maps), reasons)
        if environment:
            return environment
    return None


def _inside(wishes: Wishes, reasons: list[str], maps: Maps) -> Environment:
    """In the new user namespace, its maps written."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    try:
        _own_mounts()
    except OSError as error:
        raise MapError(f"the user namespace has no privileges: {error.strerror}; {refusals.denial()}") from error
    if maps.writer == "newuidmap":
        ids, text = IdMap("subids", maps.count), f"ids through newuidmap: {maps.count}"
    elif maps.count > 1:
        ids, text = _ids_of_root(), "the ids of root here"
    else:
        ids, text = IdMap("single"), "one id"
    if ids.kind != "single":
        os.setgroups([])
    reasons.append(f"isolation: userns (user, mount, pid, ipc, uts namespaces; {text})")
    return replace(_with_snapshots(wishes, reasons, ids, ("user",)), user_namespace="server")


def _fork_into(maps: Maps, inside: Callable[[], Environment], reasons: list[str]) -> Environment | None:
    """Forks a child into a new user namespace. Returns in the child what `inside` does there; in the caller only if that was
    not possible, with the reason added to `reasons`. When it was, the caller stays behind as the one that waits."""
    asked, ask = os.pipe2(os.O_CLOEXEC)
    answered, answer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(asked)
        os.close(answer)
        try:
            environment = _forked(ask, answered, inside)
        except EngineError:  # what the settings insist on is not possible here, nor anywhere else
            os.write(ask, b"+")
            raise
        except BaseException as error:
            with suppress(OSError):
                os.write(ask, f"E{error}".encode())
            os._exit(1)
        os.write(ask, b"+")
        os.close(ask)
        return environment
    os.close(ask)
    os.close(answered)
    said = os.read(asked, 4096)
    if said == b"U":
        try:
            maps.write(child)
            os.write(answer, b"+")
            said = os.read(asked, 4096)
        except MapError as error:
            said = f"E{error}".encode()
    os.close(answer)
    os.close(asked)
    if said == b"+":
        _stay_behind(child)
    os.waitpid(child, 0)
    what = "subordinate ids cannot be used" if maps.writer == "newuidmap" else "userns is not possible"
    reasons.append(f"isolation: {what}: {said[1:].decode(errors='replace')}")
    return None


def _forked(ask: int, answered: int, inside: Callable[[], Environment]) -> Environment:
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except OSError as error:
        raise MapError(refusals.explain(error)) from error
    os.write(ask, b"U")
    if not os.read(answered, 1):
        raise MapError("the id maps could not be written")
    try:
        environment = inside()
    finally:
        os.close(answered)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    return environment


def _stay_behind(child: int) -> None:
    os.closerange(0, 1 << 16)
    status = os.waitpid(child, 0)[1]
    os._exit(max(0, os.waitstatus_to_exitcode(status)))


def _own_mounts() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)


def _with_snapshots(wishes: Wishes, reasons: list[str], ids: IdMap, kinds: tuple[Xattrs, ...]) -> Environment:
    refused = "the settings say so"
    if wishes.snapshots != "walk":
        for xattrs in kinds:
            refused = _try_overlay(wishes.scratch, xattrs)
            if not refused:
                said = (*reasons, f"snapshots: overlay ({xattrs} attributes)")
                return Environment("userns", "overlay", ids, xattrs, reasons=said)
        if wishes.snapshots == "overlay":
            raise IsolationError(f"overlay snapshots are not possible: {refused}",
                                 hint="put the state directory on another filesystem, or use walk snapshots")
    said = (*reasons, f"snapshots: walk (overlay: {refused})")
    return Environment("userns", "walk", ids, reasons=said)


def _try_overlay(scratch: str, xattrs: Xattrs) -> str:
    """Why an overlay with its upper directory on this filesystem does not work; empty if it does."""
    top = f"{scratch}/probe-{os.getpid()}"
    names = [f"{top}/{name}" for name in ("lower", "upper", "work", "merged")]
    lower, upper, work, merged = names
    try:
        os.mkdir(top, 0o700)
        for name in names:
            os.mkdir(name)
        os.mkdir(f"{lower}/directory")
        os.close(os.open(f"{lower}/file", os.O_CREAT | os.O_WRONLY, 0o600))
        mount_overlay((lower,), upper, work, merged, xattrs)
        try:
            os.unlink(f"{merged}/file")  # makes a whiteout
            os.rmdir(f"{merged}/directory")
            os.mkdir(f"{merged}/directory")  # makes an opaque directory
            os.getxattr(f"{upper}/directory", f"{xattrs}.overlay.opaque")
        finally:
            syscalls.unmount(merged)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        _remove(top)
    return ""


def _remove(path: str) -> None:
    with suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)  # overlayfs leaves a directory of mode 0
            for name in os.listdir(path):
                _remove(f"{path}/{name}")
            os.rmdir(path)
        else:
            os.unlink(path)

