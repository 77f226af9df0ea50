"""Who a USER is."""

from __future__ import annotations

import pytest

from engine.errors import RunError
from engine.layer.accounts import Account, find_account, find_owner, lookup_account, lookup_owner
from engine.layer.base import Layer
from engine.layer.entries import Entry
from engine.layer.index import Index
from engine.layer.tree import Tree

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false

# comment
toor:x:0:0::/toor:
name:x:1001:1001::/home/name:/bin/sh
1001:x:7:8::/seven:/bin/sh
homeless:x:1002:1002
odd:x:eleven:12::/odd
"""
GROUP = b"root:x:0:\ndaemon:x:1:\nname:x:1001:\nsupplementary:x:1002:other,name\nmore:x:1003:name\ntestgroup:x:99:\n"


@pytest.mark.parametrize(("user", "want"), [
    ("", Account(0, 0, (0,), "/root")),
    ("root", Account(0, 0, (0,), "/root")),
    ("toor", Account(0, 0, (0,), "/root")),  # runc goes by the number
    ("daemon", Account(1, 1, (1,), "/usr/sbin")),
    ("1234", Account(1234, 0, (0,), "/")),
    ("1234:1234", Account(1234, 1234, (1234,), "/")),
    ("name", Account(1001, 1001, (1001, 1002, 1003), "/home/name")),
    ("1001", Account(1001, 1001, (1001, 1002, 1003), "/home/name")),
    ("name:name", Account(1001, 1001, (1001,), "/home/name")),
    ("name:supplementary", Account(1001, 1002, (1002,), "/home/name")),
    ("name:4000", Account(1001, 4000, (4000,), "/home/name")),
    ("root:testgroup", Account(0, 99, (99,), "/root")),
    (":testgroup", Account(0, 99, (99,), "/root")),
    ("homeless", Account(1002, 1002, (1002,), "/")),
    ("odd", Account(0, 12, (12,), "/root")),
    ("1:1", Account(1, 1, (1,), "/usr/sbin")),
])  # fmt: skip
def test_a_user_is_found_as_runc_finds_it(user: str, want: Account) -> None:
    assert find_account(user, PASSWD, GROUP) == want


@pytest.mark.parametrize(("user", "message"), [
    ("nosuch", "unable to find user nosuch: no matching entries in passwd file"),
    ("root:nosuch", "unable to find group nosuch: no matching entries in group file"),
    ("4294967296", "uids and gids must be in range 0-2147483647"),
    ("-1", "uids and gids must be in range 0-2147483647"),
    ("0:4294967296", "uids and gids must be in range 0-2147483647"),
])  # fmt: skip
def test_a_user_that_is_none_is_an_error_in_runc_s_words(user: str, message: str) -> None:
    with pytest.raises(RunError) as error:
        find_account(user, PASSWD, GROUP)
    assert str(error.value) == message


def test_without_files_numbers_and_root_are_users() -> None:
    assert find_account("", b"", b"") == Account(0, 0, (0,), "/")
    assert find_account("5:6", b"", b"") == Account(5, 6, (6,), "/")
    with pytest.raises(RunError):
        find_account("root", b"", b"")


@pytest.mark.parametrize(("text", "want"), [
    ("daemon", (1, 1)), ("1000", (1000, 1000)), ("1000:daemon", (1000, 1)), ("name:7", (1001, 7)), ("nosuch", (0, 0)),
    ("name:nosuch", (1001, 1001)), ("300:400", (300, 400)), (":testgroup", (0, 99)), ("nosuch:nosuch", (0, 0)),
])  # fmt: skip
def test_an_owner_is_found_as_buildkit_finds_it(text: str, want: tuple[int, int]) -> None:
    assert find_owner(text, PASSWD, GROUP) == want


def test_the_files_are_read_through_links_of_the_image(layer: Layer) -> None:
    entries = [Entry(b"etc", "symlink", link=b"/system/etc"), Entry(b"system/etc/passwd", "file"), Entry(b"system/etc/group", "file")]
    files = {b"system/etc/passwd": PASSWD, b"system/etc/group": GROUP}
    tree = Tree.empty().extended(layer, Index(entries, files))
    assert lookup_account("daemon", tree).home == "/usr/sbin"
    assert lookup_owner("name:more", tree) == (1001, 1003)
    assert lookup_owner("name", Tree.empty()) == (0, 0)


@pytest.fixture
def layer() -> Layer:
    return None  # type: ignore[return-value]  # a tree looks at the index only
