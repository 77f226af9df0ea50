"""How answers are read: whole or byte by byte, and whatever a server sends."""

from __future__ import annotations

import pytest

from engine.registry.http1 import HEAD_LIMIT, EarlyEndError, NoHttpError, Reader, head


class Wire:
    """Gives bytes in pieces of a size, and then the end."""

    def __init__(self, data: bytes, size: int) -> None:
        self.left, self.size = data, size

    async def receive(self, limit: int) -> bytes:
        size = min(self.size, limit)
        part, self.left = self.left[:size], self.left[size:]
        return part


class Endless:
    """Gives the same bytes for ever, after some others."""

    def __init__(self, first: bytes, again: bytes) -> None:
        self.next, self.again, self.given = first, again, 0

    async def receive(self, limit: int) -> bytes:
        part, self.next = self.next, self.again
        assert len(part) <= limit
        self.given += len(part)
        return part


async def read(data: bytes, method: str = "GET", most: int = 1000, size: int = 1 << 20) -> tuple[int, bytes, bool]:
    """Status and body of an answer, and whether the connection can carry another one."""
    reader = Reader(Wire(data, size).receive)
    status, _ = await reader.head(method)
    parts = []
    while part := await reader.part(most):
        assert len(part) <= most
        parts.append(part)
    assert not await reader.part(most)
    return status, b"".join(parts), reader.is_whole()


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize(("data", "expected"), [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", (200, b"hello", True)),
    (b"HTTP/1.1 200\r\nContent-Length:5\r\n\r\nhello", (200, b"hello", True)),
    (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", (200, b"hello", True)),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", (200, b"hello", True)),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close\r\n\r\nhello", (200, b"hello", False)),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", (200, b"hello", False)),
    (b"HTTP/1.1 200 OK\r\n\r\nhello to the end", (200, b"hello to the end", False)),
    (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", True)),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", (304, b"", True)),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
     (201, b"", True)),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: x\r\n\r\n", (200, b"hello", True)),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (200, b"", True)),
])  # fmt: skip
async def test_an_answer_is_read_however_it_comes(data: bytes, expected: tuple[int, bytes, bool], size: int) -> None:
    for most in (1, 2, 3, 1000):
        assert await read(data, size=size, most=most) == expected


async def test_what_follows_an_answer_makes_the_connection_unusable() -> None:
    assert await read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n") == (200, b"hello", False)


async def test_the_answer_to_head_has_no_body_whatever_its_length() -> None:
    for length in (b"Content-Length: 5000", b"Transfer-Encoding: chunked"):
        assert await read(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n\r\n", "HEAD") == (200, b"", True)


async def test_headers_keep_their_values() -> None:
    data = "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nwww-authenticate:  Bearer realm=\"ä:b\" \r\nEmpty:\r\n\r\n".encode()
    _, headers = await Reader(Wire(data, 3).receive).head("GET")
    assert headers.all("WWW-Authenticate") == ("Basic", 'Bearer realm="ä:b"')
    assert headers.all("empty") == ("",)


@pytest.mark.parametrize("data", [
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    b"\x15\x03\x01\x00\x02\x02\x16\n",
    b"HTTP/2 200\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"A: " + b"b" * HEAD_LIMIT + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * HEAD_LIMIT + b"\r\n",
])  # fmt: skip
async def test_what_is_no_answer_or_can_be_read_in_two_ways_is_refused(data: bytes) -> None:
    for size in (3, 1 << 20):
        with pytest.raises(NoHttpError):
            await read(data, size=size)


@pytest.mark.parametrize("again", [b"b" * 1000, b"\r\nA: b", b"HTTP/1.1 100 \r\n\r\n"], ids=["line", "lines", "promises"])
async def test_a_head_without_end_is_not_read_on(again: bytes) -> None:
    wire = Endless(b"HTTP/1.1 200 OK\r\nA:" if again[:4] != b"HTTP" else again, again)
    with pytest.raises(NoHttpError):
        await Reader(wire.receive).head("GET")
    assert wire.given < 10 * HEAD_LIMIT


@pytest.mark.parametrize("head", [b"Content-Length: 1000000000000\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n"],
                         ids=["length", "end", "chunk"])  # fmt: skip
async def test_a_body_without_end_is_read_no_further_than_it_is_wanted(head: bytes) -> None:
    wire = Endless(b"HTTP/1.1 200 OK\r\n" + head, b"x" * 1000)
    reader = Reader(wire.receive)
    await reader.head("GET")
    got = 0
    while got < 5000:
        got += len(await reader.part(5000))
    assert got <= 10_000 and wire.given < 15_000
    assert not reader.is_whole()


@pytest.mark.parametrize(("body", "expected"), [(b"", False), (b"hel", False), (b"hello", True), (b"hello!", False)])
async def test_a_body_that_nobody_has_read_does_no_harm_if_it_is_here(body: bytes, expected: bool) -> None:
    reader = Reader(Wire(b"HTTP/1.1 307 There\r\nContent-Length: 5\r\n\r\n" + body, 1000).receive)
    await reader.head("GET")
    assert reader.is_whole() is expected


async def test_chunks_that_are_here_are_given_together_and_do_not_wait_for_others() -> None:
    wire = Wire(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n1", 1 << 20)
    reader = Reader(wire.receive)
    await reader.head("GET")
    assert await reader.part(1000) == b"hello"
    wire.left = b"\r\n!\r\n0\r\n\r\n"
    assert [await reader.part(1000), await reader.part(1000)] == [b"!", b""]
    assert reader.is_whole()


async def test_a_large_body_is_received_in_one_go() -> None:
    """It is not copied through the buffer either, which has what came with the head."""
    data = bytes(1 << 20)
    for how in (b"Content-Length: 1048576\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n100000\r\n", b"\r\n"):
        reader = Reader(Wire(b"HTTP/1.1 200 OK\r\n" + how + data + b"\r\n0\r\n\r\n", 1 << 20).receive)
        await reader.head("GET")
        first, second = await reader.part(1 << 20), await reader.part(1 << 20)
        assert len(first) < 20_000
        assert len(second) > 1_000_000


async def test_nothing_is_received_beyond_a_large_body() -> None:
    data = bytes(100_000)
    wire = Wire(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + data + b"next", 1 << 20)
    reader = Reader(wire.receive)
    await reader.head("GET")
    assert await reader.part(1 << 20) + await reader.part(1 << 20) == data
    assert (reader.is_whole(), wire.left) == (True, b"next")


async def test_a_tunnel_has_no_body() -> None:
    assert await read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "CONNECT") == (200, b"", True)
    assert await read(b"HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\nhello", "CONNECT") == (407, b"hello", True)


async def test_trailers_without_end_are_refused() -> None:
    wire = Endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n")
    reader = Reader(wire.receive)
    await reader.head("GET")
    with pytest.raises(NoHttpError):
        await reader.part(5000)


@pytest.mark.parametrize("data", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
])  # fmt: skip
async def test_a_body_that_is_cut_off_is_known_to_be(data: bytes) -> None:
    reader = Reader(Wire(data, 10).receive)
    await reader.head("GET")
    content = b""
    with pytest.raises(EarlyEndError):
        while True:
            content += await reader.part(1000)
    assert content == b"hello"


async def test_an_end_before_the_first_byte_is_told_from_one_after_it() -> None:
    for data, begun in ((b"", False), (b"HTTP/1.1 200 OK\r\n", True)):
        with pytest.raises(EarlyEndError) as raised:
            await read(data)
        assert raised.value.begun is begun


def test_a_request_is_written_as_it_is_read() -> None:
    assert head("PUT", "/v2/a?b=%2F", "host:5000", {"A": "ä"}, 3) == (
        "PUT /v2/a?b=%2F HTTP/1.1\r\nHost: host:5000\r\nA: ä\r\nContent-Length: 3\r\n\r\n".encode())  # fmt: skip
    assert b"Content-Length: 0\r\n" in head("POST", "/", "host", {}, 0)
    assert b"Content-Length" not in head("GET", "/", "host", {}, 0)


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\nb", "a\0b"])
def test_a_header_cannot_become_two(value: str) -> None:
    with pytest.raises(ValueError, match="A has a line break"):
        head("GET", "/", "host", {"A": value}, 0)


def test_a_request_for_what_cannot_be_written_quotes_it() -> None:
    assert head("GET", "/v2/a%20b?c=d:e", "host", {}, 0).startswith(b"GET /v2/a%20b?c=d:e HTTP/1.1\r\n")
    assert head("GET", "/a b/ä\r\nX: y\udcff", "host", {}, 0).startswith(b"GET /a%20b/%C3%A4%0D%0AX:%20y%FF HTTP/1.1\r\n")
    with pytest.raises(ValueError, match="Host has a line break"):
        head("GET", "/", "host\r\nX: y", {}, 0)


def test_a_body_of_unknown_length_comes_in_chunks() -> None:
    said = head("PATCH", "/", "host", {}, None)
    assert b"\r\nTransfer-Encoding: chunked\r\n" in said
    assert b"Content-Length" not in said
