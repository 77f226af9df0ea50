"""The registry client against registries, proxies and storages that are odd, old or hostile."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from engine.errors import ContentError, NotFoundError, RegistryError
from engine.image.descriptor import OCI_INDEX, OCI_MANIFEST, OCTETS, Descriptor
from engine.image.digest import Digest
from engine.image.manifest import make_index
from engine.image.reference import Reference
from engine.registry.exchange import Timeouts
from engine.registry.retry import Patience
from tests.contract.registry_fixtures.clients import Clock, connected, make_blob, pull
from tests.contract.registry_fixtures.scripted import Handler, Say, Scripted

MIB = 1 << 20
INDEX = make_index([]).raw
DIGEST = Digest.of(INDEX)


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with Scripted() as server:
        yield server


@pytest.fixture
def reference(server: Scripted) -> Reference:
    return Reference.parse(f"{server.address}/app:1")


def index(**headers: str) -> Say:
    return Say(200, INDEX, {"Content-Type": OCI_INDEX, **{k.replace("_", "-"): v for k, v in headers.items()}})


class Uploads:
    """An upload session as small registries have it. `limit` is the largest body taken; `ranges` whether progress is told."""

    def __init__(self, server: Scripted, *, limit: int = 1 << 40, patch: int = 202, status: int = 204, location: str = "{path}",
                 put: int = 201, headers: dict[str, str] | None = None) -> None:
        self.data, self.server, self.limit, self.patch, self.put = b"", server, limit, patch, put
        self.location, self.stored, self.begun, self.status, self.headers = location, b"", 0, status, headers or {}
        self.drop_answers = 0
        server.on("HEAD", ".*/blobs/.*", self.look)
        server.on("POST", ".*/uploads/", self.begin)
        server.on("PATCH|PUT|GET", "/session/.*", self.session)

    async def look(self, request: web.Request) -> web.Response:
        digest = request.path.rpartition("/")[2]
        return web.Response(status=200 if self.stored and str(Digest.of(self.stored)) == digest else 404)

    async def begin(self, request: web.Request) -> web.Response:
        self.begun += 1
        self.data = b""
        return web.Response(status=202, headers={"Location": self.where(), **self.headers})

    def where(self) -> str:
        path = f"/session/{self.begun}?_state=a%2Fb"
        return self.location.format(path=path, address=self.server.address)

    async def session(self, request: web.Request) -> web.StreamResponse:
        assert request.query["_state"] == "a/b"
        if request.method == "GET":
            return web.Response(status=self.status, headers={"Range": f"0-{max(0, len(self.data) - 1)}", "Location": self.where()})
        if (request.content_length or 0) > self.limit:
            response = web.Response(status=413, text="<html>too large</html>", content_type="text/html")
            response.force_close()
            return response
        if request.method == "PATCH" and self.patch != 202:
            return web.Response(status=self.patch)
        self.data += await request.read()
        if request.method == "PATCH":
            return web.Response(status=202, headers={"Location": self.where(), "Range": f"0-{len(self.data) - 1}"})
        if str(Digest.of(self.data)) != request.query["digest"]:
            return web.json_response({"errors": [{"code": "DIGEST_INVALID"}]}, status=400)
        self.stored = self.data
        if self.drop_answers:
            self.drop_answers -= 1
            assert request.transport
            request.transport.abort()
        return web.Response(status=self.put)


def sizes(server: Scripted, method: str) -> list[int]:
    return [int(s.headers.get("Content-Length", 0)) for s in server.seen if s.method == method]


@pytest.mark.parametrize("location", ["{path}", "http://{address}{path}"])
async def test_a_location_is_taken_as_it_is(server: Scripted, reference: Reference, tmp_path: Path, location: str) -> None:
    path, data, descriptor = make_blob(tmp_path, 100_000)
    uploads = Uploads(server, location=location)
    async with connected() as client:
        assert await client.push_blob(reference, descriptor, path)
    assert uploads.stored == data


async def test_after_413_the_blob_goes_in_pieces_and_the_next_one_at_once(server: Scripted, reference: Reference,
                                                                          tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 6 * MIB)
    uploads = Uploads(server, limit=5 * MIB)
    async with connected() as client:
        assert await client.push_blob(reference, descriptor, path)
        assert uploads.stored == data
        assert sizes(server, "PATCH") == [4 * MIB, 2 * MIB]
        assert sizes(server, "PUT") == [6 * MIB, 0]
        path, data, descriptor = make_blob(tmp_path, 9 * MIB)
        assert await client.push_blob(reference, descriptor, path)
        assert uploads.stored == data
        assert sizes(server, "PATCH")[2:] == [4 * MIB, 4 * MIB, MIB]
        assert len(sizes(server, "PUT")) == 3


async def test_pieces_get_smaller_until_they_fit_or_there_is_no_smaller_one(server: Scripted, reference: Reference,
                                                                            tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 5 * MIB)
    uploads = Uploads(server, limit=2 * MIB)
    async with connected() as client:
        assert await client.push_blob(reference, descriptor, path)
        assert uploads.stored == data
        uploads.limit, uploads.stored = 1000, b""
        with pytest.raises(RegistryError, match="413") as raised:
            await client.push_blob(reference, descriptor, path)
        assert raised.value.status == 413


async def test_the_least_piece_that_a_registry_wants_is_kept_to(server: Scripted, reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 9 * MIB)
    uploads = Uploads(server, limit=8 * MIB, headers={"OCI-Chunk-Min-Length": str(5 * MIB)})
    async with connected() as client:
        assert await client.push_blob(reference, descriptor, path)
    assert uploads.stored == data
    assert sizes(server, "PATCH") == [5 * MIB, 4 * MIB]


async def test_a_lost_answer_to_the_last_request_is_no_failure(server: Scripted, reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, MIB)
    uploads = Uploads(server)
    uploads.drop_answers = 1
    async with connected() as client:
        assert await client.push_blob(reference, descriptor, path)
    assert (uploads.stored, uploads.begun, len(sizes(server, "PUT"))) == (data, 1, 1)


@pytest.mark.parametrize("settings", [{"patch": 405}, {"patch": 501}, {"status": 404}, {"status": 400}],
                         ids=["no-patch", "no-patch-501", "no-status", "bad-status"])
async def test_where_nothing_can_be_resumed_the_upload_begins_anew(server: Scripted, reference: Reference, tmp_path: Path,
                                                                   settings: dict[str, int]) -> None:
    path, data, descriptor = make_blob(tmp_path, 3 * MIB)
    uploads = Uploads(server, **settings)  # type: ignore[arg-type]
    cut: list[int] = []

    async def cut_once(request: web.Request) -> web.StreamResponse:
        if cut:
            return await uploads.session(request)
        uploads.data = await request.content.readexactly(MIB)
        cut.append(1)
        assert request.transport
        request.transport.abort()
        return web.Response()

    server.on("PUT", "/session/.*", cut_once)
    async with connected() as client:
        assert await client.push_blob(reference, descriptor, path)
    assert (uploads.stored, uploads.begun) == (data, 2)


async def test_bytes_that_arrive_wrong_once_are_sent_again(server: Scripted, reference: Reference, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 100_000)
    uploads = Uploads(server)
    refuse = Say(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
    server.on("PUT", "/session/.*", refuse, uploads.session)
    async with connected() as client:
        assert await client.push_blob(reference, descriptor, path)
    assert uploads.stored == data


async def test_an_upload_that_is_accepted_but_not_there_is_not_believed(server: Scripted, reference: Reference,
                                                                        tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 1000)
    uploads = Uploads(server, put=202)
    server.on("PUT", "/session/.*", Say(202), uploads.session)
    async with connected() as client:
        assert await client.push_blob(reference, descriptor, path)
    assert (uploads.stored, uploads.begun) == (data, 2)


async def test_a_registry_that_stops_taking_bytes_is_given_up(server: Scripted, reference: Reference, tmp_path: Path) -> None:
    path, _, descriptor = make_blob(tmp_path, 24 * MIB)
    Uploads(server, status=404)
    over = anyio.Event()

    async def stuck(request: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    server.on("PUT", "/session/.*", stuck)
    with anyio.fail_after(20):
        async with connected(timeouts=Timeouts(idle=0.3), patience=Patience(attempts=2)) as client:
            with pytest.raises(RegistryError, match="broke: no data in time"):
                await client.push_blob(reference, descriptor, path)
    over.set()


@pytest.mark.parametrize("location", ["", "ftp://x/", "http://[/"])
async def test_an_upload_without_a_place_is_an_error(server: Scripted, reference: Reference, tmp_path: Path, location: str) -> None:
    path, _, descriptor = make_blob(tmp_path, 1000)
    server.on("POST", ".*", Say(202, headers={"Location": location} if location else {}))
    async with connected() as client:
        with pytest.raises(RegistryError, match="unusable location"):
            await client.push_blob(reference, descriptor, path)


@pytest.mark.parametrize("bad", [Say(405), Say(400), Say(501), Say(200), Say(200, headers={"Content-Type": "text/html"})],
                         ids=["405", "400", "501", "bare", "html"])
async def test_a_bad_answer_to_head_is_made_good_by_get(server: Scripted, reference: Reference, bad: Say) -> None:
    server.on("HEAD", ".*/manifests/1", bad)
    server.on("GET", ".*/manifests/1", index())
    async with connected() as client:
        assert (await client.resolve(reference)).digest == DIGEST


async def test_a_manifest_beyond_the_limit_is_not_read(server: Scripted, reference: Reference) -> None:
    server.on("GET", ".*/manifests/1", Say(200, b" " * (9 * MIB), {"Content-Type": OCI_INDEX}))
    async with connected() as client:
        with pytest.raises(RegistryError, match="sent more than 8388608 bytes"):
            await client.manifest(reference)


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b"{}", b'{"schemaVersion":1}',
                                  b'{"schemaVersion":2,"layers":7,"config":{}}'])  # fmt: skip
async def test_a_manifest_that_is_none_names_its_reference(server: Scripted, reference: Reference, body: bytes) -> None:
    server.on("GET", ".*/manifests/1", Say(200, body, {"Content-Type": OCI_MANIFEST}))
    async with connected() as client:
        with pytest.raises(ContentError, match=f"^{reference}: "):
            await client.manifest(reference)


async def test_a_malformed_digest_header_is_an_error(server: Scripted, reference: Reference) -> None:
    server.on("HEAD|GET", ".*/manifests/1", index(Docker_Content_Digest="sha256:../../etc"))
    async with connected() as client:
        with pytest.raises(ContentError, match="invalid digest"):
            await client.resolve(reference)


def stream(data: bytes, headers: dict[str, str] | None = None) -> Handler:
    """A body of no known length."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers or {})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(data)
        await response.write_eof()
        return response

    return answer


async def test_a_blob_that_is_longer_than_it_should_be_is_not_read_on(server: Scripted, reference: Reference,
                                                                      tmp_path: Path) -> None:
    _, data, descriptor = make_blob(tmp_path, 1000)
    async with connected() as client:
        server.on("GET", ".*/blobs/.*", stream(data + b"x"))
        with pytest.raises(ContentError, match="more than the 1000 bytes"):
            await pull(client, reference, descriptor)
        server.on("GET", ".*/blobs/.*", Say(200, data + b"x"))
        with pytest.raises(ContentError, match="has 1001 bytes of it, expected were 1000"):
            await pull(client, reference, descriptor)


async def test_a_blob_that_ends_early_without_saying_so_is_asked_for_again(server: Scripted, reference: Reference,
                                                                           tmp_path: Path) -> None:
    _, data, descriptor = make_blob(tmp_path, 1000)
    rest = Say(206, data[600:], {"Content-Range": "bytes 600-999/1000"})
    async with connected(patience=Patience(attempts=3)) as client:
        server.on("GET", ".*/blobs/.*", stream(data[:600]), rest)
        assert await pull(client, reference, descriptor) == data
        assert server.seen[-1].headers["Range"] == "bytes=600-"
        server.on("GET", ".*/blobs/.*", stream(data[:600]))
        with pytest.raises(RegistryError, match="ended after 600 of 1000 bytes"):
            await pull(client, reference, descriptor)
        server.on("GET", ".*/blobs/.*", stream(data[:600]), Say(416))
        with pytest.raises(ContentError, match="no more than 600 of the 1000 bytes"):
            await pull(client, reference, descriptor)


async def test_a_range_that_begins_elsewhere_is_cut_or_refused(server: Scripted, reference: Reference, tmp_path: Path) -> None:
    _, data, descriptor = make_blob(tmp_path, 1000)
    async with connected() as client:
        server.on("GET", ".*/blobs/.*", stream(data[:600]), Say(206, data[512:], {"Content-Range": "bytes 512-999/1000"}))
        assert await pull(client, reference, descriptor) == data
        server.on("GET", ".*/blobs/.*", stream(data[:600]), Say(206, data[700:], {"Content-Range": "bytes 700-999/1000"}))
        with pytest.raises(RegistryError, match="another range"):
            await pull(client, reference, descriptor)


async def test_a_compressed_blob_is_left_as_it_is(server: Scripted, reference: Reference) -> None:
    data = gzip.compress(b"layer" * 1000)
    descriptor = Descriptor(OCTETS, Digest.of(data), len(data))
    server.on("GET", ".*/blobs/.*", Say(200, data, {"Content-Encoding": "gzip"}))
    async with connected() as client:
        assert await pull(client, reference, descriptor) == data
    assert server.seen[-1].headers["Accept-Encoding"] == "identity"


async def test_a_signed_url_that_has_expired_is_got_anew(server: Scripted, reference: Reference, tmp_path: Path) -> None:
    _, data, descriptor = make_blob(tmp_path, 1000)
    async with Scripted() as storage:
        server.on("GET", ".*/blobs/.*", Say(307, headers={"Location": f"http://{storage.address}/old?sig=SECRET"}),
                  Say(307, headers={"Location": f"http://{storage.address}/new"}))
        storage.on("GET", "/old", Say(403))
        storage.on("GET", "/new", Say(200, data))
        async with connected(patience=Patience(attempts=2)) as client:
            assert await pull(client, reference, descriptor) == data
            server.on("GET", ".*/blobs/.*", Say(307, headers={"Location": f"http://{storage.address}/old?sig=SECRET"}))
            with pytest.raises(RegistryError, match=f"its storage at {storage.address} answered 403") as raised:
                await pull(client, reference, descriptor)
    assert "SECRET" not in str(raised.value)


async def test_redirects_in_circles_end(server: Scripted, reference: Reference) -> None:
    server.on("HEAD", ".*/manifests/.*", Say(307, headers={"Location": "/v2/app/manifests/1"}))
    async with connected() as client:
        with pytest.raises(RegistryError, match="redirects in circles"):
            await client.resolve(reference)
    assert server.count("HEAD") <= 6


async def test_tags_are_read_page_by_page_on_the_same_registry(server: Scripted, reference: Reference) -> None:
    async with Scripted() as evil:
        server.on("GET", ".*/tags/list",
                  Say(200, b'{"name":"app","tags":["a","b"]}', {"Link": '</v2/app/tags/list?n=2&last=b>; rel="next"'}),
                  Say(200, b'{"tags":["c"]}', {"Link": f'<http://{evil.address}/v2/app/tags/list?last=c>; rel="next"'}),
                  Say(200, b'{"tags":null}'))
        async with connected() as client:
            assert await client.tags(reference) == ("a", "b", "c")
        assert not evil.seen
    assert [s.query for s in server.seen if "tags" in s.path] == ["n=1000", "n=2&last=b", "last=c"]


async def test_pages_that_go_on_for_ever_end(server: Scripted, reference: Reference) -> None:
    server.on("GET", ".*/tags/list", Say(200, b'{"tags":["a"]}', {"Link": '</v2/app/tags/list>; rel="next"'}))
    async with connected() as client:
        assert await client.tags(reference) == ("a",)
        assert server.count("GET", ".*/tags/list") == 2
        server.on("GET", ".*/tags/list", Say(200, b"[]"))
        with pytest.raises(ContentError, match="list of tags cannot be read"):
            await client.tags(reference)


async def test_referrers_are_read_page_by_page_and_filtered_where_the_registry_does_not(server: Scripted,
                                                                                        reference: Reference) -> None:
    def page(*kinds: str, link: str = "") -> Say:
        entries = [{"mediaType": OCI_MANIFEST, "digest": str(Digest.of(k.encode())), "size": 1, "artifactType": k} for k in kinds]
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        return Say(200, body, {"Content-Type": OCI_INDEX, **({"Link": link} if link else {})})

    server.on("GET", ".*/referrers/.*", page("a/x", "b/x", link=f'</v2/app/referrers/{DIGEST}?page=2>; rel="next"'), page("a/x"))
    async with connected() as client:
        found = await client.referrers(reference, DIGEST, "a/x")
    assert [d.artifact_type for d in found] == ["a/x", "a/x"]
    assert [s.query for s in server.seen if "referrers" in s.path] == ["artifactType=a/x", "page=2"]


async def test_a_registry_that_cannot_delete_tags_deletes_the_manifest(server: Scripted, reference: Reference) -> None:
    server.on("DELETE", ".*/manifests/1", Say(405))
    server.on("HEAD", ".*/manifests/1", index(Docker_Content_Digest=str(DIGEST)))
    server.on("DELETE", f".*/manifests/{re.escape(str(DIGEST))}", Say(202))
    async with connected() as client:
        await client.delete(reference)
        server.on("DELETE", f".*/manifests/{re.escape(str(DIGEST))}", Say(404))
        with pytest.raises(NotFoundError, match=f"{reference}: not found"):
            await client.delete(reference)


async def test_what_a_registry_says_reaches_people_on_one_clean_line(server: Scripted, reference: Reference) -> None:
    server.on("HEAD", ".*", Say(405))
    body = json.dumps({"errors": [{"code": "DENIED", "message": "line\x1b[2J\nbreak " + "x" * 5000}]}).encode()
    server.on("GET", ".*/manifests/1", Say(403, body))
    async with connected() as client:
        with pytest.raises(RegistryError) as raised:
            await client.resolve(reference)
    assert raised.value.message.startswith(f"registry {server.address} denies access (GET app:1): DENIED: line [2J break xxx")
    assert len(raised.value.message) < 600
    assert raised.value.message.isprintable()


async def answering(data: bytes) -> tuple[str, anyio.abc.Listener[anyio.abc.SocketStream]]:
    """A listener that says the same to everybody, and its address."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    return f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}", listener


@pytest.mark.parametrize(("said", "message"), [
    (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"), (b"HTTP/1.1 abc\r\n\r\n", "does not speak HTTP"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "does not speak HTTP"),
    (b"", r"the connection to registry .* broke: closed by the other side"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "broke: the answer ended too early"),
])  # fmt: skip
async def test_what_is_no_http_is_said_to_be_none(said: bytes, message: str) -> None:
    address, listener = await answering(said)

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            if said:
                await stream.send(said)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        async with connected(patience=Patience(attempts=2)) as client:
            with pytest.raises(RegistryError, match=message):
                await client.manifest(Reference.parse(f"{address}/app:1"))
        tasks.cancel_scope.cancel()


async def test_a_proxy_is_used_for_other_hosts(server: Scripted) -> None:
    """The scripted server plays the proxy: a request through it names the whole URL."""
    server.on("HEAD", ".*", index(Docker_Content_Digest=str(DIGEST)))
    environment = {"http_proxy": f"http://{server.address}"}
    async with connected(environment=environment, insecure=frozenset({"registry.invalid:5000"})) as client:
        found = await client.resolve(Reference.parse("registry.invalid:5000/app:1"))
    assert found.digest == DIGEST
    assert server.seen[-1].headers["Host"] == "registry.invalid:5000"


async def test_delays_are_not_slept_for_real(server: Scripted, reference: Reference) -> None:
    clock = Clock()
    server.on("HEAD", ".*", Say(503, headers={"Retry-After": "100"}), index(Docker_Content_Digest=str(DIGEST)))
    async with connected(clock=clock) as client:
        with anyio.fail_after(5):
            await client.resolve(reference)
    assert clock.slept == [100.0]


def test_the_contract_does_not_import_aiohttp() -> None:
    code = ("import sys, engine.registry.base, engine.registry.client, engine.registry.credentials; "
            "sys.exit('aiohttp' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_storage_that_refuses_to_be_looked_at_means_an_upload(server: Scripted, reference: Reference,
                                                                      tmp_path: Path) -> None:
    """URLs that are signed for GET alone are refused with 403 for HEAD."""
    path, data, descriptor = make_blob(tmp_path, 1000)
    uploads = Uploads(server)
    async with Scripted() as storage:
        storage.on("HEAD", ".*", Say(403))
        server.on("HEAD", ".*/blobs/.*", Say(307, headers={"Location": f"http://{storage.address}/signed"}))
        async with connected() as client:
            assert await client.push_blob(reference, descriptor, path)
    assert uploads.stored == data
