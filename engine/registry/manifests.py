"""Manifests by tag and digest, lists of tags, referrers (OCI distribution spec 1.1)."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

from msgspec.structs import replace

from engine import codec
from engine.errors import ContentError, NotFoundError, RegistryError
from engine.image import manifest as manifests
from engine.image.descriptor import OCI_INDEX, Descriptor
from engine.image.digest import Digest
from engine.image.manifest import MAX_MANIFEST_SIZE, Index, Manifest
from engine.image.reference import Reference
from engine.registry.auth import Claim
from engine.registry.base import Fetched
from engine.registry.exchange import Answer
from engine.registry.rules import ACCEPT_MANIFESTS, asked, next_page, refusal, says_immutable
from engine.registry.transport import Call, Transport, claim

_BAD_HEAD = frozenset({400, 405, 406, 501})
_NO_REFERRERS = frozenset({400, 404, 405, 406, 501})
_REFUSED_TAG = frozenset({400, 403, 405, 409, 412, 422})
_DELETED = frozenset({200, 202, 204, 404})
_LIST_LIMIT = 4 << 20
_PAGES = 10_000


class Manifests:
    """What a client does with manifests."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def resolve(self, reference: Reference) -> Descriptor:
        """See `Registry.resolve`."""
        asking = claim(reference, asked("HEAD", reference), "pull")
        call = Call("HEAD", _url(reference), asking, frozenset({200, 404, *_BAD_HEAD}), {"Accept": ACCEPT_MANIFESTS})
        answer = await self._transport.fetch(call)
        if answer.status == 404:
            raise NotFoundError(f"{reference}: not found", status=404)
        media_type = answer.headers.get("content-type").partition(";")[0].strip()
        size, digest = answer.headers.length(), reference.digest
        if answer.status == 200 and media_type.endswith("json") and size:
            found = answer.headers.digest()
            if found and digest and found.algorithm == digest.algorithm and found != digest:
                raise ContentError(f"{reference}: the registry answers with {found}")
            if digest or found:
                return Descriptor(media_type, digest or found, size)  # type: ignore[arg-type]  # one of them is there
        return (await self.fetch(reference)).descriptor

    async def fetch(self, reference: Reference) -> Fetched:
        """See `Registry.manifest`."""
        asking = claim(reference, asked("GET", reference), "pull")
        call = Call("GET", _url(reference), asking, frozenset({200}), {"Accept": ACCEPT_MANIFESTS})
        try:
            answer = await self._transport.fetch(call, MAX_MANIFEST_SIZE)
        except NotFoundError as error:
            raise NotFoundError(f"{reference}: not found", status=404) from error
        digest = _verify(reference, answer)
        try:
            parsed = manifests.parse(answer.body, answer.headers.get("content-type"))
        except ContentError as error:
            raise ContentError(f"{reference}: {error.message}", hint=error.hint) from error
        return Fetched(replace(parsed.descriptor, digest=digest), parsed)

    async def push(self, reference: Reference, raw: bytes, media_type: str) -> Digest:
        """See `Registry.push_manifest`: under the tag where there is one, else under the digest."""
        digest = _digest(raw, reference.digest)
        if reference.digest and reference.digest != digest:
            raise ContentError(f"{reference}: the manifest to push is {digest}")
        target = reference.tag or str(digest)
        asking = claim(reference, asked("PUT", replace(reference, digest=None) if reference.tag else reference), "pull", "push")
        call = Call("PUT", _url(reference, target), asking, frozenset({200, 201, 202, 204, *_REFUSED_TAG}),
                    {"Content-Type": media_type}, raw)
        answer = await self._transport.fetch(call)
        if answer.status in _REFUSED_TAG:
            await self._judge_refusal(reference, digest, asking, answer)
        found = answer.headers.digest() if answer.status not in _REFUSED_TAG else None
        if found and found.algorithm == digest.algorithm and found != digest:
            raise ContentError(f"{reference}: the registry stored the manifest as {found} instead of {digest}")
        if not answer.headers.get("oci-subject"):
            await self._list_under_subject(reference, raw, media_type)
        return digest

    async def _judge_refusal(self, reference: Reference, digest: Digest, asking: Claim, answer: Answer) -> None:
        """A refused tag that already points to what was pushed is as good as pushed; else raises what happened."""
        error = refusal(reference.registry, asking.what, answer.status, answer.headers, answer.body, 0.0)
        if not reference.tag:
            raise error
        try:
            existing = (await self.resolve(replace(reference, digest=None))).digest
        except RegistryError:
            raise error from None
        if existing == digest:
            return
        if says_immutable(answer.status, error.message):
            raise RegistryError(f"{reference.with_tag(reference.tag)}: the tag exists as {existing} and the registry does not "
                                f"let it be moved: {error.message}", status=answer.status, hint="push under another tag")
        raise error

    async def _list_under_subject(self, reference: Reference, raw: bytes, media_type: str) -> None:
        """Where a registry has no referrers API, the pusher of a manifest with a subject lists it under the subject's tag."""
        if b'"subject"' not in raw:
            return
        pushed = manifests.parse(raw, media_type)
        if not isinstance(pushed, Manifest) or pushed.subject is None:
            return
        tag = _fallback_tag(reference, pushed.subject.digest)
        kind = pushed.artifact_type or pushed.config.media_type
        entry = replace(pushed.descriptor, artifact_type=kind, annotations=pushed.annotations)
        listed = await self._listed(tag)
        if all(known.digest != entry.digest for known in listed):
            await self.push(tag, manifests.make_index((*listed, entry)).raw, OCI_INDEX)

    async def referrers(self, reference: Reference, digest: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """See `Registry.referrers`."""
        asking = claim(reference, f"GET referrers of {reference.repository}@{digest.algorithm}:{digest.short}", "pull")
        url: str | None = f"/v2/{reference.repository}/referrers/{digest}"
        if artifact_type:
            url = f"{url}?artifactType={quote(artifact_type, safe='')}"
        found: list[Descriptor] = []
        for _ in range(_PAGES):
            call = Call("GET", url or "", asking, frozenset({200, *_NO_REFERRERS}), {"Accept": OCI_INDEX})
            answer = await self._transport.fetch(call, _LIST_LIMIT)
            if answer.status != 200 or not answer.headers.get("content-type").startswith(OCI_INDEX):
                found = list(await self._listed(_fallback_tag(reference, digest)))
                break
            page = manifests.parse(answer.body, OCI_INDEX)
            found += page.manifests if isinstance(page, Index) else ()
            url = next_page(answer.headers.all("link"), answer.url)
            if not url:
                break
        return tuple(entry for entry in found if not artifact_type or entry.artifact_type == artifact_type)

    async def _listed(self, tag: Reference) -> tuple[Descriptor, ...]:
        try:
            listed = (await self.fetch(tag)).manifest
        except NotFoundError:
            return ()
        return listed.manifests if isinstance(listed, Index) else ()

    async def tags(self, reference: Reference) -> tuple[str, ...]:
        """See `Registry.tags`."""
        asking = claim(reference, f"GET tags of {reference.repository}", "pull")
        url: str | None = f"/v2/{reference.repository}/tags/list?n=1000"
        found: dict[str, None] = {}
        for _ in range(_PAGES):
            try:
                answer = await self._transport.fetch(Call("GET", url or "", asking), _LIST_LIMIT)
                page = codec.decode(answer.body)["tags"] or ()
                before = len(found)
                found |= dict.fromkeys(tag for tag in page if isinstance(tag, str))
            except NotFoundError as error:
                raise NotFoundError(f"{reference.name}: repository not found", status=404) from error
            except (ValueError, TypeError, KeyError) as error:
                raise ContentError(f"{reference.name}: the registry's list of tags cannot be read") from error
            url = next_page(answer.headers.all("link"), answer.url)
            if not url or len(found) == before:
                break
        return tuple(found)

    async def delete(self, reference: Reference) -> None:
        """See `Registry.delete`. Where a registry cannot delete a tag, the manifest it points to is deleted, and with it every
        other tag of that manifest."""
        asking = claim(reference, asked("DELETE", reference), "pull", "delete")
        by_tag = reference.digest is None
        answer = await self._transport.fetch(Call("DELETE", _url(reference), asking,
                                                  _DELETED | {400, 405} if by_tag else _DELETED))
        if answer.status in (400, 405):
            digest = (await self.resolve(reference)).digest
            answer = await self._transport.fetch(Call("DELETE", _url(reference, str(digest)), asking, _DELETED))
        if answer.status == 404:
            raise NotFoundError(f"{reference}: not found", status=404)


def _url(reference: Reference, target: str = "") -> str:
    return f"/v2/{reference.repository}/manifests/{target or reference.target}"


def _digest(raw: bytes, like: Digest | None) -> Digest:
    """The digest of some bytes, by the algorithm of another digest."""
    return Digest(like.algorithm, hashlib.new(like.algorithm, raw).hexdigest()) if like else Digest.of(raw)


def _verify(reference: Reference, answer: Answer) -> Digest:
    """The digest of a manifest, which must be the one asked for, or the one that the registry says it is."""
    wanted = reference.digest or answer.headers.digest()
    digest = _digest(answer.body, wanted)
    if wanted and digest != wanted:
        raise ContentError(f"{reference}: content does not match its digest, it is {digest}"
                           + ("" if reference.digest else f" and the registry says {wanted}"))
    return digest


def _fallback_tag(reference: Reference, digest: Digest) -> Reference:
    return reference.with_tag(f"{digest.algorithm}-{digest.hex}"[:128])
