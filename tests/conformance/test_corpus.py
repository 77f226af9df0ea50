"""Every case of the corpus, in every way of isolating steps and taking snapshots, gives the image that BuildKit gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Corpus, Zygote

CASES = Path(__file__).resolve().parent / "cases"
DEFAULT_CAPABILITIES = ("chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,"
                        "mknod,audit_write,setfcap")  # fmt: skip

MODES: dict[str, list[str]] = {
    "userns-overlay": [],
    "userns-walk": [],
    "userns-overlay-unprivileged": ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", "--"],
    "userns-walk-unprivileged": ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", "--"],
    "chroot-walk": ["setpriv", f"--bounding-set=-all,+{DEFAULT_CAPABILITIES.replace(',', ',+')}", "--inh-caps=-all", "--"],
}
"""What the builder is run by. Root gives each step a user namespace of its own; without CAP_SYS_ADMIN (`unprivileged`) it builds in
one, as ordinary users do."""

_COPIES = "nothing can be mounted, so a read-only mount is a copy, which root may write to; what it writes is dropped"
_NETWORK = "the step looks into /proc, which cannot be mounted; the network is kept from it by a filter on sockets"
_NODES = "the kernel refuses to make devices in a user namespace, and nobody with the right to is outside of it"
IMPOSSIBLE: dict[tuple[str, str], str] = {
    ("userns-overlay-unprivileged", "copy-from-nodes"): _NODES,
    ("userns-overlay-unprivileged", "run-special-nodes"): _NODES,
    ("userns-walk-unprivileged", "copy-from-nodes"): _NODES,
    ("userns-walk-unprivileged", "run-special-nodes"): _NODES,
    ("chroot-walk", "error-mount-readonly"): _COPIES,
    ("chroot-walk", "mount-cache-readonly"): _COPIES,
    ("chroot-walk", "run-network-none"): _NETWORK,
}
"""Cases that cannot hold in a mode, and why."""


@pytest.fixture(scope="session")
def zygotes() -> Iterator[Callable[[str], Zygote]]:
    """A process for each mode, started when it is first wanted."""
    started: dict[str, Zygote] = {}

    def zygote(mode: str) -> Zygote:
        return started.setdefault(mode, started.get(mode) or Zygote(MODES[mode]))

    yield zygote
    for process in started.values():
        process.close()


@pytest.mark.system
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted(p.name for p in CASES.iterdir()))
def test_the_image_is_buildkits(name: str, mode: str, corpus: Corpus, scratch: Path,
                                 zygotes: Callable[[str], Zygote]) -> None:  # fmt: skip
    isolation, snapshots, *_ = mode.split("-")
    state = scratch / "state" / f"{mode}-{name}"
    flags = [f"--isolation={isolation}", f"--snapshots={snapshots}"]
    try:
        differences = corpus.differences(name, zygotes(mode), flags, state)
    finally:
        corpus.run.wipe(state)
    reason = IMPOSSIBLE.get((mode, name))
    if reason:
        assert differences, f"is said to be impossible ({reason}), but passes"
    else:
        assert not differences, json.dumps(differences, indent=1)
