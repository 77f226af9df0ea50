"""A user namespace for one step, where the fork server has none: for root with CAP_SYS_ADMIN.

The step's root, mounts and other namespaces are made before it, by the supervisor, and belong to the host's user namespace, so
even root of the step has no power over them. Every id is mapped to itself: owners of files are what they are. What the kernel
refuses in a user namespace and docker's containers may do is done for the step by the supervisor (`engine.isolate.broker`).
Sources: user_namespaces(7).
"""

from __future__ import annotations

import os
import socket

from engine.errors import IsolationError
from engine.isolate import broker, idmap, syscalls
from engine.isolate.broker import Broker
from engine.isolate.supervise import Watch

_MADE, _MAPPED, _SUBSCRIBED, _ALONE = b"U", b"+", b"S", b"-"


class UserNamespace:
    """What a supervisor and its child say to each other until the child is in its user namespace. To be made before the fork."""

    def __init__(self) -> None:
        self._outside, self._inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def enter(self) -> None:
        """In the child, with its root entered: goes into the user namespace as its root. Raises `OSError` or `IsolationError`."""
        self._outside.close()
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        self._inside.send(_MADE)
        if (said := self._inside.recv(1024)) != _MAPPED:
            raise IsolationError(f"the user namespace of the step has no ids: {said.decode(errors='replace')}")
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        try:
            listener = broker.subscribe()
        except OSError:  # an old kernel, or a filter around us
            self._inside.send(_ALONE)
        else:
            socket.send_fds(self._inside, [_SUBSCRIBED], [listener])
            os.close(listener)
        self._inside.close()

    def attend(self, child: int, watch: Watch) -> None:
        """In the supervisor: gives the child its ids, and lets `watch` serve its calls. A child that says nothing has failed, and
        says why elsewhere."""
        self._inside.close()
        with self._outside:
            if self._outside.recv(16) != _MADE:
                return
            try:
                idmap.identity().write(child)
            except idmap.MapError as error:
                self._outside.send(str(error).encode())
                return
            namespace = broker.user_namespace(child)
            self._outside.send(_MAPPED)
            said, descriptors, _flags, _address = socket.recv_fds(self._outside, 16, 1)
            if said == _SUBSCRIBED and descriptors:
                watch.serve(Broker(descriptors[0], namespace))
