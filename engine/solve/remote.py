"""ADD of URLs and git repositories: fetched once a build, for the key and for the step alike."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from engine.cache.base import Record
from engine.cache.flight import SingleFlight
from engine.context.directory import DirectoryTree
from engine.context.remote import is_git_url, is_http_url
from engine.errors import CopyError, StorageError
from engine.image.digest import Digest
from engine.layer.entries import Change, Entry
from engine.plan.keys import KeyBuilder
from engine.solve.copying.plan import CopyPlan
from engine.solve.copying.sources import Source
from engine.solve.mechanisms import Job


def is_remote(source: str) -> bool:
    """Whether a source of ADD is to be fetched from the network."""
    return is_git_url(source) or is_http_url(source)


class _File(Struct, frozen=True):
    """A downloaded file: its name in the image, where it lies, its size, time in seconds and sha256."""

    name: str
    path: Path
    size: int
    mtime: int
    digest: str

    @property
    def identity(self) -> str:
        return f"http {self.name} {self.digest} {self.mtime}"


class _Checkout(Struct, frozen=True):
    """A git checkout: the directory that counts, and the commit."""

    root: Path
    commit: str

    @property
    def identity(self) -> str:
        return f"git {self.commit}"


class Remotes:
    """The remote sources of one build. What a server gave, and under which ETag, is recorded in the cache: as long as it has the
    same, a step that is cached needs no bytes of it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._known: dict[tuple[str, str, bool | None], _File | _Checkout] = {}
        self._promised: dict[str, Mapping[str, str]] = {}
        """Downloads by URL that were identified without their bytes; those that come must be the same."""
        self._flight = SingleFlight()

    async def identity(self, url: str, checksum: str, keep_git_dir: bool | None) -> str:
        """What tells one content of a URL from another: a file's digest and time, or a commit."""
        if not is_git_url(url):
            if checksum:
                return f"http {_checksum(checksum)}"
            if url not in self._promised and (url, "", keep_git_dir) not in self._known:
                await self._flight.run(url, lambda: self._recall(url))
            if url in self._promised:
                return self._promised[url]["identity"]
        return (await self._fetch(url, checksum, keep_git_dir)).identity

    async def _recall(self, url: str) -> None:
        """Looks whether the server still has what it had in an earlier build."""
        from engine.context.http import unchanged

        record = await self._job.mechanisms.cache.get(_record_key(url))
        if record is not None and {"etag", "digest", "identity"} <= record.ingredients.keys() and await unchanged(
                url, record.ingredients["etag"], environment=self._job.environment):  # fmt: skip
            self._promised[url] = record.ingredients

    async def _remember(self, url: str, file: _File, etag: str) -> None:
        facts = {"etag": etag, "digest": file.digest, "identity": file.identity}
        cache, now = self._job.mechanisms.cache, self._job.mechanisms.clock()
        with suppress(StorageError):
            await cache.put(Record(_record_key(url), None, now, f"download {file.name}", facts), replace=True)

    async def add(self, plan: CopyPlan, url: str, checksum: str, keep_git_dir: bool | None, unpack: bool | None) -> None:
        """Adds what a URL names to a copy; raises `CopyError`."""
        fetched = await self._fetch(url, checksum, keep_git_dir)
        if isinstance(fetched, _Checkout):
            tree = DirectoryTree(str(fetched.root))
            root = tree.get(b"")
            if root is None:
                raise CopyError(f"{url}: nothing is there")
            plan.add_source(tree, Source(b"", b"", root))
            plan.locate(tree)
            return
        if unpack:
            from engine.layer.archive import scan_archive

            members = await self._job.mechanisms.workers.call(scan_archive, str(fetched.path), str(self._job.scratch))
            if members is not None:
                plan.add_archive(members)
                return
        entry = Entry(fetched.name.encode(), "file", 0o600, size=fetched.size, mtime=fetched.mtime * 10**9)
        plan.add_file(fetched.name.encode(), Change(entry, bytes(fetched.path)))

    async def _fetch(self, url: str, checksum: str, keep_git_dir: bool | None) -> _File | _Checkout:
        key = (url, checksum, keep_git_dir)
        if key not in self._known:
            self._known[key] = await self._flight.run(key, lambda: self._get(url, checksum, keep_git_dir))
        return self._known[key]

    async def _get(self, url: str, checksum: str, keep_git_dir: bool | None) -> _File | _Checkout:
        into = self._job.scratch / f"remote-{len(self._known)}-{abs(hash(url))}"
        into.mkdir()
        try:
            if is_git_url(url):
                return await self._git(url, into, checksum, keep_git_dir)
            return await self._http(url, into, checksum)
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise

    async def _http(self, url: str, into: Path, checksum: str) -> _File:
        from engine.context.http import download

        expected = _checksum(checksum)
        if expected is None and url in self._promised:
            expected = Digest.parse(self._promised[url]["digest"])
        got = await download(url, into, checksum=expected, environment=self._job.environment)
        file = _File(got.name, got.path, got.size, got.mtime, str(got.digest))
        if got.etag:
            await self._remember(url, file, got.etag)
        return file

    async def _git(self, url: str, into: Path, checksum: str, keep_git_dir: bool | None) -> _Checkout:
        from engine.context.git import checkout
        from engine.context.remote import parse_git_url

        parsed = parse_git_url(url)
        if None not in (keep_git_dir, parsed.keep_git_dir) and keep_git_dir != parsed.keep_git_dir:
            raise CopyError("inconsistent keep-git-dir configuration", hint="say it once: in the URL, or with --keep-git-dir")
        got = await checkout(parsed, into, keep_git_dir=bool(keep_git_dir), checksum=checksum,
                             environment=self._job.environment, secrets=self._job.secret)
        return _Checkout(got.root, got.commit)


def _record_key(url: str) -> Digest:
    """Under which the cache remembers a download."""
    return KeyBuilder("1", "download").add("url", url).digest()


def _checksum(text: str) -> Digest | None:
    """An ADD `--checksum` of a download; raises `CopyError` as BuildKit words it."""
    if not text:
        return None
    algorithm, colon, _ = text.partition(":")
    if not colon:
        raise CopyError(f"invalid checksum digest format: {text}", hint="write sha256:HEX")
    if algorithm != "sha256":
        raise CopyError(f"unsupported digest algorithm: {algorithm}", hint="write sha256:HEX")
    return Digest.parse(text)
