"""The tests of isolation and snapshots once more, as those who are not root with everything: an ordinary user with subordinate ids,
one without, and root with the capabilities that a container gets by default."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN, MOUNTS, CHANGES, LAYERS = (f"tests/contract/{name}.py" for name in (
    "test_isolation_run", "test_isolation_mounts", "test_snapshot_changes", "test_snapshot_layers"))
CONTAINER = ("-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,"
             "+mknod,+audit_write,+setfcap")
UNKNOWN_UID = 54321

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become others"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can reach."""
    path = Path(tempfile.mkdtemp(prefix="users-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def python_for(become: list[str], place: Path) -> list[str]:
    """An interpreter like ours that whoever `become` makes of us can run, and its way to our packages."""
    path = ":".join([str(ROOT), *(entry for entry in sys.path if "site-packages" in entry)])
    for candidate in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}", "/usr/bin/python3"):
        argv = [*become, "env", "-i", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1",
                f"TMPDIR={place}", candidate]
        check = subprocess.run([*argv, "-c", "import anyio, ctypes, sys, engine.settings; print(sys.version_info[1])"],
                               cwd=place, capture_output=True, text=True)
        if check.stdout.strip() == str(sys.version_info.minor):
            return argv
    pytest.skip("there is no Python that this user can run")


def run_suites(become: list[str], place: Path, select: str, *suites: str) -> str:
    argv = python_for(become, place)
    done = subprocess.run([*argv, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", select, f"--basetemp={place}/pytest", *suites],
                          cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


def test_as_a_user_with_subordinate_ids(place: Path) -> None:
    try:
        user = pwd.getpwnam("tester")
    except KeyError:
        pytest.skip("needs a user tester")
    os.chown(place, user.pw_uid, user.pw_gid)
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
    out = run_suites(become, place, "userns and overlay", RUN, MOUNTS, CHANGES, LAYERS)
    assert "needs a second id" not in out and "needs more ids" not in out


def test_as_a_user_without_subordinate_ids(place: Path) -> None:
    os.chown(place, UNKNOWN_UID, UNKNOWN_UID)
    become = ["setpriv", f"--reuid={UNKNOWN_UID}", f"--regid={UNKNOWN_UID}", "--clear-groups"]
    out = run_suites(become, place, "userns and overlay", RUN, CHANGES)
    assert "needs a second id" in out


def test_as_root_in_a_container_with_default_capabilities(place: Path) -> None:
    run_suites(["setpriv", f"--bounding-set={CONTAINER}", f"--inh-caps={CONTAINER}"], place, "chroot", RUN, MOUNTS, CHANGES)


def test_as_root_in_a_container_where_user_namespaces_are_allowed(place: Path) -> None:
    run_suites(["setpriv", f"--bounding-set={CONTAINER}", f"--inh-caps={CONTAINER}"], place, "userns and overlay",
               RUN)
