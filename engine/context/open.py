"""From what a user calls the build context to a `Context`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import anyio
import anyio.to_thread
from msgspec import Struct, field

from engine.context.base import Context, SubtreeContext
from engine.context.hashing import Hasher
from engine.context.local import FILE_LIMIT, DirectoryContext
from engine.context.remote import is_git_context, is_http_url, parse_git_url
from engine.context.view import remove_tree
from engine.dockerfile.ignore import IgnoreMatcher, parse_patterns
from engine.errors import ContextError
from engine.layer.base import FileTree, Subtree

if TYPE_CHECKING:
    from engine.context.git_login import Secrets


class ContextOptions(Struct, frozen=True):
    """What contexts are opened with. `scratch` is a directory for what is fetched and unpacked; each context removes its own.

    `dockerfile` is the request's, which says where the ignore file may be. `stdin` is read for the context `-`. `environment`
    gives proxies, certificates and the SSH agent to what fetches, `secrets` logins to git. A `named` context has no ignore file for
    one Dockerfile.
    """

    scratch: Path
    hasher: Hasher
    dockerfile: str | None = None
    stdin: BinaryIO | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    keep_git_dir: bool = False
    named: bool = False
    secrets: Secrets | None = None


async def open_context(spec: str, options: ContextOptions) -> Context:
    """Opens a directory, a tar file (compressed or not), `-` (a tar, or a Dockerfile alone, on standard input), a git repository
    or an http URL (a tar, or a Dockerfile alone).

    Only local directories have ignore files, and only for them the Dockerfile may be elsewhere. A Dockerfile may also be an http
    URL. Raises `ContextError`, `CopyError` when something cannot be fetched.
    """
    context = await _open(spec, options)
    if options.dockerfile is None or not is_http_url(options.dockerfile):
        return context
    try:
        text = await _fetch_small(options.dockerfile, options)
        if isinstance(context, SubtreeContext):
            return _RemoteDockerfileWithSubtrees(context, options.dockerfile, text)
        return _RemoteDockerfile(context, options.dockerfile, text)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await context.aclose()
        raise


async def _open(spec: str, options: ContextOptions) -> Context:
    if is_git_context(spec) and not os.path.isdir(spec):
        return await _git(spec, options)
    if is_http_url(spec):
        return await _in_scratch(spec, options)
    if spec == "-":
        return await _in_scratch(spec, options)
    path = Path(spec)
    if path.is_dir():
        dockerfile = None if options.dockerfile is not None and is_http_url(options.dockerfile) else options.dockerfile
        return DirectoryContext(spec, options.hasher, options.scratch, dockerfile=dockerfile, read_rules=_read_rules,
                                named=options.named)
    if path.is_file():
        return await _in_scratch(spec, options)
    raise ContextError(f"unable to prepare context: path {spec!r} not found" if not path.exists() else
                       f"unable to prepare context: {spec!r} is neither a directory nor a tar file")


def _read_rules(data: bytes) -> IgnoreMatcher:
    return IgnoreMatcher(parse_patterns(data))


def _own(prefix: str, options: ContextOptions) -> Path:
    """A new directory for one context."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix=prefix, dir=options.scratch))


async def _git(spec: str, options: ContextOptions) -> Context:
    from engine.context.git import checkout

    url = parse_git_url(spec)
    own = _own("git-", options)
    try:
        found = await checkout(url, own, keep_git_dir=options.keep_git_dir, environment=options.environment,
                               secrets=options.secrets)
        return DirectoryContext(str(found.root), options.hasher, options.scratch, foreign=True, owned=own)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove_tree, own)
        raise


async def _in_scratch(spec: str, options: ContextOptions) -> Context:
    """A tar, or a Dockerfile alone, that has to be looked at to know which."""
    from engine.context.archive import ArchiveContext, open_archive

    own = _own("context-", options)
    try:
        path = await _get(spec, own, options)
        tree = await anyio.to_thread.run_sync(open_archive, path, own)
        if tree is not None:
            return ArchiveContext(tree, options.scratch, [own])
        if spec == "-" or is_http_url(spec):
            from engine.context.empty import EmptyContext

            context = EmptyContext(_text(path, spec))
            await anyio.to_thread.run_sync(remove_tree, own)
            return context
        raise ContextError(f"unable to prepare context: {spec!r} is neither a directory nor a tar file")
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove_tree, own)
        raise


async def _get(spec: str, own: Path, options: ContextOptions) -> Path:
    """The file that is meant, on disk."""
    if is_http_url(spec):
        from engine.context.http import download

        return (await download(spec, own, environment=options.environment)).path
    if spec != "-":
        return Path(spec)
    if options.stdin is None:
        raise ContextError("the build context is standard input, but there is none", hint="pipe a tar or a Dockerfile into it")
    path = own / "stdin"
    await anyio.to_thread.run_sync(_spool, options.stdin, path, abandon_on_cancel=True)
    return path


def _spool(stream: BinaryIO, path: Path) -> None:
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    except OSError as error:
        raise ContextError(f"cannot read the build context from standard input: {error.strerror or error}") from error


def _text(path: Path, spec: str) -> bytes:
    if path.stat().st_size > FILE_LIMIT:
        raise ContextError(f"{'standard input' if spec == '-' else spec} is no tar, and too long for a Dockerfile")
    return path.read_bytes()


async def _fetch_small(url: str, options: ContextOptions) -> bytes:
    from engine.context.http import download

    own = _own("dockerfile-", options)
    try:
        return _text((await download(url, own, environment=options.environment)).path, url)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove_tree, own)


class _RemoteDockerfile:
    """A context whose Dockerfile is at a URL. Everything else is the context's own."""

    def __init__(self, context: Context, url: str, text: bytes) -> None:
        self._context = context
        self._url = url
        self._text = text
        self.tree: FileTree = context.tree
        self.rules = context.rules

    def dockerfile(self, path: str | None) -> tuple[str, bytes] | None:
        return (self._url, self._text) if path == self._url else self._context.dockerfile(path)

    async def digests(self, paths: Sequence[bytes]) -> dict[bytes, str]:
        return await self._context.digests(paths)

    async def directory(self, path: bytes) -> str | None:
        return await self._context.directory(path)

    async def aclose(self) -> None:
        await self._context.aclose()


class _RemoteDockerfileWithSubtrees(_RemoteDockerfile):
    """The same over a context with subtrees."""

    def __init__(self, context: SubtreeContext, url: str, text: bytes) -> None:
        super().__init__(context, url, text)
        self._below = context

    async def digest_below(self, subtree: Subtree) -> Callable[[], Awaitable[None]]:
        return await self._below.digest_below(subtree)

    def learn(self, files: Mapping[bytes, bytes], subtrees: Sequence[tuple[Subtree, bytes]]) -> None:
        self._below.learn(files, subtrees)

    async def keep(self, files: Iterable[bytes], subtrees: Sequence[Subtree], read_after: int) -> None:
        await self._below.keep(files, subtrees, read_after)
