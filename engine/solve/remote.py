"""ADD of URLs and git repositories: fetched once a build, for the key and for the step alike."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.cache.flight import SingleFlight
from engine.context.directory import DirectoryTree
from engine.context.remote import is_git_url, is_http_url
from engine.errors import CopyError
from engine.image.digest import Digest
from engine.layer.archive import scan_archive
from engine.layer.entries import Change, Entry
from engine.solve.copying.plan import CopyPlan
from engine.solve.copying.sources import Source
from engine.solve.mechanisms import Job


def is_remote(source: str) -> bool:
    """Whether a source of ADD is to be fetched from the network."""
    return is_git_url(source) or is_http_url(source)


@dataclass(frozen=True, slots=True)
class _File:
    """A downloaded file: its name in the image, where it lies, its size, time in seconds and sha256."""

    name: str
    path: Path
    size: int
    mtime: int
    digest: str


@dataclass(frozen=True, slots=True)
class _Checkout:
    """A git checkout: the directory that counts, and the commit."""

    root: Path
    commit: str


class Remotes:
    """The remote sources of one build."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._known: dict[tuple[str, str, bool | None], _File | _Checkout] = {}
        self._flight = SingleFlight()

    async def identity(self, url: str, checksum: str, keep_git_dir: bool | None) -> str:
        """What tells one content of a URL from another: a file's digest and time, or a commit."""
        fetched = await self._fetch(url, checksum, keep_git_dir)
        if isinstance(fetched, _Checkout):
            return f"git {fetched.commit}"
        return f"http {fetched.name} {fetched.digest} {fetched.mtime}"

    async def add(self, plan: CopyPlan, url: str, checksum: str, keep_git_dir: bool | None, unpack: bool | None) -> None:
        """Adds what a URL names to a copy; raises `CopyError`."""
        fetched = await self._fetch(url, checksum, keep_git_dir)
        if isinstance(fetched, _Checkout):
            tree = DirectoryTree(str(fetched.root))
            root = tree.get(b"")
            if root is None:
                raise CopyError(f"{url}: nothing is there")
            plan.add_source(tree, Source(b"", b"", root))
            return
        if unpack:
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

        got = await download(url, into, checksum=_checksum(checksum), environment=self._job.environment)
        return _File(got.name, got.path, got.size, got.mtime, str(got.digest))

    async def _git(self, url: str, into: Path, checksum: str, keep_git_dir: bool | None) -> _Checkout:
        from engine.context.git import checkout
        from engine.context.remote import parse_git_url

        parsed = parse_git_url(url)
        got = await checkout(parsed, into, keep_git_dir=bool(keep_git_dir), checksum=checksum,
                             environment=self._job.environment)
        return _Checkout(got.root, got.commit)


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
