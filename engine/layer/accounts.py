"""Who a USER or `--chown` is, from an image's etc/passwd and etc/group.

The rules are those of moby/sys/user (`GetExecUser`), which BuildKit and runc go by: a number is a number even if there is a user of
that name, the first matching line counts, lines and fields that make no sense count as empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from engine.errors import RunError
from engine.layer.base import FileTree
from engine.layer.resolve import resolve

_NUMBER = re.compile(r"[+-]?[0-9]+")
_MOST = 2**31 - 1


class Account(Struct, frozen=True):
    """Who a process is: `groups` are the supplementary groups, with `gid` first; `home` is an absolute path."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str = "/"


def lookup_account(user: str, tree: FileTree) -> Account:
    """The account of a USER as text (`name`, `number`, either with `:group`; empty for root) in an image. Raises `RunError`."""
    return find_account(user, consulted(tree, b"etc/passwd"), consulted(tree, b"etc/group"))


def lookup_owner(user: str, tree: FileTree) -> tuple[int, int]:
    """uid and gid of a `--chown` or of WORKDIR's user in an image."""
    return find_owner(user, consulted(tree, b"etc/passwd"), consulted(tree, b"etc/group"))


lookup_chown = lookup_owner


def consulted(tree: FileTree, path: bytes) -> bytes:
    """The content of a small file of an image, whose symlinks are followed; empty when it is not there."""
    try:
        return tree.read(resolve(tree, path))
    except KeyError:
        return b""


def find_account(user: str, passwd: bytes, group: bytes) -> Account:
    """As `lookup_account`, with the contents of the files."""
    name, group_name = [*user.split(":"), ""][:2]
    users = list(_users(passwd))
    if not user:
        return Account(0, 0, (0,), _home(0, users))
    number = _number(name)
    found = next((u for u in users if (u.name == name if number is None and name else u.uid == (number or 0))), None)
    if found:
        uid, gid = found.uid, found.gid
    elif number is None and name:
        raise RunError(f"unable to find user {name}: no matching entries in passwd file",
                       hint="make the user in an earlier step, or write its number")  # fmt: skip
    else:
        uid, gid = _ranged(number or 0), 0
    extra: list[int] = []
    if group_name:
        gid = _group(group_name, group)
    elif found:
        extra = [g.gid for g in _groups(group) if found.name in g.members]
    return Account(uid, gid, tuple(dict.fromkeys([gid, *extra])), _home(uid, users))


def find_owner(user: str, passwd: bytes, group: bytes) -> tuple[int, int]:
    """uid and gid of a `--chown`: a number alone is both, a name's group is the one of its line, and a name that is not there is
    root, as with BuildKit."""
    name, colon, group_name = user.partition(":")
    number = _number(name)
    uid = gid = 0
    if number is not None:
        uid = gid = number
    elif found := next((u for u in _users(passwd) if u.name == name), None):
        uid, gid = found.uid, found.gid
    if colon:
        number = _number(group_name)
        known = number if number is not None else next((g.gid for g in _groups(group) if g.name == group_name), None)
        gid = gid if known is None else known
    return uid, gid


class _User(Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


class _Group(Struct, frozen=True):
    name: str
    gid: int
    members: tuple[str, ...]


def _users(passwd: bytes) -> Iterator[_User]:
    for fields in _lines(passwd, 7):
        yield _User(fields[0], _number(fields[2]) or 0, _number(fields[3]) or 0, fields[5])


def _groups(group: bytes) -> Iterator[_Group]:
    for fields in _lines(group, 4):
        yield _Group(fields[0], _number(fields[2]) or 0, tuple(member for member in fields[3].split(",") if member))


def _lines(data: bytes, fields: int) -> Iterator[list[str]]:
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if line := line.strip():
            yield [*line.split(":"), *[""] * fields][:fields]


def _group(name: str, group: bytes) -> int:
    number = _number(name)
    for known in _groups(group):
        if known.gid == number if number is not None else known.name == name:
            return known.gid
    if number is None:
        raise RunError(f"unable to find group {name}: no matching entries in group file",
                       hint="make the group in an earlier step, or write its number")  # fmt: skip
    return _ranged(number)


def _home(uid: int, users: list[_User]) -> str:
    return next((user.home for user in users if user.uid == uid), "") or "/"


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def _ranged(number: int) -> int:
    if not 0 <= number <= _MOST:
        raise RunError(f"uids and gids must be in range 0-{_MOST}")
    return number
