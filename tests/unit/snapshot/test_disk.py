"""What is found on disk, as entries."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from engine.layer.entries import Entry
from engine.snapshot.disk import Names, below, entry_of, same_content


def entries(root: Path) -> dict[bytes, Entry | None]:
    return {path: entry_of(path, full, found) for path, full, found in below(bytes(root))}


def test_every_kind_and_no_sockets(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d" / "f").write_bytes(b"abc")
    os.utime(tmp_path / "d" / "f", ns=(1, 2))
    os.chmod(tmp_path / "d" / "f", 0o4711)
    (tmp_path / "l").symlink_to("nowhere")
    os.mkfifo(tmp_path / "p", 0o600)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        found = entries(tmp_path)
    assert found[b"s"] is None
    kinds = {path: entry.kind for path, entry in found.items() if entry}
    assert kinds == {b"d": "dir", b"d/f": "file", b"l": "symlink", b"p": "fifo"}
    file, link = found[b"d/f"], found[b"l"]
    assert file and (file.mode, file.size, file.mtime, file.uid) == (0o4711, 3, 2, os.geteuid())
    assert link and (link.mode, link.link, link.size) == (0o777, b"nowhere", 0)


def test_names_of_one_file_are_links_to_the_first(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("x")
    (tmp_path / "b").mkdir()
    os.link(tmp_path / "m", tmp_path / "b" / "n")
    os.link(tmp_path / "m", tmp_path / "z")
    names, found = Names(), {}
    for path, full, status in below(bytes(tmp_path)):
        entry = entry_of(path, full, status)
        assert entry
        found[path] = entry
        if entry.kind == "file":
            names.note(path, status)
    names.link(found)
    assert {path: (entry.kind, entry.link) for path, entry in found.items() if entry.kind != "dir"} == {
        b"b/n": ("file", b""), b"m": ("hardlink", b"b/n"), b"z": ("hardlink", b"b/n")}


def test_content_is_compared_to_the_last_byte(tmp_path: Path) -> None:
    one, two, three = (bytes(tmp_path / name) for name in "abc")
    Path(os.fsdecode(one)).write_bytes(b"x" * 3_000_000)
    Path(os.fsdecode(two)).write_bytes(b"x" * 3_000_000)
    Path(os.fsdecode(three)).write_bytes(b"x" * 2_999_999 + b"y")
    assert same_content(one, two)
    assert not same_content(one, three)
