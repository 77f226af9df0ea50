"""Blobs and their uploads (OCI distribution spec, "Pulling blobs", "Pushing Blobs")."""

from __future__ import annotations

import re

from aiohttp import web

from engine.image.descriptor import OCTETS
from engine.registry.server.access import Grant
from engine.registry.server.names import Repository, parse_digest
from engine.registry.server.refusals import Refusal
from engine.registry.server.state import digest_of, realm_of, repository_of, state_of, told_digest
from engine.registry.server.transfer import EXCHANGE, receive, send
from engine.registry.server.uploads import Upload

_RANGE = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/.*)?")


async def get_blob(request: web.Request) -> web.StreamResponse:
    """GET and HEAD of a blob."""
    repository, digest = repository_of(request), digest_of(request)
    found = state_of(request).storage.blob(repository, digest)
    if found is None:
        raise Refusal("BLOB_UNKNOWN", {"digest": str(digest)})
    headers = {"Content-Type": OCTETS, "Docker-Content-Digest": told_digest(request, digest), "Accept-Ranges": "bytes",
               "ETag": f'"{digest}"', "Cache-Control": "max-age=31536000"}  # fmt: skip
    return await send(request, found[0], headers)


async def delete_blob(request: web.Request) -> web.StreamResponse:
    """DELETE of a blob."""
    digest = digest_of(request)
    if not state_of(request).storage.unlink(repository_of(request), digest):
        raise Refusal("BLOB_UNKNOWN", {"digest": str(digest)})
    return web.Response(status=202)


async def start_upload(request: web.Request) -> web.StreamResponse:
    """POST: a mount, a whole blob in one request, or the beginning of an upload."""
    state, repository, query = state_of(request), repository_of(request), request.query
    if "mount" in query and "from" in query and _mount(request, repository):
        return _created(request, repository, query["mount"])
    upload = state.uploads.create(repository)
    if "digest" not in query:
        return _accepted(upload, 202)
    try:
        digest = parse_digest(query["digest"])
        async with state.uploads.hold(repository, upload.id):
            await _append(request, upload)
            await state.uploads.finish(upload, digest)
    finally:
        state.uploads.cancel(upload)
    return _created(request, repository, query["digest"])


async def continue_upload(request: web.Request) -> web.StreamResponse:
    """PATCH: more bytes, at the end or, with Content-Range, exactly where the upload is."""
    state = state_of(request)
    async with state.uploads.hold(repository_of(request), request.match_info["id"]) as upload:
        _lose(request, upload)
        _check_range(request, upload)
        await _append(request, upload)
        return _accepted(upload, 202)


async def finish_upload(request: web.Request) -> web.StreamResponse:
    """PUT: perhaps the last bytes, and the digest of them all."""
    state, repository = state_of(request), repository_of(request)
    if "digest" not in request.query:
        raise Refusal("DIGEST_INVALID", message="the query has no digest")
    digest = parse_digest(request.query["digest"])
    async with state.uploads.hold(repository, request.match_info["id"]) as upload:
        _lose(request, upload)
        _check_range(request, upload)
        await _append(request, upload)
        await state.uploads.finish(upload, digest)
    return _created(request, repository, str(digest))


async def upload_status(request: web.Request) -> web.StreamResponse:
    """GET: how far an upload has come."""
    return _accepted(await state_of(request).uploads.get(repository_of(request), request.match_info["id"]), 204)


async def cancel_upload(request: web.Request) -> web.StreamResponse:
    """DELETE of an upload."""
    state = state_of(request)
    async with state.uploads.hold(repository_of(request), request.match_info["id"]) as upload:
        state.uploads.cancel(upload)
    return web.Response(status=204)


def _mount(request: web.Request, repository: Repository) -> bool:
    state, fault = state_of(request), request[EXCHANGE].fault
    digest, source = parse_digest(request.query["mount"]), Repository(request.query["from"])
    if fault and fault.kind == "no-mount":
        return False
    if state.access:
        wanted: frozenset[Grant] = frozenset({(source.name, "pull")})
        try:
            state.access.check(request.headers.get("Authorization", ""), wanted, realm_of(request))
        except Refusal:
            return False  # whoever may not read a blob there gets no answer that tells whether it is there
    return state.storage.mount(repository, digest, source)


async def _append(request: web.Request, upload: Upload) -> None:
    uploads = state_of(request).uploads
    async for data in receive(request):
        await uploads.append(upload, data)


def _lose(request: web.Request, upload: Upload) -> None:
    fault = request[EXCHANGE].fault
    if fault and fault.kind == "lost-upload":
        state_of(request).uploads.cancel(upload)
        raise Refusal("BLOB_UPLOAD_UNKNOWN", {"id": upload.id})


def _check_range(request: web.Request, upload: Upload) -> None:
    text = request.headers.get("Content-Range")
    if text is None:
        return
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2])) if match else (-1, -1)
    if first != upload.offset or last < first - 1:
        raise Refusal("BLOB_UPLOAD_INVALID", {"offset": upload.offset}, status=416, message="out of order chunk",
                      headers=_where(upload))
    if request.content_length is not None and request.content_length != last - first + 1:
        raise Refusal("SIZE_INVALID", {"range": text}, headers=_where(upload))


def _where(upload: Upload) -> dict[str, str]:
    return {"Location": f"/v2/{upload.repository}/blobs/uploads/{upload.id}", "Range": f"0-{max(upload.offset - 1, 0)}",
            "Docker-Upload-UUID": upload.id}  # fmt: skip


def _accepted(upload: Upload, status: int) -> web.Response:
    return web.Response(status=status, headers=_where(upload))


def _created(request: web.Request, repository: Repository, digest: str) -> web.Response:
    return web.Response(status=201, headers={"Location": f"/v2/{repository}/blobs/{digest}",
                                             "Docker-Content-Digest": told_digest(request, parse_digest(digest))})  # fmt: skip
