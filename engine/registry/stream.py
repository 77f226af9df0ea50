"""Sending a blob while it is still being written, and its digest not known: POST opens an upload, one PATCH of unknown length sends
what there is as it comes, and at the end PUT gives it its name.

Nothing of it is tried twice, and what fails is not told: `upload` does the work then, with all its patience. A registry at which it
has failed is not asked again. An upload that does not come to its end is cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio

from engine.errors import EngineError
from engine.image.descriptor import Descriptor
from engine.image.reference import Reference
from engine.registry.base import Growing
from engine.registry.exchange import Answer, GrowingPart
from engine.registry.rules import ERROR_BODY_LIMIT, follow, with_query
from engine.registry.transport import Call, Transport, claim
from engine.registry.upload import DONE, OCTET_STREAM, Uploader, look

CANCEL_SECONDS = 5.0
"""How long an upload is given to come to an end in order when it is cancelled, and then the registry to forget it."""


class Streams:
    """The streams of one client. `limiter` bounds the uploads: a stream that finds no place is none."""

    def __init__(self, transport: Transport, uploader: Uploader, limiter: anyio.CapacityLimiter) -> None:
        self._transport = transport
        self._uploader = uploader
        self._limiter = limiter
        self._failed: set[str] = set()

    @asynccontextmanager
    async def follow(self, reference: Reference, growing: Growing) -> AsyncIterator[Stream]:
        """Sends the blob to the repository while the block goes on; who knows its digest calls `finish`. When the block has ended,
        the registry has the blob, or nothing of it."""
        stream = Stream(self._transport, self._limiter, reference, growing)
        failure: EngineError | None = None
        async with anyio.create_task_group() as tasks:
            if reference.registry not in self._failed and not self._uploader.needs_pieces(reference.registry):
                tasks.start_soon(stream.send)
            else:
                stream.sent.set()
            try:
                yield stream
            except EngineError as error:  # it would come out of the task group in an exception group
                failure = error
            finally:
                await stream.close()
                if stream.failed:
                    self._failed.add(reference.registry)
        if failure:
            raise failure


class Stream:
    """One blob on its way. `sent` is set when no more will be sent; `failed` says that the registry, or the way there, does not
    take it."""

    def __init__(self, transport: Transport, limiter: anyio.CapacityLimiter, reference: Reference, growing: Growing) -> None:
        self._transport = transport
        self._limiter = limiter
        self._reference = reference
        self._growing = growing
        self._part: GrowingPart | None = None
        self._session = ""
        self._taken: int | None = None
        self._sending = anyio.CancelScope(shield=True)  # ends in order, if it can
        self._closed = False
        self.sent = anyio.Event()
        self.failed = False

    async def send(self) -> None:
        """Sends the blob until it has ended, is stopped, or that fails."""
        holder = object()
        try:
            with self._sending:
                self._part = GrowingPart(self._growing)
                if self._closed or not await self._part.more(0):
                    return
                self._limiter.acquire_on_behalf_of_nowait(holder)
                try:
                    await self._upload(self._part)
                finally:
                    self._limiter.release_on_behalf_of(holder)
        except (OSError, anyio.WouldBlock):
            pass
        except EngineError:
            self.failed = True
        finally:
            self.sent.set()

    async def finish(self, blob: Descriptor) -> bool | None:
        """At the end of the writing: makes the repository have the blob. True when it was sent, False when it was there already (it
        is asked meanwhile), None when this is not the way."""
        if self.sent.is_set() and self._taken != blob.size:
            return None
        try:
            if (await self._ask(look(self._reference, blob.digest, pushing=True))).status == 200:
                return False
            await self.sent.wait()
            if self._taken != blob.size:
                return None
            url = with_query(self._session, "digest", str(blob.digest))
            answer = await self._ask(self._call("PUT", url, frozenset({201, 204})))
            self._session = ""
            self.failed = answer.headers.get("docker-content-digest") not in ("", str(blob.digest))
        except EngineError:
            self.failed = True
        return None if self.failed else True

    async def close(self) -> None:
        """Sends no more, and cancels the upload unless it is finished."""
        self._closed = True
        if self._part:
            self._part.stop()
        with anyio.move_on_after(CANCEL_SECONDS, shield=True):
            await self.sent.wait()
        self._sending.cancel()
        with anyio.move_on_after(CANCEL_SECONDS, shield=True):
            if self._session:
                await self._cancel()

    async def _upload(self, part: GrowingPart) -> None:
        uploads = f"/v2/{self._reference.repository}/blobs/uploads/"
        self._session = await self._next(await self._ask(self._call("POST", uploads, frozenset({202}))))
        answer = await self._ask(self._call("PATCH", self._session, DONE, part))
        if answer.headers.get("location"):
            self._session = await self._next(answer)
        self._taken = part.sent

    async def _cancel(self) -> None:
        session, self._session = self._session, ""
        with suppress(EngineError):
            await self._ask(self._call("DELETE", session, DONE))

    def _call(self, method: str, url: str, expected: frozenset[int], part: GrowingPart | None = None) -> Call:
        rights = claim(self._reference, f"{method} {self._reference.repository}, a layer that is being made", "pull", "push")
        return Call(method, url, rights, expected, {} if method in ("POST", "DELETE") else OCTET_STREAM, part)

    async def _next(self, answer: Answer) -> str:
        endpoint = await self._transport.endpoint(self._reference.registry, f"upload to {self._reference.repository}")
        return follow(answer.url, answer.headers.get("location"), endpoint)

    async def _ask(self, call: Call) -> Answer:
        async with self._transport.open(call) as response:
            return Answer(response.status, response.headers, await response.head(ERROR_BODY_LIMIT), response.url)
