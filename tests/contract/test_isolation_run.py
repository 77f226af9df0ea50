"""A command in a root: what it sees, what it may do, and what is left of it. In every isolation this user can have."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from engine.errors import IsolationError
from engine.isolate.base import FileMount, RunSpec
from engine.isolate.network import forbid_network
from engine.snapshot.base import Active
from tests.contract.roots import ENV, MODES, Ran, Rig, Tar, children_of, rig

DEFAULT_CAPABILITIES = "00000000a80425fb"


@pytest.fixture(params=MODES)
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "state", request.param) as made:
        yield made


async def root(machine: Rig, *tars: bytes) -> Active:
    state = await machine.base(*tars)
    return await machine.snapshots.prepare(state.chain, state.tree)


async def sh(machine: Rig, script: str, **options: object) -> Ran:
    return await machine.execute(await root(machine), "sh", "-c", script, **options)


def on_chroot(machine: Rig) -> bool:
    return machine.environment.isolation == "chroot"


async def test_output_and_exit_code(machine: Rig) -> None:
    ran = await sh(machine, "echo out; echo err >&2; exit 7")
    assert (ran.status, ran.stdout, ran.stderr) == (7, b"out\n", b"err\n")


async def test_much_output_arrives_whole(machine: Rig) -> None:
    ran = await sh(machine, "head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2")
    assert (len(ran.stdout), len(ran.stderr)) == (3_000_000, 1_000_000)


async def test_a_signal_is_128_and_its_number(machine: Rig) -> None:
    active = await root(machine)
    assert (await machine.execute(active, "sh", "-c", "sh -c 'kill -9 $$'; exit $?")).status == 137
    assert (await machine.execute(active, "sh", "-c", "exit 255")).status == 255
    if on_chroot(machine):  # process 1 of a namespace cannot kill itself
        assert (await machine.execute(active, "sh", "-c", "kill -15 $$")).status == 143


async def test_standard_input(machine: Rig) -> None:
    assert (await sh(machine, "cat")).stdout == b""
    assert (await sh(machine, "cat", stdin=b"x" * 300_000)).stdout == b"x" * 300_000


async def test_the_environment_is_what_was_given_and_nothing_else(machine: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_SECRET", "1")
    ran = await machine.execute(await root(machine), "env", env=(("PATH", "/bin"), ("A", "b c"), ("E", "")))
    assert sorted(ran.stdout.splitlines()) == [b"A=b c", b"E=", b"PATH=/bin"]


@pytest.mark.parametrize(("argv", "status", "message"), [
    (("nosuch", "x"), 127, b'exec: "nosuch": executable file not found in $PATH\n'),
    (("/no/such",), 127, b'exec: "/no/such": stat /no/such: no such file or directory\n'),
    (("/etc/motd",), 126, b'exec: "/etc/motd": permission denied\n'),
    (("/etc",), 126, b'exec: "/etc": is a directory\n'),
    (("/odd/text",), 126, b"exec /odd/text: exec format error\n"),
    (("/odd/script",), 127, b"exec /odd/script: no such file or directory\n"),
])
async def test_what_cannot_be_executed_says_why(machine: Rig, argv: tuple[str, ...], status: int, message: bytes) -> None:
    odd = Tar().dirs("odd").add("odd/text", "text", mode=0o755).add("odd/script", "#!/no/interpreter\n", mode=0o755)
    ran = await machine.execute(await root(machine, odd.bytes()), *argv)
    assert (ran.status, ran.stderr) == (status, message)


async def test_the_command_is_found_by_its_own_path(machine: Rig) -> None:
    tools = Tar().dirs("tools").symlink("tools/say", "/bin/echo").bytes()
    ran = await machine.execute(await root(machine, tools), "say", "hi", env=(("PATH", "/tools"),))
    assert ran.stderr == b"say: applet not found\n" or ran.stdout == b"hi\n"


async def test_working_directory_umask_and_host_name(machine: Rig) -> None:
    ran = await sh(machine, "pwd; umask; touch /f; stat -c %a /f; hostname", cwd="/data/sub", hostname="builder")
    expected = b"/data/sub\n0022\n644\n"
    assert ran.stdout.startswith(expected)
    assert on_chroot(machine) or ran.stdout == expected + b"builder\n"


async def test_a_missing_working_directory_is_made(machine: Rig) -> None:
    ran = await machine.step(await machine.base(), "pwd", cwd="/new/dir")
    assert ran.stdout == b"/new/dir\n"
    assert ran.kinds == {"new": "dir", "new/dir": "dir"}
    assert ran.entry("new").mode == 0o755


async def test_user_and_groups(machine: Rig) -> None:
    if not machine.environment.ids.holds(1000, 2001):
        pytest.skip("needs more ids")
    ran = await sh(machine, "id -u; id -g; id -G; touch /denied 2> /dev/null || echo refused; cat /data/b; cd ~",
                   uid=1000, gid=1000, groups=(1000, 2001), env=(*ENV, ("HOME", "/home/app")))
    assert ran.stdout == b"1000\n1000\n1000 2001\nrefused\nb\n"
    root_groups = await sh(machine, "id -G", uid=0, gid=0, groups=(0, 5))
    assert root_groups.stdout == b"0 5\n"


async def test_a_user_who_cannot_exist_here_is_an_error_that_says_so(machine: Rig) -> None:
    ids = machine.environment.ids
    if ids.kind == "identity":
        pytest.skip("every user can exist")
    with pytest.raises(IsolationError, match=f"this step needs uid {ids.count}, but only") as error:
        await sh(machine, "true", uid=ids.count)
    assert "/etc/subuid" in (error.value.hint or "")


async def test_capabilities_are_dockers(machine: Rig) -> None:
    if on_chroot(machine):
        pytest.skip("there is no /proc to see them in")
    ran = await sh(machine, "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status")
    seen = dict(line.split(":\t") for line in ran.stdout.decode().splitlines())
    assert seen == {"CapInh": "0" * 16, "CapAmb": "0" * 16, "CapPrm": DEFAULT_CAPABILITIES, "CapEff": DEFAULT_CAPABILITIES,
                    "CapBnd": DEFAULT_CAPABILITIES, "NoNewPrivs": "0"}
    if machine.environment.ids.holds(1000, 1000):
        ran = await sh(machine, "grep -E 'Cap(Prm|Eff)' /proc/self/status", uid=1000, gid=1000)
        assert [line.split()[1] for line in ran.stdout.splitlines()] == [b"0" * 16] * 2


async def test_only_its_own_processes_and_a_closed_proc(machine: Rig) -> None:
    if on_chroot(machine):
        pytest.skip("there is no /proc")
    ran = await sh(machine, "ls /proc | grep -c '^[0-9]'; cat /proc/1/comm; (echo x > /proc/sys/kernel/hostname) || echo closed; "
                            "mount -t tmpfs x /tmp || echo no mount; head -c 1 /proc/kcore | wc -c; ls /sys/firmware | wc -l")
    lines = ran.stdout.decode().split("\n")
    assert int(lines[0]) <= 4
    assert lines[1:6] == ["sh", "closed", "no mount", "0", "0"]
    assert b"Read-only file system" in ran.stderr


async def test_devices(machine: Rig) -> None:
    ran = await sh(machine, "echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 4 /dev/urandom | wc -c")
    assert ran.stdout.split()[:2] == [b"3", b"4"]
    if not on_chroot(machine):
        ran = await sh(machine, "echo out > /dev/stdout; touch /dev/shm/x && ls /dev/pts/ptmx && readlink /dev/fd")
        assert (ran.stdout, ran.stderr) == (b"out\n/dev/pts/ptmx\n/proc/self/fd\n", b"")


async def test_nothing_of_the_runtime_stays_in_the_layer(machine: Rig) -> None:
    state = await machine.base(Tar().add(".wh.dev").add(".wh.proc").add(".wh.sys").add(".wh.tmp").add("etc/.wh.motd").bytes())
    ran = await machine.step(state, "ls /etc; echo x > /dev/null", hosts="1.2.3.4 h\n", resolv_conf="nameserver 9.9.9.9\n")
    assert ran.stdout == b"group\nhosts\npasswd\nresolv.conf\n"
    assert ran.kinds == {"dev": "dir", "proc": "dir", "sys": "dir"}


async def test_hosts_and_resolv_conf_of_the_base_come_back(machine: Rig) -> None:
    state = await machine.base(Tar().add("etc/hosts", "base\n").symlink("etc/resolv.conf", "../run/resolv").bytes())
    ran = await machine.step(state, "cat /etc/hosts /etc/resolv.conf; echo more >> /etc/hosts; true",
                             hosts="h\n", resolv_conf="r\n")
    assert ran.stdout == b"h\nr\n"
    assert ran.after
    again = await machine.step(ran.after, "cat /etc/hosts; ls /run 2> /dev/null")
    assert (ran.kinds, again.stdout, again.kinds) == ({}, b"base\n", {})


async def test_no_network(machine: Rig) -> None:
    ran = await sh(machine, "ip link show lo; ls /sys/class/net; nc -w 1 127.0.0.1 9 < /dev/null || echo refused; "
                            "nc -w 1 1.1.1.1 80 < /dev/null || echo nowhere", network="none")
    assert b"nowhere" in ran.stdout and b"eth" not in ran.stdout
    if b"not supported" in ran.stderr:  # a filter
        assert on_chroot(machine) and b"refused" in ran.stdout
    else:
        assert b"lo: <LOOPBACK,UP" in ran.stdout


async def test_the_network_filter_leaves_unix_sockets_only() -> None:
    child = os.fork()
    if child == 0:
        try:
            os._exit(_sockets_after_the_filter())
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # noqa: ASYNC222  # it ends at once


def _sockets_after_the_filter() -> int:
    """0 if a filtered process can open Unix and netlink sockets, and no others."""
    forbid_network()
    socket.socket(socket.AF_UNIX).close()
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()
    socket.socketpair()
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET, socket.AF_VSOCK):
        try:
            socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT:
                continue
        return int(family)
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.syscall(425, 1, 0) == -1 and ctypes.get_errno() == errno.ENOSYS else 98


async def test_processes_left_behind_are_gone_and_nobody_waits_for_them(machine: Rig) -> None:
    sleep = Sleep()
    with anyio.fail_after(30):
        ran = await sh(machine, f"setsid {sleep} & ({sleep}; echo late) & (setsid sh -c '{sleep} & {sleep}' &); echo started")
    assert ran.stdout == b"started\n"
    assert sleep.running() == []


async def test_a_cancelled_command_is_gone(machine: Rig) -> None:
    sleep = Sleep()
    active = await root(machine)
    with anyio.move_on_after(30) as scope:
        def stop(_stream: int, data: bytes) -> None:
            scope.cancel()

        async with machine.pool.run(RunSpec(active.root, ("sh", "-c", f"trap '' TERM; {sleep} & echo x; {sleep}"), ENV, "/"), stop):
            pass
    assert scope.cancelled_caught
    assert sleep.running() == []
    assert (await machine.execute(active, "true")).status == 0


async def test_what_a_command_has_left_is_there_before_its_supervisor_is_gone(machine: Rig) -> None:
    sleep = Sleep()
    state = await machine.base()
    active = await machine.snapshots.prepare(state.chain, state.tree)
    server = await machine.pool.call(os.getppid)
    workers = children_of(server)
    said: list[bytes] = []
    spec = RunSpec(active.root, ("sh", "-c", f"(setsid {sleep} &); echo made > /made; rm /bin/ls; echo done"), ENV, "/",
                   mounts=tuple(FileMount(f"/mounted/{n}/here", b"x") for n in range(300)))  # fmt: skip
    async with machine.pool.run(spec, lambda _stream, data: said.append(data)) as outcome:
        assert (outcome.status, b"".join(said), sleep.running()) == (0, b"done\n", [])
        found = {change.entry.path: change.entry.kind for change in await machine.changes(active, state.tree)}
    assert found == {b"bin": "dir", b"bin/ls": "whiteout", b"made": "file"}
    with anyio.fail_after(20):
        while children_of(server) != workers:  # the supervisor has been killed, if it had not ended
            await machine.pool.call(os.getpid)


@pytest.mark.parametrize("mode", MODES)
def test_a_command_ends_with_the_process_that_wanted_it(tmp_path: Path, mode: str) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            anyio.run(_run_for_ever, tmp_path / "state", mode, write)
        finally:
            os._exit(9)
    os.close(write)
    said = os.read(read, 10)
    os.close(read)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not said:
        pytest.skip("this user cannot have that")
    deadline = time.monotonic() + 30
    while Sleep(child).running():
        assert time.monotonic() < deadline


async def _run_for_ever(state_dir: Path, mode: str, write: int) -> None:
    async with rig(state_dir, mode) as machine:
        active, sleep = await root(machine), Sleep(os.getpid())
        spec = RunSpec(active.root, ("sh", "-c", f"(setsid {sleep} &); echo running; {sleep}"), ENV, "/")
        async with machine.pool.run(spec, lambda _stream, data: [os.write(write, data)].clear()):
            pass


class Sleep:
    """A command that does not end by itself, and that nobody else runs."""

    def __init__(self, number: int = 0) -> None:
        self._seconds = 10**7 + (number or int.from_bytes(os.urandom(3), "big"))

    def __str__(self) -> str:
        return f"sleep {self._seconds}"

    def running(self) -> list[str]:
        """The processes that run it."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if path.read_bytes() == b"sleep\0%d\0" % self._seconds:
                    found.append(path.parent.name)
        return found


async def test_a_root_cannot_send_our_mounts_outside(machine: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    evil = Tar().symlink("evil", str(outside)).symlink("up", "../../../../../.." + str(outside))
    ran = await machine.execute(await root(machine, evil.bytes()), "sh", "-c", "cat /evil/hosts /up/h2; echo x > /dev/null",
                                mounts=_secrets("/evil/hosts", "/up/h2"))
    assert ran.stdout == b"secretsecret"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
async def test_system_directories_must_be_directories(machine: Rig, name: str) -> None:
    active = await root(machine, Tar().add(f".wh.{name}").symlink(name, "../data").bytes())
    with pytest.raises(IsolationError, match="Not a directory"):
        await machine.execute(active, "true")


def _secrets(*targets: str) -> tuple[FileMount, ...]:
    return tuple(FileMount(target, b"secret") for target in targets)
