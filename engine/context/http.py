"""Downloading a file over HTTP, for ADD and for contexts."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import anyio
from msgspec import Struct

from engine.content.faults import storage_error
from engine.errors import CopyError
from engine.image.digest import Digest

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

UNNAMED = "__unnamed__"
"""The name of what is downloaded from a URL whose path has none."""

ATTEMPTS = 4
_REDIRECTS = 10
_CHUNK = 1 << 18
_PAUSE = 0.2
_AGENT = "aniko"


class Downloaded(Struct, frozen=True):
    """A file that was downloaded. `mtime` is what the server says (Last-Modified) in seconds since the epoch, and 0 if it says
    nothing, as with BuildKit."""

    path: Path
    name: str
    size: int
    mtime: int
    digest: Digest
    etag: str = ""


def file_name(url: str) -> str:
    """The name that a download has in the image: the last part of the URL's path. The query does not count."""
    base = posixpath.basename(unquote(urlsplit(url).path).rstrip("/"))
    return base if base not in ("", ".", "..") and "\0" not in base else UNNAMED


async def download(url: str, into: Path, *, checksum: Digest | None = None, known: Downloaded | None = None,
                   environment: Mapping[str, str] | None = None) -> Downloaded:
    """Downloads a URL to a file in the directory `into`.

    The content must have the digest `checksum`. With `known`, an earlier download of the same URL, the server is asked by its
    ETag whether there is something new, and if not `known` is the result. `environment` has proxies. Raises `CopyError` for
    what the server refuses or does not send whole, `StorageError` when the disk is full.
    """
    async with _session() as session:
        proxy = _proxy(url, environment or {})
        if known is not None and known.etag and known.path.exists() and await _unchanged(session, url, known.etag, proxy):
            found = known
        else:
            found = await _patiently(session, url, into / "download", proxy)
    if checksum is not None and found.digest != checksum:
        raise CopyError(f"digest mismatch for {_redacted(url)}: {found.digest} (expected: {checksum})",
                        hint="the server has another file than the one the checksum was made of")
    return found


async def unchanged(url: str, etag: str, *, environment: Mapping[str, str] | None = None) -> bool:
    """Whether a server still has under a URL what it had by an ETag; False in doubt. `environment` has proxies."""
    async with _session() as session:
        return await _unchanged(session, url, etag, _proxy(url, environment or {}))


@asynccontextmanager
async def _session() -> AsyncIterator[ClientSession]:
    from engine.context.aio import aiohttp  # here: most builds download nothing, and it takes long to import

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    async with aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": _AGENT, "Accept-Encoding": "gzip"}) as session:
        yield session


async def _unchanged(session: ClientSession, url: str, etag: str, proxy: str | None) -> bool:
    from engine.context.aio import aiohttp

    try:
        async with session.head(url, headers={"If-None-Match": etag}, allow_redirects=True, proxy=proxy) as response:
            if response.status == 304:
                return response.headers.get("ETag", etag) == etag
            return response.status == 200 and response.headers.get("ETag") == etag
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


async def _patiently(session: ClientSession, url: str, path: Path, proxy: str | None) -> Downloaded:
    """Tries again what may have been an accident: lost connections, overloaded servers, bodies cut short."""
    from engine.context.aio import aiohttp

    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with session.get(url, max_redirects=_REDIRECTS, proxy=proxy) as response:
                if response.status >= 400:
                    if attempt < ATTEMPTS and (response.status >= 500 or response.status == 429):
                        await anyio.sleep(_PAUSE * 2**attempt)
                        continue
                    raise CopyError(f"{_redacted(url)}: invalid response status {response.status}")
                return await _save(url, response, path)
        except (aiohttp.InvalidURL, aiohttp.TooManyRedirects) as error:
            raise CopyError(f"{_redacted(url)}: {type(error).__name__}") from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            if attempt == ATTEMPTS:
                raise CopyError(f"{_redacted(url)}: {error or type(error).__name__}", hint="is the server reachable?") from error
        await anyio.sleep(_PAUSE * 2**attempt)
    raise AssertionError


async def _save(url: str, response: ClientResponse, path: Path) -> Downloaded:
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("wb") as file:
            async for data in response.content.iter_chunked(_CHUNK):
                digest.update(data)
                file.write(data)
                size += len(data)
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        raise storage_error(error, path) from error
    return Downloaded(path, file_name(url), size, _modified(response.headers.get("Last-Modified", "")),
                      Digest("sha256", digest.hexdigest()), response.headers.get("ETag", ""))


def _modified(text: str) -> int:
    try:
        return max(0, int(parsedate_to_datetime(text).timestamp()))
    except (ValueError, TypeError, OverflowError):
        return 0


def _proxy(url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy for a URL, by the usual variables in either case."""
    lower = {name.lower(): value for name, value in environment.items() if name.lower().endswith("_proxy")}
    parts = urlsplit(url)
    host = parts.hostname or ""
    for name in (part.strip().lower().lstrip(".") for part in lower.get("no_proxy", "").split(",")):
        if name and (name == "*" or host == name or host.endswith("." + name)):
            return None
    return lower.get(f"{parts.scheme}_proxy") or lower.get("all_proxy") or None


def _redacted(url: str) -> str:
    """A URL without its password."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":xxxxx@")).geturl()
