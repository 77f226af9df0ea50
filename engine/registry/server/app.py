"""The registry's URLs, and what holds for every request: the log, error answers, access, faults."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

import anyio
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from engine import codec
from engine.registry.server import blobs, manifests
from engine.registry.server.access import Grant, TokenAuth, credentials
from engine.registry.server.faults import Fault
from engine.registry.server.refusals import Refusal
from engine.registry.server.state import STATE, State, realm_of, state_of
from engine.registry.server.transfer import EXCHANGE, Exchange, Reset, reset

Log = Callable[[Exchange], None]
Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]

_READING = ("GET", "HEAD")
_GONE = 499


def make_app(state: State, log: Log) -> web.Application:
    """The application. `log` gets each request when it arrives; the record is completed before the answer is sent."""
    logging = _logging(log)
    app = web.Application(middlewares=[logging, _errors, _access, _faults], client_max_size=manifests.MAX_MANIFEST)
    app[STATE] = state
    app.on_response_prepare.append(_note)
    one, digest, upload = "/v2/{name:.+}", "{digest:[^/]+}", "blobs/uploads/{id:[^/]+}"
    routes: list[tuple[str, str, Endpoint]] = [
        ("GET", "/v2/", version),
        ("GET", "/v2/_catalog", manifests.list_catalog),
        ("GET", f"{one}/tags/list", manifests.list_tags),
        ("GET", f"{one}/referrers/{digest}", manifests.list_referrers),
        ("POST", f"{one}/blobs/uploads/", blobs.start_upload),
        ("POST", f"{one}/blobs/uploads", blobs.start_upload),
        ("GET", f"{one}/{upload}", blobs.upload_status),
        ("PATCH", f"{one}/{upload}", blobs.continue_upload),
        ("PUT", f"{one}/{upload}", blobs.finish_upload),
        ("DELETE", f"{one}/{upload}", blobs.cancel_upload),
        ("GET", f"{one}/blobs/{digest}", blobs.get_blob),
        ("DELETE", f"{one}/blobs/{digest}", blobs.delete_blob),
        ("GET", f"{one}/manifests/{{reference:[^/]+}}", manifests.get_manifest),
        ("PUT", f"{one}/manifests/{{reference:[^/]+}}", manifests.put_manifest),
        ("DELETE", f"{one}/manifests/{{reference:[^/]+}}", manifests.delete_manifest),
        ("GET", "/token", token),
        ("POST", "/token", token),
    ]
    for method, path, endpoint in routes:
        app.router.add_route(method, path, endpoint)
        if method == "GET":
            app.router.add_route("HEAD", path, endpoint)
    return app


async def version(request: web.Request) -> web.StreamResponse:
    """GET /v2/: here is a registry, and you may use it."""
    return web.Response(body=b"{}", headers={"Content-Type": "application/json"})


async def token(request: web.Request) -> web.StreamResponse:
    """The token endpoint: GET with basic authentication, or the OAuth2 form in a POST."""
    access = state_of(request).access
    if not isinstance(access, TokenAuth):
        raise web.HTTPNotFound
    if request.method == "POST":
        form = {k: str(v) for k, v in (await request.post()).items()}
        scopes = [form.get("scope", "")]
        if form.get("grant_type") == "refresh_token":
            answer = access.refresh(form.get("refresh_token", ""), scopes)
        else:
            pair = (form.get("username", ""), form.get("password", ""))
            answer = access.issue(pair, scopes, offline=form.get("access_type") == "offline")
    else:
        offline = request.query.get("offline_token") == "true"
        header = request.headers.get("Authorization", "")
        if header and credentials(header) is None:
            raise Refusal("UNAUTHORIZED", message="basic authentication expected")
        answer = access.issue(credentials(header), request.query.getall("scope", []), offline=offline)
    return web.Response(body=codec.encode(answer), headers={"Content-Type": "application/json", "Cache-Control": "no-store"})


async def _note(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
    exchange = request.get(EXCHANGE)
    if exchange and response.status != _GONE:
        exchange.status = response.status
        if request.method != "HEAD" and response.content_length:
            exchange.sent = response.content_length


def _logging(log: Log) -> Middleware:
    @web.middleware
    async def logging(request: web.Request, handler: Handler) -> web.StreamResponse:
        exchange = Exchange(request.method, request.path, request.query_string)
        request[EXCHANGE] = exchange
        log(exchange)
        return await handler(request)

    return logging


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as error:
        refusal = error
    except web.HTTPException as error:
        if error.status < 400:
            raise
        refusal = Refusal("UNSUPPORTED" if error.status == 405 else "UNKNOWN", status=error.status, message=error.reason)
    except (Reset, ConnectionError):
        return web.Response(status=_GONE)  # nobody reads it: the connection is gone
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        refusal = Refusal("UNKNOWN", status=507, message=f"cannot store: {error.strerror}")
    headers = refusal.headers | {"Content-Type": "application/json"}
    return web.Response(status=refusal.status, body=refusal.body(), headers=headers)


@web.middleware
async def _access(request: web.Request, handler: Handler) -> web.StreamResponse:
    access = state_of(request).access
    if access and request.path != "/token":
        access.check(request.headers.get("Authorization", ""), _wanted(request), realm_of(request))
    return await handler(request)


def _wanted(request: web.Request) -> frozenset[Grant]:
    name = request.match_info.get("name")
    if name is None:
        return frozenset()
    if request.method in _READING:
        return frozenset({(name, "pull")})
    if request.method == "DELETE" and "id" not in request.match_info:
        return frozenset({(name, "delete")})
    return frozenset({(name, "pull"), (name, "push")})


@web.middleware
async def _faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    state = state_of(request)
    changing = request.method not in _READING and request.path != "/token"
    if state.read_only and changing:
        raise Refusal("UNSUPPORTED", message="the registry is read-only")
    fault = state.faults.take(request.method, request.path)
    request[EXCHANGE].fault = fault
    if fault is not None:
        await _strike(request, fault, changing)
    return await handler(request)


async def _strike(request: web.Request, fault: Fault, changing: bool) -> None:
    """What a fault does before the request is looked at."""
    if fault.kind == "status":
        raise Refusal(fault.code, status=fault.status or 500, message="fault on request")
    if fault.kind == "throttle":
        raise Refusal("TOOMANYREQUESTS", status=fault.status, headers={"Retry-After": fault.retry_after})
    if fault.kind == "read-only" and changing:
        raise Refusal("UNSUPPORTED", status=fault.status, message="the registry is read-only")
    if fault.kind == "stall":
        await anyio.sleep(fault.delay)
    if fault.kind == "reset" and fault.after is None:
        raise reset(request)
