"""The distribution protocol's rules: places, headers, errors."""

from __future__ import annotations

import pytest

from engine.errors import AuthError, ContentError, NotFoundError, RegistryError
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.registry.retry import TransientError
from engine.registry.rules import (
    Endpoint,
    Headers,
    acknowledged,
    asked,
    clean,
    content_start,
    endpoints,
    error_text,
    follow,
    is_loopback,
    next_page,
    origin,
    proxy_for,
    redact,
    refusal,
    says_immutable,
    speaks_tls,
    with_query,
)

HTTPS = Endpoint("https", "reg.example:5000")
DIGEST = Digest.of(b"x")


@pytest.mark.parametrize("registry", ["localhost", "localhost:5000", "127.0.0.1:80", "127.1.2.3", "[::1]:5000", "[::1]"])
def test_a_loopback_registry_speaks_http_first(registry: str) -> None:
    assert is_loopback(registry)
    assert endpoints(registry, frozenset())[0] == Endpoint("http", registry)


@pytest.mark.parametrize("registry", ["localhost.example.com", "128.0.0.1:5000", "127.0.0.1.evil.example", "registry:5000"])
def test_any_other_registry_speaks_https_and_nothing_else(registry: str) -> None:
    assert endpoints(registry, frozenset({"other:5000"})) == (Endpoint("https", registry, verify=True),)


def test_an_insecure_registry_speaks_https_with_any_certificate_or_http() -> None:
    assert endpoints("reg:5000", frozenset({"reg:5000"})) == (Endpoint("https", "reg:5000", False), Endpoint("http", "reg:5000"))


def test_docker_io_lives_elsewhere() -> None:
    assert endpoints("docker.io", frozenset())[0].base == "https://registry-1.docker.io"


def test_a_tls_port_is_known_by_its_answer_to_plain_http() -> None:
    assert speaks_tls(400, b"Client sent an HTTP request to an HTTPS server.\n")
    assert speaks_tls(400, b"<h1>400</h1>The plain HTTP request was sent to HTTPS port")
    assert not speaks_tls(200, b"Client sent an HTTP request to an HTTPS server.\n")
    assert not speaks_tls(400, b"bad")


def test_default_ports_do_not_make_another_origin() -> None:
    assert origin("https://REG.example:443/x") == origin("https://reg.example/y?z")
    assert origin("http://reg.example:443/x") != origin("https://reg.example/x")
    assert origin("https://reg.example/") != origin("https://reg.example:5000/")
    assert origin("https://user:pw@reg.example/") == ("https", "reg.example")


def test_messages_hold_no_secrets_of_a_url() -> None:
    shown = redact("https://me:pw@s3.example/b?X-Amz-Signature=SECRET&plain#frag")
    assert shown == "https://s3.example/b?X-Amz-Signature=…&plain=…"


@pytest.mark.parametrize(("location", "expected"), [
    ("/v2/a/blobs/uploads/1?_state=a%2Bb", "https://reg.example:5000/v2/a/blobs/uploads/1?_state=a%2Bb"),
    ("2?x=1", "https://reg.example:5000/v2/a/blobs/uploads/2?x=1"),
    ("https://storage.example/x?sig=1", "https://storage.example/x?sig=1"),
    ("http://reg.example:5000/v2/x", "https://reg.example:5000/v2/x"),
    ("http://reg.example/v2/x", "https://reg.example:5000/v2/x"),
    ("http://storage.example/x#frag", "http://storage.example/x"),
])  # fmt: skip
def test_locations_are_followed_and_never_downgraded(location: str, expected: str) -> None:
    assert follow("https://reg.example:5000/v2/a/blobs/uploads/", location, HTTPS) == expected


@pytest.mark.parametrize("location", ["", "ftp://x/y", "file:///etc/passwd", "http://", "http://[bad/", "http://h:999999/", "http://h:x/"])
def test_unusable_locations_are_an_error(location: str) -> None:
    with pytest.raises(RegistryError, match="unusable location"):
        follow("https://reg.example:5000/", location, HTTPS)


def test_a_query_field_is_added_without_touching_the_others() -> None:
    assert with_query("http://r/u?_state=a%2Fb", "digest", "sha256:ab") == "http://r/u?_state=a%2Fb&digest=sha256%3Aab"
    assert with_query("http://r/u", "digest", "x") == "http://r/u?digest=x"


@pytest.mark.parametrize(("links", "expected"), [
    (['</v2/a/tags/list?n=2&last=b>; rel="next"'], "/v2/a/tags/list?n=2&last=b"),
    (['<https://evil.example/v2/a/tags/list?last=b>; rel=next'], "/v2/a/tags/list?last=b"),
    (['</first>; rel="first", </second>; title="x, y"; rel="next"'], "/second"),
    (['</first>; rel="prev"'], None), (["garbage"], None), (["<http://[>; rel=next"], None), ([], None),
])  # fmt: skip
def test_the_next_page_is_a_path_on_the_same_registry(links: list[str], expected: str | None) -> None:
    assert next_page(links, "https://reg.example:5000/v2/a/tags/list") == expected


def test_ranges() -> None:
    assert content_start("bytes 100-199/200") == 100
    assert content_start("bytes 5-9/*") == 5
    assert content_start("bytes */200") is None
    assert content_start("") is None
    assert acknowledged("0-99") == 100
    assert acknowledged("bytes=0-99") == 100
    assert acknowledged("5-99") is None
    assert acknowledged("0-" + "9" * 30) is None


def test_headers_are_found_in_any_case_and_bad_ones_are_not_trusted() -> None:
    headers = Headers([("Content-Length", "12"), ("WWW-Authenticate", "a"), ("www-authenticate", "b")])
    assert (headers.length(), headers.all("Www-Authenticate"), headers.get("x")) == (12, ("a", "b"), "")
    assert Headers([("content-length", "-1")]).length() is None
    assert Headers([("docker-content-digest", str(DIGEST))]).digest() == DIGEST
    with pytest.raises(ContentError):
        Headers([("docker-content-digest", "sha256:nothex")]).digest()


def test_error_bodies_give_codes_and_words() -> None:
    body = b'{"errors":[{"code":"DENIED","message":"no","detail":{"a":1}},{"code":"TOOMANYREQUESTS","message":"slow down"}]}'
    assert error_text(body) == ({"DENIED", "TOOMANYREQUESTS"}, "DENIED: no; TOOMANYREQUESTS: slow down")
    assert error_text(b'{"details":"incorrect username"}')[1] == "incorrect username"
    assert error_text(b"plain\x1b[31m text\n")[1] == "plain [31m text"
    for useless in (b"", b"<html><body>502</body></html>", b"[]", b'{"errors":null}', b'{"errors":[1,null]}', b"7"):
        assert error_text(useless)[0] == frozenset()
    assert error_text(b"<html>x")[1] == ""


def test_foreign_texts_are_one_short_line_without_control_characters() -> None:
    assert clean("a\nb\x00\x1b]0;title\x07c") == "a b ]0;title c"
    assert len(clean("x" * 10_000)) == 401


@pytest.mark.parametrize(("status", "kind"), [
    (401, AuthError), (403, AuthError), (404, NotFoundError), (400, RegistryError), (405, RegistryError), (413, RegistryError),
    (501, RegistryError), (799, RegistryError), *((s, TransientError) for s in (408, 429, 500, 502, 503, 504, 522)),
])  # fmt: skip
def test_statuses_become_errors(status: int, kind: type[RegistryError]) -> None:
    error = refusal("reg", "GET a:1", status, Headers(), b'{"errors":[{"code":"X","message":"why"}]}', 0.0)
    assert type(error) is kind
    assert error.status == status
    assert "reg" in error.message
    assert "(GET a:1)" in error.message
    assert error.message.endswith("X: why")


def test_retry_after_is_kept_and_a_rate_limit_hints_at_logging_in() -> None:
    error = refusal("reg", "GET a:1", 429, Headers([("Retry-After", "7")]), b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', 0.0)
    assert isinstance(error, TransientError)
    assert error.retry_after == 7
    assert "docker login reg" in (error.hint or "")


def test_requests_are_named_for_people() -> None:
    assert asked("HEAD", Reference.parse("127.0.0.1:5000/app:1")) == "HEAD app:1"
    assert asked("HEAD", Reference.parse("busybox")) == "HEAD busybox:latest"
    assert asked("PUT", Reference.parse("r.io/a/b:1"), DIGEST) == f"PUT a/b@sha256:{DIGEST.short}"


def test_registries_say_in_many_ways_that_a_tag_is_immutable() -> None:
    assert says_immutable(409, "")
    assert says_immutable(412, "")
    assert says_immutable(400, "The image tag '1' already exists in the 'x' repository and cannot be overwritten because …")
    assert says_immutable(403, "DENIED: tag is immutable")
    assert not says_immutable(400, "MANIFEST_INVALID: bad json")
    assert not says_immutable(403, "DENIED: requested access to the resource is denied")


@pytest.mark.parametrize(("url", "expected"), [
    ("https://reg.example/v2/", "http://proxy:3128"),
    ("http://reg.example/v2/", "http://plain:1"),
    ("https://internal.example/v2/", None), ("https://a.internal.example:5000/v2/", None),
    ("https://notinternal.example/v2/", "http://proxy:3128"),
    ("https://ported.example:5000/v2/", None), ("https://ported.example/v2/", "http://proxy:3128"),
    ("http://127.0.0.1:5000/v2/", None), ("http://localhost/v2/", None), ("http://[::1]:5000/", None),
])  # fmt: skip
def test_proxies_are_used_unless_no_proxy_names_the_host(url: str, expected: str | None) -> None:
    environment = {"HTTPS_PROXY": "http://proxy:3128", "http_proxy": "http://plain:1",
                   "NO_PROXY": " .internal.example , ported.example:5000"}  # fmt: skip
    assert proxy_for(url, environment) == expected


def test_no_proxy_star_switches_proxies_off() -> None:
    assert proxy_for("https://reg.example/", {"ALL_PROXY": "http://p:1"}) == "http://p:1"
    assert proxy_for("https://reg.example/", {"ALL_PROXY": "http://p:1", "no_proxy": "*"}) is None
