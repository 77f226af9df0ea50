"""The system calls that no step may make."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import AsyncIterator, Callable
from errno import EPERM
from pathlib import Path

import pytest

from engine.isolate import profile
from tests.contract.roots import Rig, rig

KEYCTL, SESSION_KEYRING = 250, -3
REFUSED = {"add_key": 248, "request_key": 249, "keyctl": KEYCTL, "perf_event_open": 298, "open_by_handle_at": 304, "bpf": 321,
           "userfaultfd": 323, "io_uring_setup": 425}  # fmt: skip

x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of another processor")
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(params=["userns overlay", "userns walk"])
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "state", request.param) as made:
        yield made


async def test_steps_are_under_the_profile(machine: Rig) -> None:
    state = await machine.base()
    ran = await machine.step(state, "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; true")
    assert ran.stdout == b"NoNewPrivs:\t0\nSeccomp:\t2\n"


def in_a_child(check: Callable[[], bool]) -> bool:
    """What a check gives in a process that is under the profile."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            profile.apply()
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def call(number: int, *arguments: int) -> int:
    """What a system call returns, or the negative number of its error."""
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return result if result >= 0 else -ctypes.get_errno()


@x86_64
@root
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    assert in_a_child(lambda: call(REFUSED[name], 0, 0, 0, 0, 0) == -EPERM)


@x86_64
@root
def test_the_keyring_of_the_builder_is_not_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = call(KEYCTL, 0, SESSION_KEYRING, 1)
    if mine < 0:
        pytest.skip("there are no keyrings here")
    monkeypatch.setattr("engine.isolate.seccomp.confine", lambda _filter: None)  # so that the keyring can be asked for
    assert in_a_child(lambda: call(KEYCTL, 0, SESSION_KEYRING, 1) not in (mine, -1))


@x86_64
@root
def test_calls_of_32_bit_programs_are_refused_too() -> None:
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # push rbx; mov eax, keyctl; mov ebx, 99 (no such operation); int 0x80; pop rbx; ret
    code.write(b"\x53\xb8\x20\x01\x00\x00\xbb\x63\x00\x00\x00\xcd\x80\x5b\xc3")
    keyctl = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    child = os.fork()
    if child == 0:
        os._exit(-keyctl() & 0xFF)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        pytest.skip("this kernel runs no 32-bit calls")
    assert os.waitstatus_to_exitcode(status) != EPERM
    assert in_a_child(lambda: keyctl() == -EPERM)


@root
def test_everything_else_goes_on() -> None:
    assert in_a_child(lambda: os.system("true") == 0 and os.getpid() > 0)
