"""Steps of root in a user namespace of their own: that it is one, and what is done for them all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.roots import Ran, Rig, Tar, rig

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(params=["userns overlay", "userns walk"])
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "state", request.param) as made:
        if made.environment.user_namespace != "step":
            pytest.skip("root has no privileges to give up: " + "; ".join(made.environment.reasons))
        yield made


async def step(machine: Rig, script: str, *tars: bytes, **options: object) -> Ran:
    return await machine.step(await machine.base(*tars), script, **options)


async def test_a_step_is_in_a_user_namespace_that_maps_every_id_to_itself(machine: Rig) -> None:
    ran = await step(machine, "readlink /proc/self/ns/user; cat /proc/self/uid_map /proc/self/gid_map; cat /proc/1/ns/user 2>&1; id -u")
    namespace, uids, gids, *_, user = ran.stdout.decode().splitlines()
    assert namespace != os.readlink("/proc/self/ns/user")
    assert uids.split() == gids.split() == Path("/proc/self/uid_map").read_text().split()
    assert user == "0"


async def test_root_of_a_step_has_no_power_over_the_host(machine: Rig) -> None:
    """Even with every capability that its user namespace gives: here by one inside it."""
    ran = await step(machine, "unshare -r sh -c 'grep CapEff /proc/self/status; mount -t tmpfs x /tmp || echo no mount; "
                              "hostname x || echo no name; mknod /dev/x c 1 3 || echo no node; chroot / true || echo no chroot'")
    assert b"no mount\nno name\nno node\n" in ran.stdout and b"chroot" not in ran.stdout, ran.stdout + ran.stderr


async def test_device_nodes_are_made_as_the_caller_would(machine: Rig) -> None:
    tar = Tar().dirs("there").symlink("way", "/there").symlink("up", "../../../there").dirs("group", mode=0o2775, owner=(0, 1000))
    ran = await step(machine, "cd /there && mknod here c 1 3 && mknod -m 640 /way/there b 7 300 && umask 027 && mknod /up/out c 5 70000 && "
                              "mknod /group/inherits c 1 5 && mkfifo pipe && mknod named p && chroot /there /in c; echo $?",
                     tar.add("there/in", "#!/bin/sh\n", mode=0o755).bytes())  # fmt: skip
    nodes = {path: ran.entry(path) for path in ran.kinds if ran.kinds[path] in ("char", "block")}
    assert {path: (ran.kinds[path], entry.mode & 0o7777, entry.uid, entry.gid) for path, entry in nodes.items()} == {
        "there/here": ("char", 0o644, 0, 0), "there/there": ("block", 0o640, 0, 0), "there/out": ("char", 0o640, 0, 0),
        "group/inherits": ("char", 0o640, 0, 1000),
    }
    assert {path: (entry.major, entry.minor) for path, entry in nodes.items()} == {
        "there/here": (1, 3), "there/there": (7, 300), "there/out": (5, 70000), "group/inherits": (1, 5)}
    assert ran.kinds["there/pipe"] == ran.kinds["there/named"] == "fifo"


async def test_a_node_is_made_inside_the_callers_own_root(machine: Rig) -> None:
    tar = Tar().dirs("jail", "jail/bin", "jail/sub", "sub")
    tar.add("jail/bin/busybox", Path(shutil.which("busybox") or "").read_bytes(), mode=0o755)
    ran = await step(machine, "chroot /jail busybox mknod /sub/a c 1 3; chroot /jail busybox mknod ../../sub/b c 1 3", tar.bytes())
    assert ran.status == 0, ran.stderr
    assert {path for path, kind in ran.kinds.items() if kind == "char"} == {"jail/sub/a", "jail/sub/b"}


async def test_a_name_leads_nowhere_through_what_the_supervisor_has_open(machine: Rig) -> None:
    """Whoever makes the node must not be the `self` of the step's /proc."""
    ran = await step(machine, "for i in $(seq 0 99); do mknod /proc/self/fd/$i/escaped c 1 3; mknod /proc/thread-self/fd/$i/../escaped c 1 3; "
                              "done 2> /dev/null; mknod /proc/self/cwd/escaped c 1 3")
    assert [path for path in ran.kinds if path.endswith("escaped")] == []
    assert list(machine.state_dir.rglob("escaped")) == []
    assert b"Too many levels" in ran.stderr


@pytest.mark.parametrize(("script", "message"), [
    ("mknod /missing/x c 1 3", b"No such file"), ("mknod /etc/motd c 1 3", b"File exists"), ("mknod /etc/motd/x c 1 3", b"Not a directory"),
    ("mknod /loop/x c 1 3", b"Too many levels"), (f"mknod /{'n' * 300} c 1 3", b"too long"), ("mknod /data c 1 3", b"File exists"),
    ("mknod /proc/x c 1 3", b"No such file")])  # fmt: skip
async def test_what_cannot_be_made_says_why(machine: Rig, script: str, message: bytes) -> None:
    ran = await step(machine, script, Tar().symlink("loop", "loop").bytes())
    assert ran.status != 0
    assert message in ran.stderr, ran.stderr


async def test_only_who_may_makes_nodes(machine: Rig) -> None:
    ran = await step(machine, "mknod /tmp/x c 1 3; exit 0", uid=1000, gid=1000)
    assert b"Operation not permitted" in ran.stderr
    assert "tmp/x" not in ran.kinds


async def test_a_device_cannot_be_opened(machine: Rig) -> None:
    ran = await step(machine, "mknod /tmp/null c 1 3; cat /tmp/null; mknod /dev/shm/null c 1 3; cat /dev/shm/null; exit 0")
    assert ran.stderr.count(b"Permission denied") == 2, ran.stderr


async def test_root_listens_on_low_ports(machine: Rig) -> None:
    ran = await step(machine, "httpd -p 127.0.0.1:80 -h /data && wget -q -O - http://127.0.0.1/a", network="none")
    assert ran.stdout == b"a\n", ran.stderr
    ran = await step(machine, "httpd -p 127.0.0.1:80 -h /data", network="none", uid=1000, gid=1000)
    assert b"Permission denied" in ran.stderr


async def test_a_port_in_use_is_an_error_of_the_step(machine: Rig) -> None:
    ran = await step(machine, "httpd -p 127.0.0.1:80 -h /data && httpd -p 127.0.0.1:80 -h /data", network="none")
    assert b"Address already in use" in ran.stderr


async def test_many_at_once(machine: Rig) -> None:
    ran = await step(machine, "mkdir /many; for i in 1 2 3 4 5 6; do (for j in 1 2 3 4 5; do mknod /many/$i$j c 1 3; done) & done; wait")
    assert sum(kind == "char" for kind in ran.kinds.values()) == 30, ran.stderr


async def test_no_raw_sockets_in_the_hosts_network(machine: Rig) -> None:
    """They could listen to everything that the host says."""
    ran = await step(machine, "arping -I lo -c 1 -w 1 127.0.0.1; traceroute -I -m 1 -w 1 127.0.0.1")
    assert ran.stderr.count(b"Operation not permitted") + ran.stderr.count(b"Permission denied") == 2, ran.stderr


def test_without_a_supervisor_outside_the_kernel_decides(tmp_path: Path) -> None:
    """Root without CAP_SYS_ADMIN is where ordinary users are: in one user namespace with its steps."""
    script = """
import sys, tarfile, anyio
from pathlib import Path
from tests.contract.roots import Tar, rig
async def main():
    async with rig(Path(sys.argv[1]), "userns overlay") as machine:
        assert machine.environment.user_namespace == "server", machine.environment
        state = await machine.base(Tar().add("device", kind=tarfile.BLKTYPE).bytes())  # which nobody here can put on disk
        for options in ({}, {"network": "none"}):
            ran = await machine.step(state, "test ! -e /device && mkfifo /p; mknod /c c 1 3; httpd -p 127.0.0.1:1 -h /data; echo $?", **options)
            print(sorted(ran.kinds), ran.stdout.decode(), ran.stderr.decode())
anyio.run(main)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", sys.executable, "-c", script, str(tmp_path)],
                          cwd=root, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("['p']")[1:]
    assert "mknod: /c: Operation not permitted" in first and "mknod: /c: Operation not permitted" in second
    assert "bind: Permission denied" in first and first.startswith(" 1\n")
    assert "bind" not in second and second.startswith(" 0\n")
