"""Manifests, tags and referrers (OCI distribution spec, "Pulling manifests", "Pushing Manifests", "Content Management")."""

from __future__ import annotations

import hashlib
from typing import Any

from aiohttp import web
from anyio import to_thread

from engine import codec
from engine.errors import ContentError
from engine.image.descriptor import OCI_INDEX, OCTETS, Descriptor
from engine.image.digest import Digest
from engine.image.manifest import Index, Manifest, parse
from engine.registry.server.names import Repository, Tag, parse_reference
from engine.registry.server.refusals import Refusal
from engine.registry.server.state import State, digest_of, page, repository_of, state_of, told_digest
from engine.registry.server.storage import StoredManifest
from engine.registry.server.transfer import EXCHANGE, receive_small, send

MAX_MANIFEST = 4 << 20
"""Bytes: the size that the distribution spec wants registries to accept at least, and most accept at most."""


async def get_manifest(request: web.Request) -> web.StreamResponse:
    """GET and HEAD of a manifest by tag or digest."""
    reference = parse_reference(request.match_info["reference"])
    found = state_of(request).storage.manifest(repository_of(request), reference)
    if found is None:
        raise Refusal("MANIFEST_UNKNOWN", {"reference": str(reference)})
    headers = {"Content-Type": found.media_type, "Docker-Content-Digest": told_digest(request, found.digest),
               "ETag": f'"{found.digest}"'}  # fmt: skip
    return await send(request, found.raw, headers)


async def put_manifest(request: web.Request) -> web.StreamResponse:
    """PUT of a manifest: what it points to must be in the repository; a subject need not be."""
    state, repository = state_of(request), repository_of(request)
    reference = parse_reference(request.match_info["reference"])
    raw = await receive_small(request, MAX_MANIFEST)
    digest = _digest(raw, reference)
    media_type = request.content_type if "Content-Type" in request.headers else ""
    try:
        manifest = parse(raw, "" if media_type == OCTETS else media_type)
        subject, referrer = _referrer(manifest, digest)
    except ContentError as error:
        raise Refusal("MANIFEST_INVALID", {"reason": str(error)}) from error
    _check_children(state, repository, manifest)
    tag = reference if isinstance(reference, Tag) else None
    if tag:
        _check_immutable(request, state, repository, tag, digest)
    stored = StoredManifest(digest, manifest.media_type, raw)
    state.storage.put_manifest(repository, stored, tag, subject, referrer)
    headers = {"Location": f"/v2/{repository}/manifests/{digest}", "Docker-Content-Digest": told_digest(request, digest)}
    return web.Response(status=201, headers=headers | ({"OCI-Subject": str(subject)} if subject else {}))


async def delete_manifest(request: web.Request) -> web.StreamResponse:
    """DELETE of a tag, or of a manifest with all its tags."""
    state, repository = state_of(request), repository_of(request)
    reference = parse_reference(request.match_info["reference"])
    unknown = Refusal("MANIFEST_UNKNOWN", {"reference": str(reference)})
    if isinstance(reference, Tag):
        if not state.storage.delete_tag(repository, reference):
            raise unknown
        return web.Response(status=202)
    found = state.storage.manifest(repository, reference)
    if found is None:
        raise unknown
    subject, _ = _referrer(parse(found.raw, found.media_type), reference)
    if not await to_thread.run_sync(state.storage.delete_manifest, repository, reference, subject, limiter=state.disk):
        raise unknown
    return web.Response(status=202)


async def list_tags(request: web.Request) -> web.StreamResponse:
    """GET of the tags, in order, in pages."""
    state, repository = state_of(request), repository_of(request)
    tags = await to_thread.run_sync(state.storage.tags, repository, limiter=state.disk)
    if tags is None:
        raise Refusal("NAME_UNKNOWN", {"name": repository.name})
    names, headers = page(request, tags)
    return _json({"name": repository.name, "tags": names}, headers=headers)


async def list_referrers(request: web.Request) -> web.StreamResponse:
    """GET of an index over the manifests that have a digest as their subject."""
    state, digest = state_of(request), digest_of(request)
    found = await to_thread.run_sync(state.storage.referrers, repository_of(request), digest, limiter=state.disk)
    headers = {}
    if kind := request.query.get("artifactType"):
        found = [d for d in found if d.get("artifactType") == kind]
        headers["OCI-Filters-Applied"] = "artifactType"
    return _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}, media_type=OCI_INDEX, headers=headers)


async def list_catalog(request: web.Request) -> web.StreamResponse:
    """GET of the names of all repositories (docker's registry API), in pages."""
    state = state_of(request)
    found = await to_thread.run_sync(state.storage.catalog, limiter=state.disk)
    names, headers = page(request, [r.name for r in found])
    return _json({"repositories": names}, headers=headers)


def _digest(raw: bytes, reference: Tag | Digest) -> Digest:
    if isinstance(reference, Tag):
        return Digest.of(raw)
    found = Digest(reference.algorithm, hashlib.new(reference.algorithm, raw).hexdigest())
    if found != reference:
        raise Refusal("DIGEST_INVALID", {"digest": str(reference), "found": str(found)})
    return found


def _referrer(manifest: Manifest | Index, digest: Digest) -> tuple[Digest | None, dict[str, Any] | None]:
    """The subject of a manifest, and the descriptor of the manifest as the referrers API gives it."""
    value = codec.decode(manifest.raw)
    if not value.get("subject"):
        return None, None
    subject = Descriptor.from_json(value["subject"]).digest
    kind = str(value.get("artifactType") or "") or (manifest.config.media_type if isinstance(manifest, Manifest) else "")
    descriptor = Descriptor(manifest.media_type, digest, len(manifest.raw), manifest.annotations, artifact_type=kind)
    return subject, descriptor.to_json()


def _check_children(state: State, repository: Repository, manifest: Manifest | Index) -> None:
    wanted = manifest.manifests if isinstance(manifest, Index) else (manifest.config, *manifest.layers)
    for child in wanted:
        # Layers that may not be distributed lie elsewhere, by their own URLs
        if "foreign" in child.media_type or "nondistributable" in child.media_type:
            continue
        found = state.storage.blob(repository, child.digest)
        if found is None:
            raise Refusal("MANIFEST_BLOB_UNKNOWN", {"digest": str(child.digest)})
        if found[1] != child.size:
            raise Refusal("MANIFEST_INVALID", {"digest": str(child.digest), "size": child.size, "found": found[1]})


def _check_immutable(request: web.Request, state: State, repository: Repository, tag: Tag, digest: Digest) -> None:
    fault = request[EXCHANGE].fault
    if fault and fault.kind == "immutable" and state.storage.resolve(repository, tag) not in (None, digest):
        raise Refusal("DENIED", {"tag": tag.name}, status=fault.status, message="the tag is immutable")


def _json(value: Any, *, media_type: str = "application/json", headers: dict[str, str]) -> web.Response:
    return web.Response(body=codec.encode(value), headers=headers | {"Content-Type": media_type})
