"""Downloads from a server that answers in every way."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from blake3 import blake3

from engine.context import http
from engine.context.base import SubtreeContext
from engine.context.hashing import Hasher
from engine.context.http import download
from engine.context.open import ContextOptions, open_context
from engine.errors import CopyError
from engine.image.digest import Digest
from engine.layer.base import Subtrees

DATA = b"content\n" * 1000
DATE = "Sun, 09 Sep 2001 01:46:40 GMT"


class Server:
    """Answers by path; counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str | None]] = []
        self.failures = 0
        self.etag = '"one"'
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path, request.headers.get("If-None-Match")))
        path = request.path.rpartition("/")[2]
        if path == "missing":
            raise web.HTTPNotFound
        if path == "moved":
            raise web.HTTPFound("/foo?x=y")
        if path == "round":
            raise web.HTTPFound("/round")
        if path == "flaky" and self.failures:
            self.failures -= 1
            raise web.HTTPServiceUnavailable
        if path == "cut" and self.failures:
            self.failures -= 1
            response = web.StreamResponse(headers={"Content-Length": str(len(DATA))})
            await response.prepare(request)
            await response.write(DATA[:100])
            request.transport.close()
            return response
        if path == "etag":
            if request.headers.get("If-None-Match") == self.etag:
                raise web.HTTPNotModified(headers={"ETag": self.etag})
            return web.Response(body=DATA, headers={"ETag": self.etag})
        if path == "Dockerfile":
            return web.Response(body=b"FROM scratch\n")
        if path == "context.tgz":
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w:gz") as archive:
                info = tarfile.TarInfo("f")
                info.size = 2
                archive.addfile(info, io.BytesIO(b"f\n"))
            return web.Response(body=out.getvalue())
        if path == "zipped":
            return web.Response(body=gzip.compress(DATA), headers={"Content-Encoding": "gzip"})
        return web.Response(body=DATA, headers={"Last-Modified": DATE} if path == "foo" else {})


@pytest.fixture
async def server(monkeypatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(http, "_PAUSE", 0)
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


async def test_a_download_has_name_time_size_and_digest(server, tmp_path):
    got = await download(f"{server.url}/dir/foo?query=1", tmp_path)
    assert got.path.read_bytes() == DATA
    assert (got.name, got.size, got.mtime) == ("foo", len(DATA), 1_000_000_000)
    assert got.digest == Digest.of(DATA)


async def test_without_name_and_time(server, tmp_path):
    got = await download(f"{server.url}/", tmp_path)
    assert (got.name, got.mtime) == ("__unnamed__", 0)


async def test_redirects_are_followed_and_the_name_is_the_first_urls(server, tmp_path):
    got = await download(f"{server.url}/moved", tmp_path)
    assert (got.name, got.size) == ("moved", len(DATA))
    with pytest.raises(CopyError, match="TooManyRedirects"):
        await download(f"{server.url}/round", tmp_path)


async def test_a_body_that_is_compressed_for_the_way_is_not_kept_so(server, tmp_path):
    assert (await download(f"{server.url}/zipped", tmp_path)).path.read_bytes() == DATA


async def test_what_is_not_there(server, tmp_path):
    with pytest.raises(CopyError, match="invalid response status 404"):
        await download(f"{server.url}/missing", tmp_path)
    assert len(server.asked) == 1, "it is not asked for again"


@pytest.mark.parametrize("path", ["flaky", "cut"])
async def test_accidents_are_gone_over(server, tmp_path, path):
    server.failures = http.ATTEMPTS - 1
    assert (await download(f"{server.url}/{path}", tmp_path)).path.read_bytes() == DATA
    assert len(server.asked) == http.ATTEMPTS


@pytest.mark.parametrize(("path", "message"), [("flaky", "invalid response status 503"), ("cut", "/cut: ")])
async def test_and_given_up_at_some_time(server, tmp_path, path, message):
    server.failures = 100
    with pytest.raises(CopyError, match=message):
        await download(f"{server.url}/{path}", tmp_path)
    assert len(server.asked) == http.ATTEMPTS


async def test_nobody_there(tmp_path, monkeypatch):
    monkeypatch.setattr(http, "_PAUSE", 0)
    with pytest.raises(CopyError, match=r"^http://u:xxxxx@127\.0\.0\.1:1/x: ") as error:
        await download("http://u:secret@127.0.0.1:1/x", tmp_path)
    assert "secret" not in str(error.value)


async def test_a_checksum_is_checked(server, tmp_path):
    assert (await download(f"{server.url}/foo", tmp_path, checksum=Digest.of(DATA))).size == len(DATA)
    with pytest.raises(CopyError, match="digest mismatch"):
        await download(f"{server.url}/foo", tmp_path, checksum=Digest.of(b"other"))


async def test_a_second_time_the_server_is_asked_by_the_etag(server, tmp_path):
    first = await download(f"{server.url}/etag", tmp_path)
    assert first.etag == '"one"'
    assert await download(f"{server.url}/etag", tmp_path, known=first) is first
    assert server.asked[-1] == ("HEAD", "/etag", '"one"')
    server.etag = '"two"'
    again = await download(f"{server.url}/etag", tmp_path, known=first)
    assert (again.etag, server.asked[-1][0]) == ('"two"', "GET")
    again.path.unlink()
    assert (await download(f"{server.url}/etag", tmp_path, known=again)).path.exists(), "what is gone is downloaded again"


@pytest.mark.parametrize(("environment", "proxy"), [
    ({}, None), ({"http_proxy": "http://p"}, "http://p"), ({"HTTP_PROXY": "http://p"}, "http://p"),
    ({"https_proxy": "http://p"}, None),
    ({"ALL_PROXY": "http://p"}, "http://p"), ({"http_proxy": "http://p", "NO_PROXY": "x, example.org"}, None),
    ({"http_proxy": "http://p", "no_proxy": ".org"}, None), ({"http_proxy": "http://p", "no_proxy": "*"}, None),
    ({"http_proxy": "http://p", "no_proxy": "le.org"}, "http://p"),
])
def test_proxies(environment, proxy):
    assert http._proxy("http://h.example.org:80/x", environment) == proxy


async def test_the_proxy_is_asked(server, tmp_path):
    got = await download("http://h.invalid/foo", tmp_path, environment={"http_proxy": server.url})
    assert got.size == len(DATA)


async def test_a_context_from_a_url(server, tmp_path):
    options = ContextOptions(tmp_path, Hasher(None))
    context = await open_context(f"{server.url}/context.tgz", options)
    assert await context.digests([b"f"]) == {b"f": blake3(b"f\n").hexdigest()}
    await context.aclose()
    context = await open_context(f"{server.url}/Dockerfile", options)
    assert context.dockerfile(None) == ("Dockerfile", b"FROM scratch\n")
    await context.aclose()
    assert list(tmp_path.iterdir()) == []


async def test_with_a_dockerfile_from_a_url_a_context_can_do_what_it_can_without(server, tmp_path):
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "f").write_text("f\n")
    with tarfile.open(tmp_path / "context.tar", "w") as tar:
        tar.add(tmp_path / "context" / "f", "f")
    (tmp_path / "scratch").mkdir()
    for place, subtrees in (("context", True), ("context.tar", False)):
        for options in ({}, {"dockerfile": f"{server.url}/Dockerfile"}):
            context = await open_context(str(tmp_path / place), ContextOptions(tmp_path / "scratch", Hasher(None), **options))
            assert isinstance(context, SubtreeContext) is isinstance(context.tree, Subtrees) is subtrees
            if isinstance(context, SubtreeContext):
                below = context.tree.subtree(b"")
                await (await context.digest_below(below))()
                assert below.parts[0][1].digests == blake3(b"f\n").digest()
                context.learn({}, [(below, b"x" * 32)])
                assert below.parts[0][1].digests == b"x" * 32
                await context.keep([b"f"], [below], 0)
            await context.aclose()


async def test_a_dockerfile_from_a_url(server, tmp_path):
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "f").touch()
    (tmp_path / "scratch").mkdir()
    url = f"{server.url}/Dockerfile"
    context = await open_context(str(tmp_path / "context"), ContextOptions(tmp_path / "scratch", Hasher(None), dockerfile=url))
    assert context.dockerfile(url) == (url, b"FROM scratch\n")
    assert list(context.tree.children(b"")) == [b"f"]
    await context.aclose()
    assert list((tmp_path / "scratch").iterdir()) == []
