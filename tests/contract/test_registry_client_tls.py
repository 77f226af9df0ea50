"""Which registries are spoken to by https, with which certificates, and what is said when that fails.

`[::ffff:7f00:1]` is 127.0.0.1 under a name that is not one of the loopback's: for the client just another host.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.errors import AuthError, RegistryError, UsageError
from engine.image.descriptor import OCI_INDEX
from engine.image.digest import Digest
from engine.image.manifest import make_index
from engine.image.reference import Reference
from tests.contract.registry_fixtures.clients import connected, login, make_blob
from tests.contract.registry_fixtures.scripted import Say, Scripted

INDEX = make_index([]).raw
MANIFEST = Say(200, INDEX, {"Content-Type": OCI_INDEX, "Docker-Content-Digest": str(Digest.of(INDEX))})


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate, and the server's side of it."""

    file: Path
    context: ssl.SSLContext


def make_certificate(folder: Path, name: str) -> Certificate:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=test", "-addext", f"subjectAltName={name}", "-keyout", "key.pem", "-out", "cert.pem"],
                   cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return Certificate(folder / "cert.pem", context)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "IP:::ffff:7f00:1")


@pytest.fixture
async def secure(certificate: Certificate) -> AsyncIterator[Scripted]:
    async with Scripted(certificate.context) as server:
        server.on("HEAD|GET", ".*/manifests/1", MANIFEST)
        yield server


@pytest.fixture
async def plain() -> AsyncIterator[Scripted]:
    async with Scripted() as server:
        server.on("HEAD|GET", ".*/manifests/1", MANIFEST)
        yield server


def outside(server: Scripted) -> Reference:
    """The server under a name that does not say that it is on this machine."""
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("needs IPv6")
    return Reference.parse(f"[::ffff:7f00:1]:{server.address.rpartition(':')[2]}/app:1")


async def test_a_certificate_nobody_knows_is_not_trusted(secure: Scripted) -> None:
    reference = outside(secure)
    async with connected() as client:
        with pytest.raises(RegistryError, match=r"the TLS certificate of registry .*:\d+ is not trusted: self") as raised:
            await client.resolve(reference)
    assert f"--insecure-registry {reference.registry}" in (raised.value.hint or "")
    assert not secure.seen


async def test_a_ca_file_makes_it_trusted(secure: Scripted, certificate: Certificate) -> None:
    async with connected(ca_file=certificate.file) as client:
        assert (await client.resolve(outside(secure))).digest == Digest.of(INDEX)


async def test_a_ca_file_that_cannot_be_read_is_a_mistake_of_the_settings(secure: Scripted, tmp_path: Path) -> None:
    for content in (None, "no certificate"):
        if content:
            (tmp_path / "ca").write_text(content)
        async with connected(ca_file=tmp_path / "ca") as client:
            with pytest.raises(UsageError, match="cannot read certificates from"):
                await client.resolve(outside(secure))


async def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "DNS:other.example")
    async with Scripted(other.context) as server, connected(ca_file=other.file) as client:
        with pytest.raises(RegistryError, match=r"is not trusted: .*mismatch"):
            await client.resolve(outside(server))


async def test_an_insecure_registry_may_have_any_certificate(secure: Scripted) -> None:
    reference = outside(secure)
    async with connected(insecure=frozenset({reference.registry})) as client:
        await client.resolve(reference)


async def test_an_insecure_registry_may_speak_http(plain: Scripted) -> None:
    reference = outside(plain)
    async with connected(insecure=frozenset({reference.registry})) as client:
        await client.resolve(reference)


async def test_any_other_registry_may_not(plain: Scripted) -> None:
    reference = outside(plain)
    async with connected(insecure=frozenset({"[::ffff:7f00:1]"})) as client:
        with pytest.raises(RegistryError, match="no TLS connection to registry") as raised:
            await client.resolve(reference)
    assert f"--insecure-registry {reference.registry}" in (raised.value.hint or "")
    assert not plain.seen


async def test_a_loopback_registry_may_speak_https(secure: Scripted) -> None:
    async with connected() as client:
        await client.resolve(Reference.parse(f"{secure.address}/app:1"))


async def test_a_port_that_says_it_is_for_https_is_not_spoken_to_in_http(plain: Scripted) -> None:
    plain.on("GET", "/v2/", Say(400, b"Client sent an HTTP request to an HTTPS server.\n"))
    async with connected() as client:
        with pytest.raises(RegistryError, match="no TLS connection"):
            await client.resolve(Reference.parse(f"{plain.address}/app:1"))
    assert plain.count("HEAD") == 0


async def test_an_upload_is_not_sent_unencrypted_elsewhere(secure: Scripted, plain: Scripted, certificate: Certificate,
                                                           tmp_path: Path) -> None:
    path, _, descriptor = make_blob(tmp_path, 1000)
    secure.on("HEAD", ".*/blobs/.*", Say(404))
    secure.on("POST", ".*", Say(202, headers={"Location": f"http://{plain.address}/upload"}))
    async with connected(ca_file=certificate.file) as client:
        with pytest.raises(RegistryError, match="wants the upload sent unencrypted"):
            await client.push_blob(outside(secure), descriptor, path)
    assert not plain.seen


async def test_a_password_is_not_sent_unencrypted(secure: Scripted, plain: Scripted, certificate: Certificate) -> None:
    reference = outside(secure)
    secure.on("HEAD", ".*", Say(401, headers={"WWW-Authenticate": f'Bearer realm="http://{plain.address}/token"'}))
    async with connected(login(reference.registry, "anna", "x"), ca_file=certificate.file) as client:
        with pytest.raises(AuthError, match="wants credentials sent unencrypted"):
            await client.resolve(reference)
    assert not plain.seen
