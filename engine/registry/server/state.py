"""What the handlers share, and what they read of a request."""

from __future__ import annotations

import anyio
from aiohttp import web
from msgspec import Struct

from engine.image.digest import Digest
from engine.registry.server.access import Access
from engine.registry.server.faults import FaultPlan
from engine.registry.server.names import Repository, parse_digest
from engine.registry.server.refusals import Refusal
from engine.registry.server.storage import Storage
from engine.registry.server.transfer import EXCHANGE
from engine.registry.server.uploads import Uploads


class State(Struct, frozen=True):
    """One registry. `disk` limits the threads that read, write and digest."""

    storage: Storage
    uploads: Uploads
    faults: FaultPlan
    disk: anyio.CapacityLimiter
    access: Access | None = None
    read_only: bool = False


STATE = web.AppKey("state", State)


def state_of(request: web.Request) -> State:
    """The registry a request came to."""
    return request.app[STATE]


def repository_of(request: web.Request) -> Repository:
    """The repository in a request's URL; raises `Refusal` NAME_INVALID."""
    return Repository(request.match_info["name"])


def digest_of(request: web.Request) -> Digest:
    """The digest in a request's URL; raises `Refusal` DIGEST_INVALID."""
    return parse_digest(request.match_info["digest"])


def realm_of(request: web.Request) -> str:
    """The URL of the token endpoint, as the client that sent this request can reach it."""
    return f"{request.scheme}://{request.host}/token"


def told_digest(request: web.Request, digest: Digest) -> str:
    """What the header Docker-Content-Digest says, which a fault may make another digest."""
    fault = request[EXCHANGE].fault
    return str(Digest.of(b"other content") if fault and fault.kind == "wrong-digest" else digest)


def page(request: web.Request, names: list[str]) -> tuple[list[str], dict[str, str]]:
    """The part of a sorted list that `n` and `last` ask for, and the Link header to the next one (distribution spec, "Listing
    Tags"); raises `Refusal` PAGINATION_NUMBER_INVALID."""
    last, count = request.query.get("last"), request.query.get("n")
    if last is not None:
        names = [name for name in names if name > last]
    if count is None:
        return names, {}
    if not count.isascii() or not count.isdigit() or len(count) > 9:
        raise Refusal("PAGINATION_NUMBER_INVALID", {"n": count[:64]})
    taken = names[: int(count)]
    if not taken or len(taken) == len(names):
        return taken, {}
    following = request.rel_url.with_query({"n": count, "last": taken[-1]})
    return taken, {"Link": f'<{following}>; rel="next"'}
