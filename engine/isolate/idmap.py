"""Which ids a user namespace of ours can map. Sources: user_namespaces(7), subuid(5), newuidmap(1)."""

from __future__ import annotations

import os
from typing import Literal

from msgspec import Struct

Extent = tuple[int, int, int]
"""First id inside, first id outside, how many."""


class MapError(Exception):
    """A map that cannot be written, with the reason."""


class Maps(Struct, frozen=True):
    """The uid and gid maps of a user namespace, and who writes them: a setuid program, or we."""

    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]
    writer: Literal["newuidmap", "direct"]

    @property
    def count(self) -> int:
        """How many ids, from 0 without a gap, exist both as user and as group."""
        return min(_from_zero(self.uids), _from_zero(self.gids))

    def write(self, pid: int) -> None:
        """Gives them to the new user namespace a process is in; called outside of it. Raises `MapError`."""
        for kind, extents in (("uid", self.uids), ("gid", self.gids)):
            numbers = [str(number) for extent in extents for number in extent]
            if self.writer == "newuidmap":
                _call([f"new{kind}map", str(pid), *numbers])
                continue
            try:
                if kind == "gid" and self.count == 1:  # who may map one group only must give up setgroups first
                    _write(f"/proc/{pid}/setgroups", "deny")
                _write(f"/proc/{pid}/{kind}_map", "".join(f"{a} {b} {c}\n" for a, b, c in extents))
            except OSError as error:
                raise MapError(f"writing {kind}_map: {error.strerror}") from error


def _from_zero(extents: tuple[Extent, ...]) -> int:
    count = 0
    for first, _, length in sorted(extents):
        if first > count:
            break
        count = max(count, first + length)
    return count


def _call(argv: list[str]) -> None:
    """Runs a program (without `subprocess`, which takes the fork server longer to import than all the rest)."""
    said, stderr = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(_which(argv[0]) or argv[0], argv, {}, file_actions=[(os.POSIX_SPAWN_DUP2, stderr, 2)])
    except OSError as error:
        raise MapError(f"{argv[0]}: {error.strerror}") from error
    finally:
        os.close(stderr)
        with open(said, "rb") as pipe:
            text = pipe.read()
    if os.waitpid(pid, 0)[1]:
        raise MapError(text.decode(errors="replace").strip() or f"{argv[0]} failed")


def _which(program: str) -> str | None:
    for directory in ("/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin", "/sbin", "/run/wrappers/bin"):
        if os.access(f"{directory}/{program}", os.X_OK):
            return f"{directory}/{program}"
    return None


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def identity() -> Maps:
    """Every id there is in this user namespace, mapped to itself."""
    return Maps(_same("/proc/self/uid_map"), _same("/proc/self/gid_map"), "direct")


def _same(path: str) -> tuple[Extent, ...]:
    with open(path) as file:
        return tuple((int(first), int(first), int(count)) for first, _, count in (line.split() for line in file))


def single(uid: int, gid: int) -> Maps:
    """Only this user and group, as 0."""
    return Maps(((0, uid, 1),), ((0, gid, 1),), "direct")


def subordinate(uid: int, gid: int, user: str | None, *, etc: str = "/etc") -> Maps | str:
    """This user and group as 0, and their subordinate ids after that; or why that is not possible."""
    uids = _ranges(f"{etc}/subuid", uid, user)
    gids = _ranges(f"{etc}/subgid", uid, user)
    if not uids or not gids:
        which = "subuid" if not uids else "subgid"
        return f"{etc}/{which} has no line for {user or uid}"
    for program in ("newuidmap", "newgidmap"):
        if _which(program) is None:
            return f"{program} is not installed (Debian: apt install uidmap)"
    return Maps(_stack(uid, uids), _stack(gid, gids), "newuidmap")


def _ranges(path: str, uid: int, user: str | None) -> list[tuple[int, int]]:
    out = []
    try:
        with open(path) as file:
            for line in file:
                parts = line.strip().split(":")
                if len(parts) == 3 and parts[0] in (user, str(uid)) and parts[1].isdigit() and parts[2].isdigit():
                    out.append((int(parts[1]), int(parts[2])))
    except OSError:
        pass
    return out


def _stack(own: int, ranges: list[tuple[int, int]]) -> tuple[Extent, ...]:
    extents: list[Extent] = [(0, own, 1)]
    for first, count in ranges:
        extents.append((sum(extent[2] for extent in extents), first, count))
    return tuple(extents)


def user_name(uid: int) -> str | None:
    """The name of a user, None if there is none."""
    import pwd  # a module of its own on some Pythons, and not needed by root

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None

