"""Messages between the event-loop process, the fork server and what it forks: pickles on Unix stream sockets, each after its
length in eight bytes, with open descriptors beside the first byte (unix(7), SCM_RIGHTS). This is the blocking side; the event
loop's is in `channel`. Both ends are our own processes: nothing from outside is ever unpickled."""

from __future__ import annotations

import array
import os
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

HEADER = struct.Struct("=Q")
MAX_FDS = 8


def encode(message: object) -> bytes:
    """A message with its length before it."""
    body = pickle.dumps(message, protocol=5)
    return HEADER.pack(len(body)) + body


def send(channel: socket.socket, message: object) -> None:
    """Sends a message and waits until it is on its way."""
    channel.sendall(encode(message))


def receive(channel: socket.socket) -> tuple[Any, list[int]]:
    """Waits for a message; returns it and the descriptors that came with it. Raises `EOFError` when the other side is gone."""
    try:
        head, fds = receive_fds(channel, HEADER.size)
        while len(head) < HEADER.size:
            head += _some(channel.recv(HEADER.size - len(head)))
        body = bytearray(HEADER.unpack(head)[0])
        view = memoryview(body)
        while view:
            count = channel.recv_into(view)
            _some(count)
            view = view[count:]
    except ConnectionResetError as error:
        raise EOFError from error
    return pickle.loads(body), fds


def receive_fds(channel: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Some bytes and the descriptors beside them, which are not inherited by programs. Raises `EOFError` at the end."""
    space = socket.CMSG_LEN(MAX_FDS * array.array("i").itemsize)
    data, ancillary, _, _ = channel.recvmsg(size, space)
    fds = array.array("i")
    for level, kind, body in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    return _some(data), list(fds)


def rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """The ancillary data that carries descriptors."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def _some(received: Any) -> Any:
    if not received:
        raise EOFError
    return received
