"""Why something is not possible, in words."""

from __future__ import annotations

import errno
import os

import pytest

from engine.errors import IsolationError
from engine.isolate import probe, refusals
from engine.isolate.base import Environment, IdMap
from engine.isolate.probe import Wishes


def sysctls(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    monkeypatch.setattr(refusals, "_sysctl", lambda name: values.get(name.rpartition("/")[2]))


@pytest.mark.parametrize(("number", "values", "text"), [
    (errno.ENOSPC, {"max_user_namespaces": "0"}, "max_user_namespaces is 0"),
    (errno.ENOSPC, {"max_user_namespaces": "10"}, "the limit of user namespaces is reached"),
    (errno.EPERM, {"unprivileged_userns_clone": "0"}, "/proc/sys/kernel/unprivileged_userns_clone is 0"),
    (errno.EPERM, {"apparmor_restrict_unprivileged_userns": "1"}, "/proc/sys/kernel/apparmor_restrict_unprivileged_userns is 1"),
    (errno.EINVAL, {}, "this kernel has no user namespaces"),
])
def test_a_refused_user_namespace_is_explained(monkeypatch: pytest.MonkeyPatch, number: int, values: dict[str, str],
                                               text: str) -> None:
    sysctls(monkeypatch, **values)
    said = refusals.explain(OSError(number, "refused"))
    assert text in said
    assert number == errno.EINVAL or refusals.hint([said])


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no(_wishes: Wishes, reasons: list[str]) -> Environment | None:
        reasons.append("isolation: userns is not possible: max_user_namespaces is 0")
        return None

    monkeypatch.setattr(probe, "_as_root", lambda *_: None)
    monkeypatch.setattr(probe, "_in_user_namespace", no)


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int, capabilities: int = 1 << 18) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(probe.syscalls, "capabilities", lambda: capabilities)


def test_root_falls_back_to_chroot(monkeypatch: pytest.MonkeyPatch, refused: None) -> None:
    as_user(monkeypatch, 0)
    found = probe.enter(Wishes("auto", "auto", "/"))
    assert (found.isolation, found.snapshots, found.ids) == ("chroot", "walk", IdMap("identity"))
    assert found.reasons[0].endswith("max_user_namespaces is 0")


def test_a_user_falls_back_to_no_run_at_all(monkeypatch: pytest.MonkeyPatch, refused: None) -> None:
    as_user(monkeypatch, 1000)
    found = probe.enter(Wishes("auto", "auto", "/"))
    assert (found.isolation, found.ids) == (None, IdMap("none"))
    assert "RUN is not possible" in found.reasons[-1]


@pytest.mark.parametrize(("wishes", "uid", "message"), [
    (Wishes("userns", "auto", "/"), 1000, "isolation userns is not possible: .*max_user_namespaces is 0"),
    (Wishes("chroot", "auto", "/"), 1000, "isolation chroot is not possible: not root"),
    (Wishes("auto", "overlay", "/"), 0, "overlay snapshots need isolation userns; .*max_user_namespaces is 0"),
    (Wishes("chroot", "overlay", "/"), 0, "overlay snapshots need isolation userns"),
])
def test_what_is_insisted_on_and_impossible_is_an_error(monkeypatch: pytest.MonkeyPatch, refused: None, wishes: Wishes, uid: int,
                                                        message: str) -> None:
    as_user(monkeypatch, uid)
    with pytest.raises(IsolationError, match=message):
        probe.enter(wishes)


def test_root_without_the_right_to_chroot_can_run_nothing(monkeypatch: pytest.MonkeyPatch, refused: None) -> None:
    as_user(monkeypatch, 0, capabilities=0)
    assert probe.enter(Wishes("auto", "auto", "/")).isolation is None
    with pytest.raises(IsolationError, match="no CAP_SYS_CHROOT"):
        probe.enter(Wishes("chroot", "auto", "/"))
