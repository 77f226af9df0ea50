"""Messages and descriptors between processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import anyio
import pytest

from engine.workers import wire
from engine.workers.channel import Channel
from engine.workers.jobs import _portable


@pytest.fixture
def channel() -> Iterator[Channel]:
    made = Channel()
    yield made
    made.close()


async def test_a_message_with_descriptors_arrives_whole(channel: Channel) -> None:
    read, write = os.pipe()
    await channel.send({"k": [1, b"x" * 10_000]}, [write])
    os.close(write)
    message, (fd,) = wire.receive(channel.other)
    assert message == {"k": [1, b"x" * 10_000]}
    assert not os.get_inheritable(fd)
    os.write(fd, b"here")
    assert os.read(read, 10) == b"here"
    os.close(read)
    os.close(fd)


async def test_both_sides_at_once_with_more_than_the_socket_holds(channel: Channel) -> None:
    data = os.urandom(3_000_000)

    def echo() -> None:
        message, _ = wire.receive(channel.other)
        wire.send(channel.other, message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, echo)
        await channel.send(data)
        assert await channel.receive() == data


async def test_the_end_of_the_other_side(channel: Channel) -> None:
    channel.other.close()
    with pytest.raises(EOFError):
        await channel.receive()
    with pytest.raises(EOFError):
        await channel.send(b"x" * 1000)
    await channel.ended()


async def test_a_message_cut_short_is_the_end(channel: Channel) -> None:
    channel.other.send(wire.HEADER.pack(100) + b"only this")
    channel.other.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        await channel.receive()


def test_an_error_that_cannot_travel_becomes_one_that_can() -> None:
    class Local(Exception):
        pass

    portable = _portable(Local("lost"))
    assert isinstance(portable, RuntimeError) and "lost" in str(portable)
    assert isinstance(_portable(OSError(2, "gone", "f")), FileNotFoundError)
