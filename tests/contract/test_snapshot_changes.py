"""What a step changed is the same whether an overlay or a walk has seen it, and whatever isolates the step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.errors import StorageError
from tests.contract.roots import CAPABILITY, MODES, TIME, Rig, State, Tar, rig


@pytest.fixture(params=MODES)
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "state", request.param) as made:
        yield made


CASES: dict[str, tuple[str, dict[str, str]]] = {
    "nothing": ("true", {}),
    "a new file": ("echo x > /x", {"x": "file"}),
    "a file in a directory of the base": ("echo x > /data/sub/x", {"data": "dir", "data/sub": "dir", "data/sub/x": "file"}),
    "a file changed in place": ("echo y >> /data/a", {"data": "dir", "data/a": "file"}),
    "a file removed": ("rm /data/a", {"data": "dir", "data/a": "whiteout"}),
    "a directory removed": ("rm -rf /data/sub", {"data": "dir", "data/sub": "whiteout"}),
    "made and removed": ("mkdir /g && echo x > /g/f && rm -r /g; touch /etc/t; rm /etc/t", {}),
    "a directory made again": (
        "rm -rf /data/sub && mkdir /data/sub && echo n > /data/sub/n",
        {"data": "dir", "data/sub": "dir", "data/sub/c": "whiteout", "data/sub/d": "whiteout", "data/sub/n": "file"}),
    "a deep directory made again with one file as it was": (
        "cp -a /data/deep /d && rm -rf /data/deep && mv /d /data/deep && echo g > /data/deep/er/g",
        {"data": "dir", "data/deep": "dir", "data/deep/er": "dir", "data/deep/er/g": "file"}),
    "two directories change names": (
        "mv /data/sub /data/x && mv /data/deep /data/sub && mv /data/x /data/deep",
        {"data": "dir", "data/deep": "dir", "data/deep/c": "file", "data/deep/d": "file", "data/deep/er": "whiteout",
         "data/sub": "dir", "data/sub/c": "whiteout", "data/sub/d": "whiteout", "data/sub/er": "dir", "data/sub/er/f": "file"}),
    "a directory becomes a file": ("rm -r /data/sub && echo f > /data/sub", {"data": "dir", "data/sub": "file"}),
    "a directory becomes a link": ("rm -r /data/sub && ln -s /etc /data/sub", {"data": "dir", "data/sub": "symlink"}),
    "a file becomes a directory": ("rm /data/a && mkdir /data/a && echo i > /data/a/i",
                                   {"data": "dir", "data/a": "dir", "data/a/i": "file"}),
    "a link changes": ("ln -sfn deep /data/link", {"data": "dir", "data/link": "symlink"}),
    "only a mode": ("chmod 600 /data/a && chmod 2711 /data/sub", {"data": "dir", "data/a": "file", "data/sub": "dir"}),
    "a mode there and back": ("chmod 600 /data/a && chmod 644 /data/a && chmod 700 /data && chmod 755 /data", {}),
    "setuid": ("chmod u+s /data/a", {"data": "dir", "data/a": "file"}),
    "a time": ("touch -d @1 /data/a", {"data": "dir", "data/a": "file"}),
    "a time of a directory only": ("touch -d @1 /data/sub", {}),
    "content of the same size at the same time": (f"echo z > /data/a && touch -d @{TIME} /data/a",
                                                  {"data": "dir", "data/a": "file"}),
    "the same content at the same time": (f"echo a > /data/a && touch -d @{TIME} /data/a", {}),
    "hard links of a new file": ("echo n > /data/z && ln /data/z /data/y && ln /data/z /bin/n",
                                 {"bin": "dir", "bin/n": "file", "data": "dir", "data/y": "hardlink", "data/z": "hardlink"}),
    "a hard link to a file of the base": ("ln /data/a /data/sub/a2", {"data": "dir", "data/sub": "dir", "data/sub/a2": "file"}),
    "a fifo": ("mkfifo -m 640 /data/fifo", {"data": "dir", "data/fifo": "fifo"}),
    "a name that is not UTF-8": ("echo x > \"$(printf '/r\\377')\"", {"r\udcff": "file"}),
    "odd names": ("mkdir /o && cd /o && touch 'a b' \"$(printf 'n\\nl')\" '*' .wh", {
        "o": "dir", "o/a b": "file", "o/n\nl": "file", "o/*": "file", "o/.wh": "file"}),
    "a file in a sticky directory": ("echo x > /tmp/x", {"tmp": "dir", "tmp/x": "file"}),
    "a mode 0 file and a read-only directory": ("echo c > /none && chmod 0 /none && mkdir /w && echo d > /w/d && chmod 555 /w",
                                                {"none": "file", "w": "dir", "w/d": "file"}),
    "a file written through a link": ("echo x > /var/sub/x", {"data": "dir", "data/sub": "dir", "data/sub/x": "file"}),
}


@pytest.mark.parametrize("name", CASES)
async def test_changes_are_what_the_step_did(machine: Rig, name: str) -> None:
    script, expected = CASES[name]
    ran = await machine.step(await machine.base(), script)
    assert (ran.status, ran.stderr) == (0, b"")
    assert ran.kinds == expected
    assert [change.entry.path for change in ran.changes] == sorted(change.entry.path for change in ran.changes)


async def test_metadata_of_changes_and_of_the_directories_above_them(machine: Rig) -> None:
    ran = await machine.step(await machine.base(), "echo abc > /tmp/x && chmod 4711 /tmp/x && touch -d @77 /tmp/x /tmp")
    entry = ran.entry("tmp/x")
    assert (entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime) == ("file", 0o4711, 0, 0, 4, 77 * 10**9)
    assert ran.entry("tmp").mode == 0o1777
    assert ran.entry("tmp").mtime == 77 * 10**9


async def test_bytes_of_a_changed_file_lie_at_its_source(machine: Rig) -> None:
    state = await machine.base()
    active = await machine.snapshots.prepare(state.chain, state.tree)
    await machine.execute(active, "sh", "-c", "echo hello > /data/a")
    changes = await machine.changes(active, state.tree)
    (source,) = [change.source for change in changes if change.entry.path == b"data/a"]
    assert source is not None and Path(source.decode()).read_bytes() == b"hello\n"
    await machine.snapshots.discard(active)
    assert not (machine.state_dir / active.id).exists()
    await machine.snapshots.discard(active)


async def test_a_step_sees_what_the_step_before_did(machine: Rig) -> None:
    first = await machine.step(await machine.base(), "rm /data/a && rm -r /data/sub && echo 1 > /one")
    assert first.after
    second = await machine.step(first.after, "echo /data/* && cat /one && echo again > /data/a && mkdir /data/sub && rm /one")
    assert second.stdout.split() == b"/data/b /data/cap /data/deep /data/h1 /data/h2 /data/link /data/ro /data/suid 1".split()
    assert second.kinds == {"data": "dir", "data/a": "file", "data/sub": "dir", "one": "whiteout"}
    assert second.after
    third = await machine.step(second.after, "cat /data/a; ls /data/sub; ls /one 2> /dev/null || echo gone")
    assert third.stdout == b"again\ngone\n"
    assert third.kinds == {}


async def test_two_branches_of_one_state_do_not_see_each_other(machine: Rig) -> None:
    first = await machine.step(await machine.base(), "echo 1 > /one")
    assert first.after
    left = await machine.step(first.after, "echo l > /left; rm /one")
    right = await machine.step(first.after, "ls /left 2> /dev/null; cat /one; echo r > /right")
    assert left.kinds == {"left": "file", "one": "whiteout"}
    assert (right.stdout, right.kinds) == (b"1\n", {"right": "file"})


async def test_a_layer_made_without_a_root_is_there_for_the_next_step(machine: Rig) -> None:
    first = await machine.step(await machine.base(), "echo 1 > /one")
    assert first.after
    copied = await machine.extend(first.after, Tar().dirs("app").add("app/f", "copied").add("data/.wh.a").bytes())
    second = await machine.step(copied, "cat /app/f /one; ls /data/a 2> /dev/null || echo gone; echo 2 >> /app/f")
    assert second.stdout == b"copied1\ngone\n"
    assert second.kinds == {"app": "dir", "app/f": "file"}


async def test_owners_and_capabilities(machine: Rig) -> None:
    if not machine.environment.ids.holds(1000, 1000):
        pytest.skip("needs a second id")
    state = await machine.base()
    ran = await machine.step(state, "chown 5:6 /data/a && chmod 755 /data/b && mv /data/cap /capmoved && cp -a /data/suid /s")
    assert (ran.entry("data/a").uid, ran.entry("data/a").gid) == (5, 6)
    assert (ran.entry("data/b").uid, ran.entry("data/b").mode) == (1000, 0o755)
    assert ran.entry("capmoved").xattrs == (("security.capability", CAPABILITY),)
    assert ran.entry("s").mode == 0o4755


async def test_owners_that_cannot_be_on_disk_stay_what_the_layers_say(machine: Rig) -> None:
    state = await machine.base(Tar().dirs("far", owner=(3_000_000, 3_000_000)).add("far/f", "x", owner=(3_000_000, 7)).bytes())
    if machine.environment.ids.holds(3_000_000, 3_000_000):
        pytest.skip("every id can be on disk")
    ran = await machine.step(state, "echo y >> /far/f; echo n > /far/n")
    assert (ran.entry("far").uid, ran.entry("far/f").uid, ran.entry("far/f").gid) == (3_000_000, 3_000_000, 7)
    assert ran.entry("far/n").uid == 0


async def test_the_root_directory_itself_is_no_change(machine: Rig) -> None:
    ran = await machine.step(await machine.base(), "chmod 700 / && echo x > /x")
    assert ran.kinds == {"x": "file"}


async def test_a_state_of_no_layers(machine: Rig) -> None:
    from engine.layer.tree import Tree

    state = State((), Tree.empty())
    active = await machine.snapshots.prepare((), state.tree)
    ran = await machine.execute(active, "/nosuch")
    assert (ran.status, ran.stderr) == (127, b'exec: "/nosuch": stat /nosuch: no such file or directory\n')
    changes = await machine.changes(active, state.tree)
    assert {change.entry.path for change in changes} == {b"dev", b"proc", b"sys"}
    await machine.snapshots.discard(active)


async def test_a_path_that_is_too_long_is_an_error_and_leaves_nothing_behind(machine: Rig) -> None:
    state = await machine.base()
    active = await machine.snapshots.prepare(state.chain, state.tree)
    deeper = "i=0; while [ $i -lt 30 ]; do mkdir -p $0 && cd -P $0 || exit 9; touch f; i=$((i+1)); done"
    ran = await machine.execute(active, "sh", "-c", deeper, "/".join("d" * 100))
    assert ran.status == 0
    with pytest.raises(StorageError, match="File name too long") as caught:
        await machine.snapshots.changes(active, state.tree)
    assert len(str(caught.value)) < 1000
    await machine.snapshots.discard(active)
    assert not (machine.state_dir / active.id).exists()
