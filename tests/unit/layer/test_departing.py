"""Signals that a file has grown: to whom, and that nobody who is not there is missed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.layer.departing import WORTH, Signals


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def reading(fifo: Path) -> int:
    return os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)


def test_what_is_worth_being_sent_is_told(fifo: Path) -> None:
    reader = reading(fifo)
    with Signals(str(fifo)) as signals:
        for size in (1, WORTH - 1):
            signals.grown(size)
        with pytest.raises(BlockingIOError):
            os.read(reader, 99)
        for size in (WORTH, WORTH + 1, 2 * WORTH - 1, 3 * WORTH):
            signals.grown(size)
        assert len(os.read(reader, 99)) == 2
    assert os.read(reader, 99) == b""
    os.close(reader)


@pytest.mark.parametrize("there", [True, False])
def test_nobody_needs_to_listen(tmp_path: Path, fifo: Path, there: bool) -> None:
    with Signals(str(fifo if there else tmp_path / "gone")) as signals:
        signals.grown(WORTH)
    with Signals("") as signals:
        signals.grown(WORTH)


def test_who_listened_may_go(fifo: Path) -> None:
    reader = reading(fifo)
    with Signals(str(fifo)) as signals:
        os.close(reader)
        signals.grown(WORTH)


def test_who_does_not_keep_up_does_not_hold_up(fifo: Path) -> None:
    reader = reading(fifo)
    with Signals(str(fifo)) as signals:
        for n in range(1, 100_000):
            signals.grown(n * WORTH)
    os.close(reader)
