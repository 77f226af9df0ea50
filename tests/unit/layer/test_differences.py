"""How two layers differ."""

from __future__ import annotations

import pytest

from engine.layer.differences import ONLY_NEW, ONLY_OLD, differences
from engine.layer.entries import Entry

FILE = Entry(b"f", "file", 0o644, 1, 2, 3, 4, digest="a" * 64)


def test_equal_layers_do_not_differ_and_times_do_not_count() -> None:
    assert differences([FILE], [FILE._replace(mtime=5)]) == {}


@pytest.mark.parametrize(("other", "what"), [
    (FILE._replace(digest="b" * 64), "content"), (FILE._replace(size=4), "content"), (FILE._replace(mode=0o600), "mode"),
    (FILE._replace(uid=0), "owner"), (FILE._replace(gid=0), "owner"), (FILE._replace(xattrs=(("user.a", b""),)), "extended attribute"),
    (FILE._replace(kind="dir"), "kind"), (FILE._replace(mode=0o600, uid=0), "mode and owner"),
])  # fmt: skip
def test_what_is_another_is_said(other: Entry, what: str) -> None:
    assert differences([FILE], [other]) == differences([other], [FILE]) == {b"f": f"has another {what}"}


def test_links_and_devices_have_targets_and_numbers() -> None:
    link, device = Entry(b"l", "symlink", 0o777, link=b"a"), Entry(b"n", "char", 0o600, major=1, minor=2)
    changed = [link._replace(link=b"b"), device._replace(minor=3)]
    assert differences([link, device], changed) == {b"l": "has another target", b"n": "has another device number"}


def test_paths_that_come_and_go_are_in_order() -> None:
    gone, new, removed = FILE._replace(path=b"a"), FILE._replace(path=b"z"), Entry(b"m", "whiteout")
    assert list(differences([gone, FILE], [new, removed, FILE]).items()) == [(b"a", ONLY_OLD), (b"m", ONLY_NEW), (b"z", ONLY_NEW)]
