"""The mounts of a run: what the command sees of them, and that nothing of them is left, mounted or emulated."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from engine.errors import IsolationError
from engine.isolate.base import BindMount, FileMount, Mount, RunSpec, SocketMount, TmpfsMount
from tests.contract.roots import ENV, MODES, TIME, Ran, Rig, Tar, children_of, rig


@pytest.fixture(params=MODES)
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "state", request.param) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory of the host."""
    path = tmp_path / "source"
    (path / "sub").mkdir(parents=True)
    (path / "f").write_text("file\n")
    (path / "sub" / "g").write_text("deep\n")
    (path / "sub" / "up").symlink_to("../f")
    (path / "out").symlink_to("/etc/hostname")
    return path


async def step(machine: Rig, script: str, *mounts: Mount, base: bytes | None = None) -> Ran:
    state = await machine.base(*([base] if base else []))
    return await machine.step(state, script, mounts=mounts)


def on_chroot(machine: Rig) -> bool:
    return machine.environment.isolation == "chroot"


async def test_a_read_only_directory(machine: Rig, source: Path) -> None:
    ran = await step(machine, "cat /m/f /m/sub/up; touch /m/new 2> /dev/null || echo refused", BindMount("/m", str(source)))
    assert ran.stdout.startswith(b"file\nfile\n")
    assert on_chroot(machine) or ran.stdout.endswith(b"refused\n")
    assert ran.kinds == {}
    assert not (source / "new").exists()


async def test_a_part_of_a_directory_and_a_single_file(machine: Rig, source: Path) -> None:
    ran = await step(machine, "cat /m/g /etc/motd /one", BindMount("/m", str(source), "sub"),
                     BindMount("/etc/motd", str(source), "f"), BindMount("/one", str(source), "/sub/up"))
    assert (ran.stdout, ran.kinds) == (b"deep\nfile\nfile\n", {})


async def test_a_source_does_not_lead_out_of_its_origin(machine: Rig, source: Path) -> None:
    with pytest.raises(IsolationError, match="mount at /m: out: no such file or directory"):
        await step(machine, "true", BindMount("/m", str(source), "out"))
    ran = await step(machine, "cat /m", BindMount("/m", str(source), "../../f"))
    assert ran.stdout == b"file\n"


async def test_what_is_written_to_a_discarding_mount_is_gone(machine: Rig, source: Path) -> None:
    script = "echo new > /m/new && rm /m/f && cat /m/new /m/sub/g; ls /m; echo x >> /one && cat /one"
    ran = await step(machine, script, BindMount("/m", str(source), readonly=False, discard_writes=True),
                     BindMount("/one", str(source), "f", readonly=False, discard_writes=True))
    assert ran.stdout == b"new\ndeep\nnew\nout\nsub\nfile\nx\n"
    assert ran.kinds == {}
    assert sorted(os.listdir(source)) == ["f", "out", "sub"] and (source / "f").read_text() == "file\n"
    assert not [path for path in (machine.state_dir / "tmp").rglob("run-*")]


async def test_a_cache_keeps_what_is_written(machine: Rig, source: Path) -> None:
    mount = BindMount("/cache/here", str(source), readonly=False)
    first = await step(machine, "echo 1 > /cache/here/one && mkdir /cache/here/d && rm /cache/here/f", mount)
    second = await step(machine, "cat /cache/here/one; ls /cache/here", mount)
    assert (first.kinds, second.kinds) == ({}, {})
    assert second.stdout == b"1\nd\none\nout\nsub\n"
    assert sorted(os.listdir(source)) == ["d", "one", "out", "sub"]


async def test_a_cache_at_two_places(machine: Rig, source: Path) -> None:
    ran = await step(machine, "echo 1 > /one/x && cat /two/x && echo 2 > /two/y && ls /one",
                     BindMount("/one", str(source), readonly=False),
                     BindMount("/two", str(source), readonly=False))
    assert (ran.stdout, ran.kinds) == (b"1\nf\nout\nsub\nx\ny\n", {})
    assert sorted(os.listdir(source)) == ["f", "out", "sub", "x", "y"]


async def test_two_steps_share_a_cache_at_once(machine: Rig, source: Path) -> None:
    script = "echo x >> /cache/log; n=0; while [ $n -lt 20 ]; do n=$((n+1)); ls /cache > /dev/null; done; wc -l < /cache/log"
    state = await machine.base()
    seen: list[bytes] = []

    async def one() -> None:
        active = await machine.snapshots.prepare(state.chain, state.tree)
        ran = await machine.execute(active, "sh", "-c", script, mounts=(BindMount("/cache", str(source), readonly=False),))
        seen.append(ran.stdout)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(one)
    assert (source / "log").read_text() == "x\n" * 4
    assert len(seen) == 4 and all(text.strip() in b"1 2 3 4".split() for text in seen)


async def test_a_killed_supervisor_leaves_no_process_and_a_whole_cache(machine: Rig, source: Path) -> None:
    state = await machine.base()
    active = await machine.snapshots.prepare(state.chain, state.tree)
    server = await machine.pool.call(os.getppid)
    workers = children_of(server)
    killed: list[int] = []
    sleep = f"sleep {10**8 + int.from_bytes(os.urandom(3), 'big')}"

    def kill(_stream: int, _data: bytes) -> None:
        if not killed:
            killed.extend(pid for pid in children_of(server) if pid not in workers)
            os.kill(killed[0], signal.SIGKILL)

    spec = RunSpec(active.root, ("sh", "-c", f"echo 1 > /cache/one; (setsid {sleep} &); echo go; {sleep}"), ENV, "/",
                   mounts=(BindMount("/cache", str(source), readonly=False), FileMount("/s", b"pssst!")))
    with anyio.fail_after(30), pytest.raises(IsolationError, match="watched over the command has died"):
        async with machine.pool.run(spec, kill):
            pass
    with anyio.fail_after(10):
        while [path for path in Path("/proc").glob("[0-9]*/cmdline") if reads(path).replace(b"\0", b" ").strip() == sleep.encode()]:
            await anyio.lowlevel.checkpoint()
    await machine.snapshots.discard(active)
    assert sorted(os.listdir(source)) == ["f", "one", "out", "sub"]
    assert (source / "f").read_text() == "file\n"


def reads(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_another_root_as_origin(machine: Rig) -> None:
    state = await machine.base(Tar().dirs("other").add("other/x", "of the other\n").bytes())
    view = await machine.snapshots.view(state.chain, state.tree)
    ran = await step(machine, "cat /m/x /all/etc/motd; ls /other 2> /dev/null; echo y 2> /dev/null > /m/x; true",
                     BindMount("/m", view, "other"), BindMount("/all", view))
    assert (ran.stdout, ran.kinds) == (b"of the other\nwelcome\n", {})
    again = await step(machine, "cat /m/x && echo changed > /m/x && cat /m/x",
                       BindMount("/m", view, "other", readonly=False, discard_writes=True))
    assert again.stdout == b"of the other\nchanged\n"
    third = await step(machine, "cat /m/x", BindMount("/m", view, "other"))
    assert third.stdout == b"of the other\n"


async def test_a_tmpfs_hides_what_was_there(machine: Rig) -> None:
    ran = await step(machine, "ls /data; echo x > /data/x; stat -c %a /data; df -k /data | tail -1", TmpfsMount("/data", 64 << 20))
    assert ran.stdout.startswith(b"1777\n")
    assert on_chroot(machine) or b" 65536 " in ran.stdout
    assert ran.kinds == {}
    after = await machine.step(ran.after, "cat /data/a; ls /data/x 2> /dev/null")  # type: ignore[arg-type]  # it is there
    assert (after.stdout, after.kinds) == (b"a\n", {})


async def test_a_secret_is_a_file_for_one_run(machine: Rig) -> None:
    ran = await step(machine, "cat /run/secrets/s /etc/motd; stat -c '%a %u %g' /run/secrets/s",
                     FileMount("/run/secrets/s", b"pssst!", 0o440), FileMount("/etc/motd", b"over\n"))
    assert (ran.stdout, ran.kinds) == (b"pssst!over\n440 0 0\n", {})
    readable = [path for path in machine.state_dir.rglob("*") if path.is_file() and os.access(path, os.R_OK)]
    assert len(readable) > 5 and not [path for path in readable if b"pssst!" in path.read_bytes()]


async def test_a_secret_of_another_owner(machine: Rig) -> None:
    mount = FileMount("/s/t", b"pssst!", 0o741, 100, 102)
    if not machine.environment.ids.holds(100, 102):
        with pytest.raises(IsolationError, match="needs uid 100"):
            await step(machine, "true", mount)
        return
    ran = await step(machine, "stat -c '%a %u %g' /s/t", mount)
    assert (ran.stdout, ran.kinds) == (b"741 100 102\n", {})


async def test_mounts_are_made_in_order(machine: Rig, source: Path) -> None:
    ran = await step(machine, "cat /m/deep/s; ls /m", TmpfsMount("/m"), FileMount("/m/deep/s", b"in it\n"),
                     BindMount("/m/b", str(source)))
    assert (ran.stdout, ran.kinds) == (b"in it\nb\ndeep\n", {})


async def test_targets_go_through_the_roots_links(machine: Rig) -> None:
    base = Tar().symlink("abs", "/data").symlink("up", "../../../data/sub").symlink("new", "/not/yet").bytes()
    ran = await step(machine, "cat /data/s /data/sub/s /not/yet/s; ls -d /not/yet",
                     FileMount("/abs/s", b"1"), FileMount("/up/s", b"2"), FileMount("/new/s", b"3"), base=base)
    assert (ran.stdout, ran.kinds) == (b"123/not/yet\n", {})


async def test_what_a_step_puts_beside_a_mount_stays(machine: Rig, source: Path) -> None:
    ran = await step(machine, "echo b > /o/beside", BindMount("/o/p/m", str(source)), FileMount("/q/s", b"x"))
    assert ran.kinds == {"o": "dir", "o/beside": "file"}


async def test_directories_keep_their_times(machine: Rig) -> None:
    ran = await step(machine, "touch /data/sub/new", FileMount("/data/s", b"x"), TmpfsMount("/data/sub/t"),
                     TmpfsMount("/data/ro/t"))
    assert ran.kinds == {"data": "dir", "data/sub": "dir", "data/sub/new": "file"}
    assert ran.entry("data").mtime == TIME * 10**9
    assert ran.entry("data/sub").mtime > TIME * 10**9


async def test_a_target_in_a_read_only_mount_is_an_error_that_names_it(machine: Rig, source: Path) -> None:
    mounts = BindMount("/m", str(source)), FileMount("/m/no/s", b"x")
    if on_chroot(machine):
        assert (await step(machine, "cat /m/no/s", *mounts)).stdout == b"x"
    else:
        with pytest.raises(IsolationError, match=r"mount at /m/no/s: .*Read-only"):
            await step(machine, "true", *mounts)
    assert sorted(os.listdir(source)) == ["f", "out", "sub"]


CLIENT = """
use IO::Socket::UNIX;
for my $word ("one", "two") {
    my $socket = IO::Socket::UNIX->new(Peer => "/run/agent.0") or die "no connection: $!";
    print $socket "$word\\n";
    shutdown($socket, 1);
    my $answer = join("", <$socket>);
    print length($answer), " ", substr($answer, 0, 9), "\\n";
}
"""


async def test_a_socket(machine: Rig, tmp_path: Path) -> None:
    served: list[bytes] = []

    def serve() -> None:
        for _ in range(2):
            with server.accept()[0] as connection, connection.makefile("rb") as sent:
                served.append(sent.read())
                connection.sendall(b"hello " + served[-1] + b"x" * 300_000)

    state = await machine.base(perl())
    active = await machine.snapshots.prepare(state.chain, state.tree)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "agent"))
        server.listen()
        server.settimeout(20)
        thread = threading.Thread(target=serve)
        thread.start()
        ran = await machine.execute(active, "perl", "-e", CLIENT, mounts=(SocketMount("/run/agent.0", str(tmp_path / "agent")),))
        thread.join()
    assert (ran.stdout, ran.stderr) == (b"300010 hello one\n300010 hello two\n", b"")
    assert served == [b"one\n", b"two\n"]
    ran = await machine.execute(active, "stat", "-c", "%F %a", "/s", mounts=(SocketMount("/s", "/none", 0o640),))
    assert ran.stdout == b"socket 640\n"
    assert await machine.changes(active, state.tree) == []


def perl() -> bytes:
    """A layer with the host's perl: busybox has no client for Unix sockets."""
    program = shutil.which("perl")
    base = next(Path("/usr/lib").glob("*/perl-base"), None)
    if program is None or base is None:
        pytest.skip("needs perl")
    libraries = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    files = {word for word in libraries.split() if word.startswith("/")} | {program}
    files |= {str(path) for path in base.rglob("*") if path.is_file()}
    tar = Tar()
    for path in sorted(files):
        tar.add(path.lstrip("/"), Path(path).read_bytes(), mode=0o755)
    return tar.bytes()
