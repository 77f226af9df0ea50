"""Registries behind a proxy, which here is a small real one: it forwards what is asked for in whole URLs, and makes tunnels.

Names end in `.invalid`, which nobody can look up: only the proxy knows where they are."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

from engine.errors import RegistryError
from engine.image.reference import Reference
from engine.registry.exchange import Timeouts
from engine.registry.retry import Patience
from engine.registry.server.server import RegistryServer
from tests.contract.registry_fixtures.clients import connected, login, make_blob, pull
from tests.contract.registry_fixtures.scripted import Say, Scripted
from tests.contract.registry_fixtures.wire import anyio_backend
from tests.contract.test_registry_client_tls import Certificate, make_certificate

__all__ = ["anyio_backend"]

NAME = "registry.invalid"
ENDED = (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError)
LOGIN = "Basic " + b64encode(b"anna:p@ss").decode()


class Proxy:
    """Notes the heads of what it is asked. `places` says where hosts really are, `status` what is said to all in place of service."""

    def __init__(self, **places: str) -> None:
        self.places = {name.replace("_", "."): address for name, address in places.items()}
        self.heads: list[list[str]] = []
        self.refusal = b""
        self.address = ""

    async def serve(self, client: ByteStream) -> None:
        async with client:
            with suppress(*ENDED):
                await self._serve(client)

    async def _serve(self, client: ByteStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await client.receive()
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.heads.append(lines)
        if self.refusal:
            return await client.send(self.refusal)
        method, target, _ = lines[0].split(" ")
        host = target.partition("://")[2].partition("/")[0] if "://" in target else target
        address, _, port = self.places[host.partition(":")[0]].partition(":")
        async with await anyio.connect_tcp(address, int(port)) as server, anyio.create_task_group() as tasks:
            if method == "CONNECT":
                await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = target.partition("://")[2].partition("/")[2]
                begin = [f"{method} /{path} HTTP/1.1", *lines[1:], "Connection: close", "", ""]
                await server.send("\r\n".join(begin).encode() + rest)
            tasks.start_soon(self._pass, client, server)
            await self._pass(server, client)
            tasks.cancel_scope.cancel()

    async def _pass(self, source: ByteReceiveStream, to: ByteSendStream) -> None:
        with suppress(*ENDED):
            while True:
                await to.send(await source.receive())

    def said(self, name: str) -> list[str]:
        """The values of a header in all that was asked."""
        return [line.partition(": ")[2] for head in self.heads for line in head if line.lower().startswith(f"{name}:")]


@asynccontextmanager
async def running(proxy: Proxy, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    proxy.address = f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
    async with listener, anyio.create_task_group() as tasks:
        serving = TLSListener(listener, tls, standard_compatible=False) if tls else listener
        tasks.start_soon(serving.serve, proxy.serve)
        yield proxy
        tasks.cancel_scope.cancel()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The registry's."""
    return make_certificate(tmp_path_factory.mktemp("tls"), f"DNS:{NAME}")


@pytest.fixture
async def secure(certificate: Certificate) -> AsyncIterator[Scripted]:
    """A registry that speaks TLS and takes any upload."""
    async with Scripted(certificate.context) as server:
        server.on("HEAD", ".*/blobs/.*", Say(404, b"{}"))
        server.on("POST", ".*", Say(202, headers={"Location": "/session"}))
        server.on("PUT", "/session", Say(201))
        yield server


async def test_what_is_not_encrypted_goes_through_the_proxy_as_it_is(tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 3 << 20)
    reference = Reference.parse(f"{NAME}:5000/app:1")
    async with RegistryServer(tmp_path / "registry") as server, running(Proxy(registry_invalid=server.address)) as proxy:
        environment = {"http_proxy": f"http://anna:p%40ss@{proxy.address}"}
        async with connected(environment=environment, insecure=frozenset({reference.registry})) as client:
            # https is not proxied, and there is no such host: it is http then
            assert await client.push_blob(reference, descriptor, path)
            assert await pull(client, reference, descriptor) == data
    assert {head[0].split(" ")[1].partition("/v2/")[0] for head in proxy.heads} == {f"http://{NAME}:5000"}
    assert set(proxy.said("host")) == {f"{NAME}:5000"}
    assert set(proxy.said("proxy-authorization")) == {LOGIN}


async def test_what_is_encrypted_goes_through_a_tunnel(secure: Scripted, certificate: Certificate, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 3 << 20)
    secure.on("GET", ".*/blobs/.*", Say(200, data))
    reference = Reference.parse(f"{NAME}/app:1")
    async with running(Proxy(registry_invalid=secure.address)) as proxy, \
            connected(login(NAME, "user", "word"), environment={"https_proxy": f"anna:p%40ss@{proxy.address}"},
                      ca_file=certificate.file) as client:  # fmt: skip
        assert await client.push_blob(reference, descriptor, path)
        assert await pull(client, reference, descriptor) == data
    assert [head[0] for head in proxy.heads] == [f"CONNECT {NAME}:443 HTTP/1.1"], "one tunnel serves for all"
    assert proxy.said("host") == [f"{NAME}:443"]
    assert proxy.said("proxy-authorization") == [LOGIN]
    assert [seen.body for seen in secure.seen if seen.method == "PUT"] == [data]
    assert all("Proxy-Authorization" not in seen.headers for seen in secure.seen)
    assert {seen.headers["Host"] for seen in secure.seen} == {NAME}


async def test_the_certificate_is_looked_at_through_a_tunnel_too(secure: Scripted) -> None:
    async with running(Proxy(registry_invalid=secure.address, other_invalid=secure.address)) as proxy, \
            connected(environment={"all_proxy": f"http://{proxy.address}"}) as client:
        with pytest.raises(RegistryError, match=r"the TLS certificate of registry other\.invalid is not trusted"):
            await client.resolve(Reference.parse("other.invalid/app:1"))


async def test_a_proxy_may_be_spoken_to_encrypted(secure: Scripted, certificate: Certificate, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 3 << 20)
    own = make_certificate(tmp_path, "IP:127.0.0.1")
    both = tmp_path / "both.pem"
    both.write_bytes(own.file.read_bytes() + certificate.file.read_bytes())
    secure.on("GET", ".*/blobs/.*", Say(200, data))
    reference = Reference.parse(f"{NAME}/app:1")
    async with running(Proxy(registry_invalid=secure.address), own.context) as proxy, \
            connected(environment={"https_proxy": f"https://{proxy.address}"}, ca_file=both) as client:
        assert await client.push_blob(reference, descriptor, path)
        assert await pull(client, reference, descriptor) == data
    assert [seen.body for seen in secure.seen if seen.method == "PUT"] == [data]


@pytest.mark.parametrize(("said", "message"), [
    (b"HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n",
     r"the proxy refuses to connect to registry registry\.invalid: status 407 \(HEAD app:1\)"),
    (b"HTTP/1.1 403 No\r\n\r\n", "refuses to connect to registry registry.invalid: status 403"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "the proxy of registry registry.invalid does not speak HTTP: it begins with"),
    (b"HTTP/1.1 200 OK\r\n\r\nmore", "the proxy of registry registry.invalid says more than it was asked"),
])  # fmt: skip
async def test_a_proxy_that_makes_no_tunnel_is_blamed(said: bytes, message: str) -> None:
    async with running(Proxy()) as proxy:
        proxy.refusal = said
        async with connected(environment={"https_proxy": f"http://user:SECRET@{proxy.address}"}) as client:
            with pytest.raises(RegistryError, match=message) as raised:
                await client.resolve(Reference.parse(f"{NAME}/app:1"))
    assert "SECRET" not in str(raised.value)
    assert len(proxy.heads) == 1


async def test_a_proxy_that_ends_the_connection_is_asked_again() -> None:
    async with running(Proxy()) as proxy:
        proxy.refusal = b"HTTP/1.1"
        async with connected(environment={"https_proxy": f"http://{proxy.address}"}, patience=Patience(attempts=3)) as client:
            with pytest.raises(RegistryError, match=r"the connection to registry registry\.invalid broke: closed by its proxy"):
                await client.resolve(Reference.parse(f"{NAME}/app:1"))
    assert len(proxy.heads) == 3


@pytest.mark.parametrize(("proxy", "message"), [
    ("http://127.0.0.1:1", "cannot reach the proxy of registry registry.invalid: connection refused"),
    ("http://no-such-host.invalid:3128", "cannot reach the proxy of registry registry.invalid: its name cannot be found"),
    ("socks5://127.0.0.1:1080", "registry.invalid cannot be asked: its proxy speaks no HTTP: socks5://127.0.0.1"),
    ("http://127.0.0.1:port", "registry.invalid cannot be asked: "),
    ("http://", "registry.invalid cannot be asked: "),
])  # fmt: skip
async def test_a_proxy_that_is_not_there_is_named(proxy: str, message: str) -> None:
    async with connected(environment={"https_proxy": proxy}) as client:
        with pytest.raises(RegistryError, match=message):
            await client.resolve(Reference.parse(f"{NAME}/app:1"))


async def test_hosts_that_need_no_proxy_are_asked_without_it(tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 1000)
    async with RegistryServer(tmp_path / "registry") as server, running(Proxy()) as proxy:
        reference = Reference.parse(f"{server.address}/app:1")
        async with connected(environment={"http_proxy": f"http://{proxy.address}", "all_proxy": proxy.address}) as client:
            assert await client.push_blob(reference, descriptor, path)
            assert await pull(client, reference, descriptor) == data
    assert not proxy.heads


async def test_a_tunnel_that_is_not_made_in_time_is_given_up() -> None:
    async def stare(client: ByteStream) -> None:
        async with client:
            await anyio.sleep_forever()

    proxy = Proxy()
    proxy.serve = stare  # type: ignore[method-assign]
    async with running(proxy), \
            connected(environment={"https_proxy": f"http://{proxy.address}"}, timeouts=Timeouts(connect=0.1)) as client:
        with pytest.raises(RegistryError, match=r"cannot reach registry registry\.invalid: no connection in time"):
            await client.resolve(Reference.parse(f"{NAME}/app:1"))
