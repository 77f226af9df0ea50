"""Every case of the corpus, in every way of isolating steps and taking snapshots, gives the image that BuildKit gives."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).resolve().parent / "cases"
DEFAULT_CAPABILITIES = ("chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,"
                        "mknod,audit_write,setfcap")  # fmt: skip
ANIKO = [sys.executable, "-m", "engine.cli"]
MODES = {
    "userns-overlay": [*ANIKO],
    "userns-walk": [*ANIKO],
    "chroot-walk": ["setpriv", f"--bounding-set=-all,+{DEFAULT_CAPABILITIES.replace(',', ',+')}", "--inh-caps=-all", *ANIKO],
}
IMPOSSIBLE: dict[tuple[str, str], str] = {}
"""Cases that cannot hold in a mode, and why."""


@pytest.mark.system
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted(p.name for p in CASES.iterdir()))
def test_the_image_is_buildkits(name: str, mode: str, corpus, scratch: Path) -> None:  # type: ignore[no-untyped-def]
    isolation, _, snapshots = mode.partition("-")
    env = {"PATH": os.environ["PATH"], "HOME": "/root", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    state = scratch / "state" / f"{mode}-{name}"
    flags = [f"--isolation={isolation}", f"--snapshots={snapshots}"]
    try:
        differences = corpus.differences(name, MODES[mode], flags, state, env)
    finally:
        corpus.run.wipe(state)
    reason = IMPOSSIBLE.get((mode, name))
    if reason:
        assert differences, f"is said to be impossible ({reason}), but passes"
    else:
        assert not differences, json.dumps(differences, indent=1)
