"""A blob's bytes, as a stream that goes on where a connection broke, and is verified to its last byte."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator

import anyio

from engine.errors import ContentError, NotFoundError, RegistryError
from engine.image.descriptor import Descriptor
from engine.image.reference import Reference
from engine.registry.retry import TransientError
from engine.registry.rules import asked, content_start
from engine.registry.session import Response
from engine.registry.transport import Call, Transport, claim

_HEADWAY = 1 << 20
"""Bytes that must have come for a new failure to count as the first one."""


async def download(transport: Transport, limiter: anyio.CapacityLimiter, reference: Reference,
                   descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
    """The bytes of a blob as they arrive. A place in `limiter` is held until the generator ends or is closed.

    What was yielded is right only when the generator came to its end: then size and digest have been verified. Raises
    `ContentError` when they do not match, `NotFoundError` when the registry lacks the blob.
    """
    transfer = _Transfer(transport, reference, descriptor)
    attempts = transport.attempts()
    holder = object()
    await limiter.acquire_on_behalf_of(holder)
    try:
        while not transfer.complete:
            before = transfer.done
            try:
                async with transport.open(transfer.call()) as response:
                    skip = transfer.begins(response)
                    async for part in response.parts():
                        if skip:
                            part, skip = part[skip:], max(0, skip - len(part))
                        if part:
                            transfer.take(part)
                            yield part
                transfer.pause()
            except TransientError as error:
                if transfer.done - before >= _HEADWAY:
                    attempts.progressed()
                await attempts.pause(error)
            except NotFoundError as error:
                raise NotFoundError(f"{transfer.name}: blob not found", status=404) from error
            except RegistryError as error:
                raise transfer.judge(error) from error
        transfer.verify()
    finally:
        limiter.release_on_behalf_of(holder)


class _Transfer:
    """How far one download has come, and what it may become."""

    def __init__(self, transport: Transport, reference: Reference, descriptor: Descriptor) -> None:
        self.name = f"{reference.name}@{descriptor.digest}"
        self.done = 0
        self._size = descriptor.size
        self._digest = descriptor.digest
        self._hash = hashlib.new(descriptor.digest.algorithm)
        self._url = f"/v2/{reference.repository}/blobs/{descriptor.digest}"
        self._claim = claim(reference, asked("GET", reference, descriptor.digest), "pull")

    @property
    def complete(self) -> bool:
        return self.done == self._size

    def call(self) -> Call:
        """The request for what is missing."""
        headers = {"Range": f"bytes={self.done}-"} if self.done else {}
        return Call("GET", self._url, self._claim, frozenset({200, 206}), headers)

    def begins(self, response: Response) -> int:
        """How many bytes of an answer were had already: a registry may ignore the range, or round it down."""
        start, length = 0, response.headers.length()
        if response.status == 206:
            begin = content_start(response.headers.get("content-range"))
            if begin is None or begin > self.done:
                raise RegistryError(f"{self.name}: the registry sent another range than the one from byte {self.done}")
            start = begin
        if length is not None and start + length != self._size:
            raise ContentError(f"{self.name}: the registry has {start + length} bytes of it, expected were {self._size}")
        return self.done - start

    def take(self, part: bytes) -> None:
        """Counts and digests a part, which must fit in."""
        if self.done + len(part) > self._size:
            raise ContentError(f"{self.name}: the registry sends more than the {self._size} bytes expected")
        self._hash.update(part)
        self.done += len(part)

    def pause(self) -> None:
        """After the end of an answer: it may have been cut in a way that HTTP does not show."""
        if not self.complete:
            raise TransientError(f"{self.name}: the answer ended after {self.done} of {self._size} bytes")

    def judge(self, error: RegistryError) -> ContentError | RegistryError:
        """A refused range means that the registry's blob ends before ours does."""
        if error.status == 416:
            return ContentError(f"{self.name}: the registry has no more than {self.done} of the {self._size} bytes expected")
        return error

    def verify(self) -> None:
        """The digest of everything."""
        found = self._hash.hexdigest()
        if found != self._digest.hex:
            raise ContentError(f"{self.name}: content does not match its digest, it is {self._digest.algorithm}:{found}")
