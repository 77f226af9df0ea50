"""What a command reads and writes: the descriptors that go to its supervisor, and our ends of them."""

from __future__ import annotations

import os
from contextlib import suppress
from types import TracebackType

import anyio

from engine.workers.base import OutputSink
from engine.workers.channel import Channel

_CHUNK = 1 << 16


class RunStreams:
    """Standard input from bytes, pipes for the two outputs, and the control socket. A context manager that closes all."""

    def __init__(self, stdin: bytes | None) -> None:
        self.control = Channel()
        self._out, self._theirs_out = os.pipe2(os.O_CLOEXEC)
        self._err, self._theirs_err = os.pipe2(os.O_CLOEXEC)
        for fd in (self._out, self._err):
            os.set_blocking(fd, False)
        if stdin is None:
            self._theirs_in = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        else:
            self._theirs_in = os.memfd_create("stdin")
            with open(self._theirs_in, "wb", closefd=False) as file:
                file.write(stdin)
            os.lseek(self._theirs_in, 0, os.SEEK_SET)

    @property
    def theirs(self) -> tuple[int, int, int, int]:
        """The descriptors for the supervisor, in the order of `engine.isolate.host.Streams`."""
        return self._theirs_in, self._theirs_out, self._theirs_err, self.control.other.fileno()

    def given(self) -> None:
        """The supervisor has them: forgets our copies, so that its end is the end of the pipes."""
        for fd in (self._theirs_in, self._theirs_out, self._theirs_err):
            os.close(fd)
        self._theirs_in = self._theirs_out = self._theirs_err = -1
        self.control.other.close()

    async def pump(self, output: OutputSink) -> None:
        """Hands on what the command writes, until both pipes have ended."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_pump, self._out, 1, output)
            tasks.start_soon(_pump, self._err, 2, output)

    def __enter__(self) -> RunStreams:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.control.close()
        for fd in (self._out, self._err, self._theirs_in, self._theirs_out, self._theirs_err):
            with suppress(OSError):
                if fd >= 0:
                    os.close(fd)


async def _pump(fd: int, number: int, output: OutputSink) -> None:
    while True:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            await anyio.wait_readable(fd)
            continue
        if not data:
            return
        output(number, data)
