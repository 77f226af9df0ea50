"""How files get into requests: by the kernel over plain connections, in pieces over encrypted ones."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from engine.errors import RegistryError
from engine.image.reference import Reference
from engine.registry import sending
from engine.registry.exchange import Timeouts
from engine.registry.retry import Patience
from tests.contract.registry_fixtures.clients import connected, make_blob
from tests.contract.registry_fixtures.scripted import Say, Scripted
from tests.contract.test_registry_client_tls import certificate, make_certificate

__all__ = ["certificate", "make_certificate"]

MIB = 1 << 20


@pytest.fixture
async def plain() -> AsyncIterator[Scripted]:
    async with Scripted() as server:
        yield offering(server)


def offering(server: Scripted) -> Scripted:
    """A server that takes any upload."""
    server.on("HEAD", ".*/blobs/.*", Say(404, b"{}"))
    server.on("POST", ".*", Say(202, headers={"Location": "/session"}))
    server.on("PUT", "/session", Say(201))
    return server


def name(server: Scripted) -> Reference:
    return Reference.parse(f"{server.address}/app:1")


async def test_over_a_plain_connection_the_process_never_has_the_bytes(plain: Scripted, tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    path, data, descriptor = make_blob(tmp_path, 9 * MIB + 7)
    taken: list[int] = []
    send = os.sendfile

    def sendfile(out: int, file: int, offset: int, count: int) -> int:
        done = send(out, file, offset, count)
        taken.append(done)
        return done

    monkeypatch.setattr("os.sendfile", sendfile)
    moved: list[int] = []
    async with connected() as client:
        assert await client.push_blob(name(plain), descriptor, path, progress=moved.append)
    assert plain.seen[-1].body == data
    assert plain.seen[-1].headers["Content-Length"] == str(len(data))
    assert sum(taken) == len(data)
    assert moved == sorted(moved)
    assert len(set(moved)) >= 3


async def test_over_an_encrypted_connection_it_goes_in_pieces(certificate: object, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 3 * MIB + 7)
    async with Scripted(certificate.context) as server, connected() as client:  # type: ignore[attr-defined]
        offering(server)
        assert await client.push_blob(name(server), descriptor, path)
        assert server.seen[-1].body == data


async def test_two_uploads_over_the_same_connection(plain: Scripted, tmp_path: Path) -> None:
    path, data, descriptor = make_blob(tmp_path, 2 * MIB)
    peers = set()

    async def note(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        assert await request.read() == data
        assert await request.read() == data
        return web.Response(status=201)

    plain.on("PUT", "/session", note)
    async with connected() as client:
        for _ in range(2):
            assert await client.push_blob(name(plain), descriptor, path)
    assert len(peers) == 1


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_file_that_becomes_shorter_meanwhile(certificate: object, tmp_path: Path, encrypted: bool) -> None:
    path, _, descriptor = make_blob(tmp_path, 64 * MIB)

    async def cut(request: web.Request) -> web.Response:
        await request.content.readany()
        os.truncate(path, 100)
        await request.read()
        return web.Response(status=201)

    async with Scripted(certificate.context if encrypted else None) as server:  # type: ignore[attr-defined]
        offering(server).on("PUT", "/session", cut)
        async with connected(patience=Patience(attempts=1)) as client:
            with pytest.raises(RegistryError, match=re.escape(os.strerror(errno.EIO).lower())):
                await client.push_blob(name(server), descriptor, path)


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_registry_that_takes_nothing(certificate: object, tmp_path: Path, encrypted: bool) -> None:
    path, _, descriptor = make_blob(tmp_path, 64 * MIB)
    over = anyio.Event()

    async def stare(request: web.Request) -> web.Response:
        await over.wait()
        return web.Response(status=500)

    async with Scripted(certificate.context if encrypted else None) as server:  # type: ignore[attr-defined]
        offering(server).on("PUT", "/session", stare)
        async with connected(timeouts=Timeouts(idle=0.3), patience=Patience(attempts=1)) as client:
            with pytest.raises(RegistryError, match="broke: no data in time"):
                await client.push_blob(name(server), descriptor, path)
        over.set()


async def test_a_cancelled_upload_leaves_no_thread_behind_that_sends(plain: Scripted, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    path, _, descriptor = make_blob(tmp_path, 64 * MIB)
    over, paused, stuck, ended = anyio.Event(), threading.Event(), threading.Event(), threading.Event()
    send, sendfile = sending._send, os.sendfile

    async def stare(request: web.Request) -> web.Response:
        assert isinstance(request.transport, asyncio.ReadTransport)
        request.transport.pause_reading()
        paused.set()
        await over.wait()
        return web.Response(status=500)

    def watched_send(*args: object) -> None:
        ended.clear()
        try:
            send(*args)  # type: ignore[arg-type]
        finally:
            ended.set()

    def watched_sendfile(*args: int) -> int:
        try:
            return sendfile(*args)
        except BlockingIOError:
            stuck.set()
            raise

    monkeypatch.setattr(sending, "_send", watched_send)
    monkeypatch.setattr("os.sendfile", watched_sendfile)
    plain.on("PUT", "/session", stare)
    async with connected() as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.push_blob, name(plain), descriptor, path)
            assert await anyio.to_thread.run_sync(paused.wait, 20)
            assert await anyio.to_thread.run_sync(stuck.wait, 20)
            tasks.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(ended.wait, 10)
    over.set()
