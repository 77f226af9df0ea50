"""--chmod: the words BuildKit refuses with, and symbolic modes against chmod(1) where the two agree."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import CopyError
from engine.solve.copying import parse_mode


@pytest.mark.parametrize("text", ["64a", "10000", "8", "0o755", "755 ", "99", "7_7", "0x1", "٧٥٥"])
def test_what_looks_like_a_number_and_is_none(text):
    with pytest.raises(CopyError) as error:
        parse_mode(text)
    assert error.value.message == f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"


@pytest.mark.parametrize("text", ["rwx", "u", "u+x,", ",u+x", "u+z", "x+u", "u!r", "-1x", " u+x", "u +x"])
def test_symbolic_modes_that_are_none(text):
    with pytest.raises(CopyError, match="invalid syntax"):
        parse_mode(text)


@pytest.mark.parametrize(("text", "before", "directory", "after"), [
    ("755", 0o600, False, 0o755), ("0", 0o777, True, 0), ("00004711", 0, False, 0o4711),
    ("a+X", 0o666, False, 0o666), ("a+X", 0o644, True, 0o755), ("a+X", 0o744, False, 0o755),
    ("u=rwX,go=rX", 0o600, False, 0o644), ("u=rwX,go=rX", 0o600, True, 0o755), ("u=rwX,go=rX", 0o710, False, 0o755),
    ("g=u", 0o640, False, 0o660), ("go=", 0o777, False, 0o700), ("=", 0o777, False, 0), ("+x", 0o644, False, 0o755),
    ("u+s,g+s,+t", 0o755, False, 0o7755), ("o+s", 0o755, False, 0o755), ("o+t", 0o755, True, 0o755), ("u-s", 0o4755, False,
    0o755),
    ("a=rx", 0o7755, True, 0o1555), ("a-x,a+X", 0o755, False, 0o755), ("u=rw,g=u-w,o=g", 0o777, False, 0o644), ("a-X", 0o755,
    False, 0o755),
    ("o=u+x-r", 0o640, False, 0o643), ("+-", 0o644, False, 0o644),
])
def test_modes(text, before, directory, after):
    assert oct(parse_mode(text).apply(before, directory)) == oct(after)


who = st.text("ugoa", max_size=3)
action = st.one_of(st.builds("{}{}".format, st.sampled_from("+-="), st.text("rwx", max_size=3)),
                   st.builds("{}{}".format, st.sampled_from("+-="), st.sampled_from("ugo")))
clause = st.builds(lambda w, a: w + "".join(a), who, st.lists(action, min_size=1, max_size=3))
symbolic = st.lists(clause, min_size=1, max_size=3).map(",".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(text=symbolic, before=st.integers(0, 0o777), directory=st.booleans())
def test_symbolic_modes_do_what_chmod_does(tmp_path: Path, text: str, before: int, directory: bool) -> None:
    path = tmp_path / ("d" if directory else "f")
    if directory:
        path.mkdir(exist_ok=True)
    else:
        path.touch()
    os.chmod(path, before)
    subprocess.run(["chmod", "--", text, path], check=True, preexec_fn=lambda: os.umask(0))
    assert oct(parse_mode(text).apply(before, directory)) == oct(stat.S_IMODE(path.stat().st_mode))
    os.chmod(path, 0o700)
