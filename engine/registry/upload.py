"""Getting a blob into a repository: found there, mounted, or uploaded.

An upload is a session at the registry: POST opens it, and one PUT sends the whole file, as fast as it goes. When that breaks,
the registry is asked whether it has the blob after all (the answer was lost), then how many bytes of the session it has: the
rest goes by PATCH; where neither is to be had, a new session begins. A registry (or the proxy before it) that finds the request
too large, or cuts it off twice before a byte was acknowledged, gets smaller pieces by PATCH, and is remembered for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
from msgspec import Struct
from msgspec.structs import replace

from engine.errors import ContentError, RegistryError, StorageError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.registry.base import Progress
from engine.registry.exchange import Answer, FilePart
from engine.registry.retry import TransientError
from engine.registry.rules import ERROR_BODY_LIMIT, acknowledged, asked, error_text, follow, refusal, with_query
from engine.registry.transport import Call, Transport, claim

PIECES = (32 << 20, 4 << 20, 1 << 20, 256 << 10)
"""Bytes of a piece, tried from left to right where a whole file is too large a request."""

_HEADWAY = 1 << 20
OCTET_STREAM = {"Content-Type": "application/octet-stream"}
_LOST = frozenset({400, 404, 405, 416, 501})
"""What a registry answers on an upload it does not know (any more), or cannot take pieces of."""
DONE = frozenset({200, 201, 202, 204})


class _LostError(RegistryError):
    """The session is gone, or not where we think it is; a new one may do."""


class _TooLargeError(RegistryError):
    """The request was too large."""


class _DigestError(RegistryError):
    """The registry got other bytes than the digest says."""


class _Session(Struct, frozen=True):
    """An upload the registry has opened: where the next request goes, the bytes it has, the least bytes of a piece."""

    url: str
    offset: int = 0
    least: int = 0


class Uploader:
    """The uploads of one client; remembers which registries want pieces, and of what size."""

    def __init__(self, transport: Transport, limiter: anyio.CapacityLimiter) -> None:
        self._transport = transport
        self._limiter = limiter
        self._pieces: dict[str, int] = {}

    async def has(self, reference: Reference, digest: Digest, *, pushing: bool = False) -> bool:
        """Whether a repository has a blob. `pushing` asks with the rights of a push, so that one token does for all of it.

        Refusals count as no: some registries refuse to say it of a repository that is not there, and the storage that others
        redirect to may sign URLs for GET only. What is refused in earnest is refused again by the next request.
        """
        return (await self._transport.fetch(look(reference, digest, pushing=pushing))).status == 200

    def needs_pieces(self, registry: str) -> bool:
        """Whether a registry has refused blobs in one piece."""
        return registry in self._pieces

    async def push(self, reference: Reference, descriptor: Descriptor, path: Path, mount_from: Sequence[Reference],
                   progress: Progress) -> bool:
        """Makes a repository have a blob; returns whether its bytes were uploaded. A place in the limiter is held while they
        are."""
        if await self.has(reference, descriptor.digest, pushing=True):
            return False
        upload = _Upload(self._transport, self, reference, descriptor, path, progress, self._pieces)
        for source in dict.fromkeys(s.repository for s in mount_from if s.registry == reference.registry):
            if source != reference.repository and await upload.mount(source):
                return False
        holder = object()
        await self._limiter.acquire_on_behalf_of(holder)
        try:
            await upload.run()
        finally:
            self._limiter.release_on_behalf_of(holder)
        return True


def look(reference: Reference, digest: Digest, *, pushing: bool) -> Call:
    """Asks whether a repository has a blob: 200 is yes, see `Uploader.has`."""
    rights = ("pull", "push") if pushing else ("pull",)
    return Call("HEAD", f"/v2/{reference.repository}/blobs/{digest}",
                claim(reference, asked("HEAD", reference, digest), *rights), frozenset({200, 400, 403, 404, 405}))


class _Upload:
    """One blob on its way."""

    def __init__(self, transport: Transport, uploader: Uploader, reference: Reference, descriptor: Descriptor, path: Path,
                 progress: Progress, pieces: dict[str, int]) -> None:
        self._transport = transport
        self._uploader = uploader
        self._reference = reference
        self._descriptor = descriptor
        self._path = path
        self._progress = progress
        self._pieces = pieces
        self._claim = claim(reference, asked("PUT", reference, descriptor.digest), "pull", "push")
        self._uploads = f"/v2/{reference.repository}/blobs/uploads/"
        self._attempts = transport.attempts()
        self._session: _Session | None = None
        self._cut_off = 0
        self._mismatches = 0
        self._done = False

    async def mount(self, source: str) -> bool:
        """Tries, once, to have the blob taken over from another repository. That a registry will not is no error; the session
        that it may have opened instead is used."""
        reference, digest = self._reference, self._descriptor.digest
        what = f"{asked('POST', reference, digest)} mounted from {source}"
        call = Call("POST", f"{self._uploads}?mount={digest}&from={source}",
                    claim(reference, what, "pull", "push", also_pull=source), frozenset({201, 202}))
        try:
            answer = await self._ask(call)
            if answer.status == 202:
                self._session = await self._opened(answer)
        except RegistryError:
            return False
        return answer.status == 201

    async def run(self) -> None:
        """Uploads the file, in as many sessions as it takes."""
        while not self._done:
            self._check_file()
            self._session = self._session or await self._begin()
            try:
                await self._send(self._session)
                return
            except RegistryError as error:
                await self._recover(error)

    async def _begin(self) -> _Session:
        return await self._opened(await self._transport.fetch(Call("POST", self._uploads, self._claim, frozenset({202}))))

    async def _opened(self, answer: Answer) -> _Session:
        least = answer.headers.get("oci-chunk-min-length")
        return _Session(await self._next(answer), 0, int(least[:12]) if least.isascii() and least.isdigit() else 0)

    async def _next(self, answer: Answer) -> str:
        endpoint = await self._transport.endpoint(self._reference.registry, self._claim.what)
        return follow(answer.url, answer.headers.get("location"), endpoint)

    async def _send(self, session: _Session) -> None:
        size, piece = self._descriptor.size, self._pieces.get(self._reference.registry)
        if piece is None and session.offset == 0:
            return await self._finish(session, self._part(0, size))
        length = max(piece or size, session.least)
        while session.offset < size:
            self._session = session = await self._patch(session, min(length, size - session.offset))
        await self._finish(session, None)

    async def _patch(self, session: _Session, length: int) -> _Session:
        end = session.offset + length
        headers = {**OCTET_STREAM, "Content-Range": f"{session.offset}-{end - 1}"}
        answer = await self._ask_upload(Call("PATCH", session.url, self._claim, DONE, headers,
                                             self._part(session.offset, length)))
        have = acknowledged(answer.headers.get("range"))
        have = end if have is None else have
        if not session.offset < have <= end:
            raise _LostError(f"registry {self._reference.registry} acknowledges {have} bytes of an upload after {end} were "
                             f"sent ({self._claim.what})", status=416)
        url = await self._next(answer) if answer.headers.get("location") else session.url
        return replace(session, url=url, offset=have)

    async def _finish(self, session: _Session, part: FilePart | None) -> None:
        digest = self._descriptor.digest
        url = with_query(session.url, "digest", str(digest))
        answer = await self._ask_upload(Call("PUT", url, self._claim, DONE, OCTET_STREAM, part))
        if answer.headers.get("docker-content-digest") not in ("", str(digest)):
            raise ContentError(f"{self._reference.name}@{digest}: the registry stored it as "
                               f"{answer.headers.digest()}")
        if answer.status == 202 and not await self._has():
            raise TransientError(f"registry {self._reference.registry} accepted the upload but does not have the blob "
                                 f"({self._claim.what})", status=202)
        self._progress(self._descriptor.size)

    async def _recover(self, error: RegistryError) -> None:
        """Decides how to go on after a failure, and waits; raises when there is no way."""
        session, self._session = self._session, None
        if isinstance(error, _TooLargeError):
            if not self._shrink():
                raise error
            return
        if isinstance(error, _DigestError):
            self._mismatches += 1
            if self._mismatches > 1:
                raise ContentError(f"{self._path} is not {self._descriptor.digest}: {error.message}") from error
        elif not isinstance(error, (_LostError, TransientError)):
            raise error
        passing = error if isinstance(error, TransientError) else TransientError(error.message, status=error.status)
        await self._attempts.pause(passing)
        if await self._has():
            self._done = True
        elif session and (isinstance(error, TransientError) or error.status == 416):
            self._session = await self._resume(session)
            self._judge(passing, self._session.offset - session.offset if self._session else 0)
        self._progress(self._descriptor.size if self._done else self._session.offset if self._session else 0)

    def _judge(self, error: TransientError, headway: int) -> None:
        """New hope when bytes were acknowledged; smaller pieces for a way that is cut off again and again without any."""
        if headway >= _HEADWAY:
            self._attempts.progressed()
        if headway > 0:
            self._cut_off = 0
        elif error.status == 0 and error.reached:
            self._cut_off += 1
            if self._cut_off == 2 and self._shrink():
                self._cut_off = 0

    async def _resume(self, session: _Session) -> _Session | None:
        """Where the session is now, by the registry's word; None when there is nothing to go on with."""
        answer = await self._transport.fetch(Call("GET", session.url, self._claim, DONE | _LOST))
        have = acknowledged(answer.headers.get("range")) if answer.status in DONE else None
        # `0-0` stands for nothing in most registries, for one byte in a few: not worth telling apart.
        if have is None or not 1 < have <= self._descriptor.size:
            return None
        url = await self._next(answer) if answer.headers.get("location") else session.url
        return replace(session, url=url, offset=have)

    def _shrink(self) -> bool:
        registry = self._reference.registry
        limit = min(self._descriptor.size, self._pieces.get(registry, self._descriptor.size))
        smaller = next((piece for piece in PIECES if piece < limit), None)
        if smaller is not None:
            self._pieces[registry] = smaller
        return smaller is not None

    async def _has(self) -> bool:
        return await self._uploader.has(self._reference, self._descriptor.digest, pushing=True)

    async def _ask(self, call: Call) -> Answer:
        async with self._transport.open(call) as response:
            return Answer(response.status, response.headers, await response.head(ERROR_BODY_LIMIT), response.url)

    async def _ask_upload(self, call: Call) -> Answer:
        """A request that carries a part of the blob: once, its refusals sorted."""
        answer = await self._ask(replace(call, expected=DONE | _LOST | {413}))
        if answer.status in DONE:
            return answer
        error = refusal(self._reference.registry, self._claim.what, answer.status, answer.headers, answer.body, 0.0)
        kind: type[RegistryError] = _LostError
        if answer.status == 413:
            kind = _TooLargeError
        elif answer.status == 400 and error_text(answer.body)[0] & {"DIGEST_INVALID", "SIZE_INVALID"}:
            kind = _DigestError
        raise kind(error.message, status=answer.status, hint=error.hint)

    def _part(self, offset: int, length: int) -> FilePart:
        return FilePart(self._path, offset, length, lambda sent: self._progress(offset + sent))

    def _check_file(self) -> None:
        try:
            size = self._path.stat().st_size
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror}") from error
        if size != self._descriptor.size:
            raise ContentError(f"{self._path} has {size} bytes, {self._descriptor.digest} has {self._descriptor.size}")
